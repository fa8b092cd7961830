"""The comparison of two versions of a query by the clauses that decide which rows it returns."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot import exp

_CLAUSES = {
    "from": "FROM",
    "from_": "FROM",
    "joins": "JOIN",
    "laterals": "LATERAL",
    "where": "WHERE",
    "group": "GROUP BY",
    "having": "HAVING",
    "qualify": "QUALIFY",
    "distinct": "DISTINCT",
    "limit": "LIMIT",
    "offset": "OFFSET",
}


def different_clauses(old: exp.Query, new: exp.Query) -> list[str]:
    """Return the kinds of clauses in which two queries differ. The selected expressions are not compared."""
    before = _clauses(old)
    after = _clauses(new)
    different = (before - after) + (after - before)
    return sorted({kind for kind, _ in different})


def _clauses(query: exp.Query) -> Counter[tuple[str, str]]:
    """Count the clauses of a query and its subqueries by kind and normalized SQL."""
    from sqlglot import exp

    found: Counter[tuple[str, str]] = Counter()
    for select in query.find_all(exp.Select):
        for name, kind in _CLAUSES.items():
            value = select.args.get(name) or []
            parts = value if isinstance(value, list) else [value]
            for part in parts:
                text = part.sql(comments=False, normalize=True) if hasattr(part, "sql") else ""
                found[kind, text] += 1
        if any(_changes_row_count(item) for item in select.expressions):
            found["aggregation", ""] += 1
    for operation in query.find_all(exp.SetOperation):
        found["set operation", f"{type(operation).__name__} {operation.args.get('distinct')}"] += 1
    return found


def _changes_row_count(item: exp.Expr) -> bool:
    """Return True if a selected expression aggregates many rows into one, or expands one row into many."""
    from sqlglot import exp

    for function in item.find_all(exp.AggFunc, exp.UDTF):
        in_window = isinstance(function.parent, (exp.Window, exp.IgnoreNulls))
        if not in_window and function.parent_select is item.parent_select:
            return True
    return False
