"""Do two versions of a query give the same rows, as far as their clauses tell? What they select is another matter."""

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
    """The kinds of clauses, other than what is selected, in which two queries differ."""
    before, after = _clauses(old), _clauses(new)
    return sorted({kind for kind, _ in ((before - after) + (after - before))})


def _clauses(query: exp.Query) -> Counter[tuple[str, str]]:
    from sqlglot import exp

    found: Counter[tuple[str, str]] = Counter()
    for select in query.find_all(exp.Select):
        for name, kind in _CLAUSES.items():
            value = select.args.get(name)
            for part in value if isinstance(value, list) else [value] if value else []:
                found[kind, part.sql(comments=False, normalize=True) if hasattr(part, "sql") else ""] += 1
        if any(_aggregates(item) for item in select.expressions):
            found["aggregation", ""] += 1
    for operation in query.find_all(exp.SetOperation):
        found["set operation", f"{type(operation).__name__} {operation.args.get('distinct')}"] += 1
    return found


def _aggregates(item: exp.Expr) -> bool:
    """Whether a selected expression makes one row of many, or many of one."""
    from sqlglot import exp

    some = (f for f in item.find_all(exp.AggFunc, exp.UDTF) if not isinstance(f.parent, (exp.Window, exp.IgnoreNulls)))
    return any(f.parent_select is item.parent_select for f in some)
