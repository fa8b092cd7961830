"""The author's own SQL: which columns of the model it names, and whether it is what it must be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ModelNotFoundError, SpecError
from airflow_reverse_etl.sync.ports import Column
from airflow_reverse_etl.sync.spec import Sync, nearest

if TYPE_CHECKING:
    from sqlglot import exp


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


def single_select(query: str, source: str, sync: Sync) -> str:
    """The query without a closing semicolon. Anything that is not one SELECT would change what the statement means."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        tokens = sqlglot.tokenize(query, read=source)
    except SqlglotError as error:
        tokens, reason = [], str(error).splitlines()[0]
    else:
        reason = "it is empty" if not tokens else "it is not a SELECT"
    kinds = [token.token_type.name for token in tokens]
    ends = [at for at, kind in enumerate(kinds) if kind == "SEMICOLON"]
    last = ends[0] if ends else len(tokens)
    if len(ends) < len(kinds) - last:
        reason = "it has several statements"
    elif last and kinds[0] in {"SELECT", "WITH", "L_PAREN", "VALUES", "FROM"} and _balanced(kinds[:last]):
        return query[: tokens[last].start] if ends else query
    raise SpecError(f"the model's query cannot be used: {reason}", todo="give one SELECT statement", sync=sync.name)


def _balanced(kinds: Sequence[str]) -> bool:
    """No parenthesis closes what the query did not open."""
    depths = list(accumulate({"L_PAREN": 1, "R_PAREN": -1}.get(kind, 0) for kind in kinds))
    return min(depths) >= 0 and depths[-1] == 0


def expression(where: str, text: str, used: UsedColumns, *, source: str, planner: str) -> str:
    """An expression over the model's columns, from the source's dialect to the planner's."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        select = sqlglot.parse_one(f"SELECT (\n{text}\n)", read=source)
        [parsed] = select.expressions
    except (SqlglotError, ValueError, AttributeError):
        used.problems.append(f"{where}: not an expression in the SQL of {source}")
        return "NULL"
    forbidden = parsed.find(exp.Query, exp.AggFunc, exp.Window, exp.Star, exp.Alias)
    clauses = any(value for name, value in select.args.items() if name != "expressions")
    if forbidden or clauses or isinstance(parsed, exp.Tuple):
        used.problems.append(f"{where}: must be one expression over a row's columns, without aggregates and queries")
        return "NULL"
    resolved = parsed.transform(lambda node: _resolve(node, used) if isinstance(node, exp.Column) else node)
    return str(resolved.sql(dialect=planner))


def _resolve(column: exp.Column, used: UsedColumns) -> exp.Expression:
    """``a`` is a column, ``a.b`` a field of a column."""
    from sqlglot import exp

    first, *rest = column.parts
    resolved = exp.column(used.column(first.name))
    return exp.Dot.build([resolved, *(part.copy() for part in rest)]) if rest else resolved
