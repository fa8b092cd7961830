"""The author's expressions: which columns of the model they name, and whether they are what they must be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ModelNotFoundError, SpecError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.problems import nearest
from airflow_reverse_etl.sql.read_only import written

if TYPE_CHECKING:
    from sqlglot import exp

#: Functions that make any number of rows of one, none included, in some dialect …
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
#: … and those that have one value for each row in a dialect.
_SCALAR = {
    "duckdb": frozenset({"generate_series", "regexp_matches", "flatten"}),
    **dict.fromkeys(
        ("athena", "clickhouse", "databricks", "hive", "presto", "spark", "spark2", "trino"), frozenset({"flatten"})
    ),
}


class UsedColumns:
    """Resolves names to columns of the model, each extracted once as ``c0``, ``c1`` …; gathers problems."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = [column.name for column in columns]
        self.found: dict[str, str] = {}
        self.missing: list[str] = []
        self.problems: list[str] = []

    def column(self, name: str) -> str:
        """Exact name first, else the only one that differs in case alone."""
        near = [known for known in self._columns if known.lower() == name.lower()]
        if name in self._columns or len(near) == 1:
            return self.found.setdefault(name if name in self._columns else near[0], f"c{len(self.found)}")
        text = f"{name!r} (which of {', '.join(near)}?)" if near else f"{name!r}{nearest(name, self._columns)}"
        if text not in self.missing:
            self.missing.append(text)
        return "NULL"

    def check(self, sync: Sync) -> None:
        if self.missing:
            raise ModelNotFoundError(
                f"the model lacks {len(self.missing)} of the columns that the sync uses: {', '.join(self.missing)}",
                todo="correct the names in the sync, or add the columns to the model and build it",
                model=sync.model if isinstance(sync.model, str) else None,
                sync=sync.name,
            )
        if self.problems:
            raise SpecError(
                "the sync's expressions cannot be used",
                problems=tuple(self.problems),
                todo="correct them",
                sync=sync.name,
            )


def expression(where: str, text: str, used: UsedColumns, *, source: str, planner: str) -> str:
    """An expression over the model's columns, from the source's dialect to the planner's."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        [select] = filter(None, sqlglot.parse(f"SELECT (\n{text}\n)", read=source))
        [parsed] = select.expressions
    except (SqlglotError, ValueError, AttributeError):
        used.problems.append(f"{where}: not an expression in the SQL of {source}")
        return "NULL"
    forbidden = parsed.find(exp.Query, exp.AggFunc, exp.Window, exp.Star, exp.Alias)
    clauses = any(value for name, value in select.args.items() if name != "expressions")
    if forbidden or clauses or isinstance(parsed, exp.Tuple) or written(parsed):
        used.problems.append(f"{where}: must be one expression over a row's columns, without aggregates and queries")
        return "NULL"
    if name := _set_returning(parsed, text, source):
        used.problems.append(f"{where}: {name} makes several rows of one, or none: use it in the model")
        return "NULL"
    resolved = parsed.transform(lambda node: _resolve(node, used) if isinstance(node, exp.Column) else node)
    return str(resolved.sql(dialect=planner))


def _set_returning(parsed: exp.Expression, text: str, source: str) -> str:
    """A function in an expression that may not have one value for each row; empty if there is none."""
    import sqlglot
    from sqlglot import exp

    names = _SET_RETURNING - _SCALAR.get(source, frozenset())
    tokens = sqlglot.tokenize(f"({text})", read=source)
    for (before, token), (_, after) in pairwise(pairwise(tokens)):
        # BigQuery's `x IN UNNEST(list)` is a condition
        called = after.token_type.name == "L_PAREN" and before.token_type.name != "IN"
        if called and token.text.lower() in names:
            return token.text.lower()
    # what sqlglot knows under other names
    found = next((node for node in parsed.find_all(exp.UDTF) if not isinstance(node.parent, exp.In)), None)
    return type(found).__name__.lower() if found else ""


def _resolve(column: exp.Column, used: UsedColumns) -> exp.Expression:
    """``a`` is a column, ``a.b`` a field of a column."""
    from sqlglot import exp

    first, *rest = column.parts
    resolved = exp.column(used.column(first.name))
    return exp.Dot.build([resolved, *(part.copy() for part in rest)]) if rest else resolved
