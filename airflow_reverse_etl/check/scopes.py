"""Scopes of queries, as sqlglot finds them: what a scope reads, and which scopes only pass rows on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

# Parts of a SELECT that leave each row of its table as one row.
_HARMLESS = frozenset({"expressions", "from", "from_", "with", "with_", "order", "hint", "kind"})
_PLAIN_TABLE = frozenset({"this", "db", "catalog", "alias"})


def branches(scope: Scope) -> list[Scope]:
    """Return the scopes of a set operation's queries; empty for any other query."""
    # Before sqlglot 30 the attribute was named union_scopes.
    return getattr(scope, "set_operation_scopes", None) or getattr(scope, "union_scopes", None) or []


def source_of(scope: Scope, alias: str) -> exp.Table | Scope | None:
    """Return the table or query that an alias stands for, in a scope or in one around it."""
    inner: Scope | None = scope
    while inner is not None:
        found = inner.selected_sources.get(alias)
        if found:
            return found[1]
        inner = inner.parent
    return scope.sources.get(alias)


def passed_on(scope: Scope) -> tuple[exp.Expr, exp.Table | Scope] | None:
    """Return what a scope reads, with the place where it does, if it returns each of its rows as one row.

    :returns: None if it filters, joins, groups, limits, expands or aggregates, or reads something else as well.
    """
    from sqlglot import exp

    query = scope.expression
    if not isinstance(query, exp.Select):
        return None
    given = {name for name, value in query.args.items() if value}
    if given - _HARMLESS or len(scope.selected_sources) != 1 or scope.subquery_scopes:
        return None
    if any(changes_row_count(item) for item in query.expressions):
        return None
    (found,) = scope.selected_sources.values()
    return found if is_plain(found[0]) else None


def is_plain(place: exp.Expr) -> bool:
    """Return True if a query reads a table or another query as it is: no pivot, no sample, no earlier version."""
    from sqlglot import exp

    if isinstance(place, exp.Query) and not isinstance(place, exp.Subquery):
        return True
    if not isinstance(place, exp.Table | exp.Subquery):
        return False
    alias = place.args.get("alias")
    names_columns = alias is not None and bool(alias.args.get("columns"))
    return not names_columns and all(not value or name in _PLAIN_TABLE for name, value in place.args.items())


def repeated(scope: Scope) -> Mapping[str, str]:
    """Return a mark for each alias, but the first, of what a scope reads several times, by the order of the aliases."""
    origins = {alias: _origin(source) for alias, (_, source) in scope.selected_sources.items()}
    times = Counter(origins.values())
    marks: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for alias, origin in origins.items():
        if times[origin] > 1 and seen[origin]:
            marks[alias] = f" #{seen[origin]}"
        seen[origin] += 1
    return marks


def _origin(source: exp.Table | Scope) -> str:
    from sqlglot import exp

    while not isinstance(source, exp.Table):
        found = passed_on(source)
        if found is None:
            return str(id(source))
        source = found[1]
    return table_text(source)


def table_text(table: exp.Table) -> str:
    """Return the full name of a table."""
    return ".".join(part.name for part in table.parts)


def changes_row_count(item: exp.Expr) -> bool:
    """Return True if a selected expression aggregates many rows into one, or expands one row into many."""
    from sqlglot import exp

    for function in item.find_all(exp.AggFunc, exp.UDTF):
        in_window = isinstance(function.parent, (exp.Window, exp.IgnoreNulls))
        if not in_window and function.parent_select is item.parent_select:
            return True
    return False
