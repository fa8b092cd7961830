"""Places in a statement where values of types meet that do not go together, so that a warehouse may refuse it.

Warehouses convert more or less; whether one does is not known here. Unknown types conflict with nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.check.lineage import ColumnLineage, family, type_of
from airflow_reverse_etl.check.scopes import branches

if TYPE_CHECKING:
    from sqlglot import exp

_PLAIN = ("text", "number", "boolean", "date", "timestamp")
_CASTS = (
    *(("date", "timestamp"), ("timestamp", "date"), ("number", "boolean"), ("boolean", "number")),
    *((name, "text") for name in _PLAIN),
    *(("text", name) for name in _PLAIN),
)
# A text that counts as a date or timestamp, such as Postgres' words.
_DATE = re.compile(r"(?i)\s*(\d{4}-?\d|now|today|tomorrow|yesterday|epoch|-?infinity)")
# Dialects in which dates and timestamps do not compare.
_STRICT_DATES = ("bigquery",)
# Dialects in which ``||`` joins texts with nothing but texts.
_STRICT_JOINS = ("bigquery",)
# Dialects without MAX and MIN of booleans.
_NO_MAX = ("postgres", "redshift")


def conflicts(statement: ColumnLineage) -> set[tuple[str, str]]:
    """Return each conflict: what meets, and the SQL in which it does."""
    reader = _Reader(statement.resolver.project.dialect)
    found: set[tuple[str, str]] = set()
    tree = statement.scope.expression
    for node in tree.walk():
        found |= {(text, node.sql(comments=False)) for text in reader.of(node)}
    for scope in statement.scope.traverse():
        queries = [one.expression for one in branches(scope)]
        found |= {(text, "set operation") for text in reader.of_branches(queries)}
    return found


class _Reader:
    def __init__(self, dialect: str | None) -> None:
        from sqlglot import exp

        self._dialect = dialect
        compares = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
        self._readers: list[tuple[Any, Callable[[Any], Iterator[str]]]] = [
            (exp.Cast, self._cast),
            (compares, lambda node: self._common([node.this, node.expression])),
            (exp.Between, lambda node: self._common([node.this, node.args["low"], node.args["high"]])),
            (exp.In, self._in),
            (exp.Coalesce, lambda node: self._common([node.this, *node.expressions])),
            (exp.Case, self._case),
            (exp.DPipe, self._joined),
            ((exp.Add, exp.Sub, exp.Mul, exp.Div), self._arithmetic),
            ((exp.And, exp.Or), lambda node: self._all("boolean", [node.this, node.expression])),
            ((exp.Max, exp.Min), self._greatest),
            ((exp.DateTrunc, exp.TimestampTrunc), self._truncated),
        ]
        self._takes: dict[str, tuple[type[exp.Expr], ...]] = {
            "text": (exp.Upper, exp.Lower, exp.Trim, exp.Length, exp.Initcap),
            "number": (exp.Sum, exp.Avg, exp.Neg, exp.Abs, exp.Round),
            "boolean": (exp.Not, exp.Where, exp.Having, exp.Qualify),
        }

    def of(self, node: exp.Expr) -> Iterator[str]:
        """Yield what meets in an expression and does not go together."""
        from sqlglot import exp

        if isinstance(node, exp.TryCast):
            return
        for kinds, read in self._readers:
            if isinstance(node, kinds):
                yield from read(node)
        for name, kinds in self._takes.items():
            if isinstance(node, kinds):
                yield from self._all(name, [node.this])

    def _case(self, node: exp.Expr) -> Iterator[str]:
        values = [branch.args["true"] for branch in node.args["ifs"]]
        yield from self._common([*values, node.args.get("default")])

    def _greatest(self, node: exp.Expr) -> Iterator[str]:
        if self._dialect in _NO_MAX and self._family(node.this) == "boolean":
            yield "the greatest or least boolean"

    def _truncated(self, node: exp.Expr) -> Iterator[str]:
        found = self._family(node.this)
        if found in ("text", "number", "boolean"):
            yield f"{found} instead of a date"

    def of_branches(self, queries: list[exp.Expr]) -> Iterator[str]:
        """Yield the types that meet in a column of a set operation."""
        if len({len(getattr(query, "selects", ())) for query in queries}) > 1:
            yield "branches of different numbers of columns"
        for columns in zip(*(getattr(query, "selects", ()) for query in queries), strict=False):
            yield from self._common(list(columns))

    def _family(self, node: exp.Expr | None) -> str | None:
        found = family(type_of(node, self._dialect)) if node is not None else None
        return found if found in _PLAIN else None

    def _cast(self, node: exp.Cast) -> Iterator[str]:
        before = self._family(node.this)
        after = family(node.to.sql(self._dialect))
        if before and after in _PLAIN and before != after and (before, after) not in _CASTS:
            yield f"{before} cast to {after}"

    def _common(self, nodes: list[exp.Expr | None]) -> Iterator[str]:
        # A text constant takes the type that is expected, if it has the form.
        constants = [node for node in nodes if node is not None and node.is_string]
        families = {self._family(node) for node in nodes if node not in constants} - {None}
        are_dates = families & {"date", "timestamp"} and all(_DATE.match(node.name) for node in constants)
        if constants and not are_dates:
            families.add("text")
        if self._dialect not in _STRICT_DATES and "timestamp" in families:
            families.discard("date")
        if len(families) > 1:
            yield " with ".join(sorted(str(name) for name in families))

    def _in(self, node: exp.In) -> Iterator[str]:
        from sqlglot import exp

        query = node.args.get("query")
        if query is None:
            yield from self._common([node.this, *node.expressions])
            return
        selects = getattr(query.unnest(), "selects", ())
        if len(selects) == 1:
            yield from self._common([node.this, *selects])
        elif selects and not isinstance(node.this.unnest(), exp.Tuple):
            yield "several columns after IN"

    def _joined(self, node: exp.DPipe) -> Iterator[str]:
        families = [self._family(node.this), self._family(node.expression)]
        if self._dialect in _STRICT_JOINS or "text" not in families:
            yield from self._all("text", [node.this, node.expression])

    def _arithmetic(self, node: exp.Binary) -> Iterator[str]:
        for operand in (node.this, node.expression):
            found = self._family(operand)
            if found in ("text", "boolean"):
                yield f"{found} instead of number"

    def _all(self, name: str, nodes: list[exp.Expr]) -> Iterator[str]:
        for node in nodes:
            found = self._family(node)
            if found and found != name:
                yield f"{found} instead of {name}"
