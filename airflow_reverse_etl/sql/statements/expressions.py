"""Expressions that an author wrote: resolved to the model's columns, and checked to be expressions over one row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ModelNotFoundError, SpecError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.problems import nearest
from airflow_reverse_etl.sql.dialects.registry import dialect_of
from airflow_reverse_etl.sql.read_only import jinja_problem, writing_part

if TYPE_CHECKING:
    from sqlglot import exp

#: Functions that return any number of rows for one row, including none, in some dialect.
_SET_RETURNING = frozenset(
    (
        # Postgres and Redshift; DuckDB has some of them
        *("unnest", "unlist", "generate_series", "generate_subscripts", "_pg_expandarray", "aclexplode"),
        *("regexp_matches", "regexp_split_to_table", "string_to_table", "each", "skeys", "svals"),
        *("json_array_elements", "json_array_elements_text", "jsonb_array_elements", "jsonb_array_elements_text"),
        *("json_each", "json_each_text", "jsonb_each", "jsonb_each_text", "json_object_keys", "jsonb_object_keys"),
        *("json_populate_recordset", "jsonb_populate_recordset", "json_to_recordset", "jsonb_to_recordset"),
        *("jsonb_path_query", "jsonb_path_query_tz", "ts_parse", "ts_debug", "ts_stat"),
        # Spark, Databricks and Hive
        *("explode", "explode_outer", "posexplode", "posexplode_outer", "inline", "inline_outer", "stack"),
        *("json_tuple", "parse_url_tuple", "variant_explode", "variant_explode_outer"),
        # Snowflake; ClickHouse
        *("flatten", "split_to_table", "strtok_split_to_table", "arrayjoin"),
    )
)


class UsedColumns:
    """The columns of the model that a sync uses, each extracted once as ``c0``, ``c1`` …, and the problems found."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = [column.name for column in columns]
        self.found: dict[str, str] = {}
        self.missing: list[str] = []
        self.problems: list[str] = []

    def column(self, name: str) -> str:
        """Return the alias of a column, and NULL for a missing one.

        The exact name comes first, then the only name that differs in case alone.
        """
        near = [known for known in self._columns if known.lower() == name.lower()]
        if name in self._columns:
            return self._alias(name)
        if len(near) == 1:
            return self._alias(near[0])
        hint = f" (which of {', '.join(near)}?)" if near else nearest(name, self._columns)
        text = f"{name!r}{hint}"
        if text not in self.missing:
            self.missing.append(text)
        return "NULL"

    def _alias(self, name: str) -> str:
        return self.found.setdefault(name, f"c{len(self.found)}")

    def check(self, sync: Sync) -> None:
        """Raise the problems found so far.

        :raises ModelNotFoundError: columns are missing; names all of them.
        :raises SpecError: expressions have problems; lists all of them.
        """
        if self.missing:
            model = sync.model if isinstance(sync.model, str) else None
            raise ModelNotFoundError(
                f"the model lacks {len(self.missing)} of the columns that the sync uses: {', '.join(self.missing)}",
                todo="correct the names in the sync, or add the columns to the model and build it",
                model=model,
                sync=sync.name,
            )
        if self.problems:
            raise SpecError(
                "the sync's expressions cannot be used",
                problems=tuple(self.problems),
                todo="correct the expressions listed below",
                sync=sync.name,
            )


def expression(where: str, text: str, used: UsedColumns, *, source: str, planner: str) -> str:
    """Translate an expression over the model's columns from the source's dialect to the planner's.

    A problem is added to ``used``, and NULL returned.

    :param where: key of the expression in the sync, which a problem names.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    if problem := jinja_problem(text, source):
        used.problems.append(f"{where}: {problem}")
        return "NULL"
    try:
        [select] = filter(None, sqlglot.parse(f"SELECT (\n{text}\n)", read=source))
        [parsed] = select.expressions
    except (SqlglotError, ValueError, AttributeError, RecursionError):
        used.problems.append(f"{where}: not an expression in the SQL of {source}")
        return "NULL"
    forbidden = parsed.find(exp.Query, exp.AggFunc, exp.Window, exp.Star, exp.Alias)
    clauses = any(value for name, value in select.args.items() if name != "expressions")
    if forbidden or clauses or isinstance(parsed, exp.Tuple) or writing_part(parsed):
        used.problems.append(f"{where}: must be one expression over a row's columns, without aggregates and queries")
        return "NULL"
    if name := _set_returning(parsed, text, source):
        used.problems.append(f"{where}: {name} returns several rows for one, or none: use it in the model")
        return "NULL"
    resolved = parsed.transform(lambda node: _resolve(node, used) if isinstance(node, exp.Column) else node)
    return str(resolved.sql(dialect=planner))


def _set_returning(parsed: exp.Expression, text: str, source: str) -> str:
    """Return the name of a function that may return any number of rows for one; empty without such a function."""
    import sqlglot
    from sqlglot import exp

    names = _SET_RETURNING - dialect_of(source).scalar_functions
    tokens = sqlglot.tokenize(f"({text})", read=source)
    for (before, token), (_, after) in pairwise(pairwise(tokens)):
        # BigQuery's `x IN UNNEST(list)` is a condition
        called = after.token_type.name == "L_PAREN" and before.token_type.name != "IN"
        if called and token.text.lower() in names:
            return token.text.lower()
    # functions that sqlglot parses under another name
    found = next((node for node in parsed.find_all(exp.UDTF) if not isinstance(node.parent, exp.In)), None)
    return type(found).__name__.lower() if found else ""


def _resolve(column: exp.Column, used: UsedColumns) -> exp.Expression:
    """Replace a column's name by its alias. ``a`` is a column, ``a.b`` a field of a column."""
    from sqlglot import exp

    first, *rest = column.parts
    resolved = exp.column(used.column(first.name))
    return exp.Dot.build([resolved, *(part.copy() for part in rest)]) if rest else resolved
