"""The comparison of two versions of a query by what decides which rows it returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from airflow_reverse_etl.check.lineage import ColumnLineage, branches

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

# Parts of SELECT that do not decide which rows it returns, or do so together with others only.
_NOT_COMPARED = ("expressions", "with", "with_", "hint", "order", "kind", "group")
_NAMES = {"from": "FROM", "from_": "FROM", "joins": "JOIN", "laterals": "LATERAL"}


def different_clauses(old: ColumnLineage, new: ColumnLineage) -> list[str]:
    """Return the kinds of clauses in which two queries differ.

    Columns in them are compared by their lineage. Selected expressions count if they decide about rows: with
    DISTINCT, in a set operation, with GROUP BY ALL, in a subquery of a condition.
    """
    before = Counter(_clauses(old))
    after = Counter(_clauses(new))
    different = (before - after) + (after - before)
    kinds = sorted({kind for kind, _ in different})
    if not kinds and _shape(old, old.scope, {}) != _shape(new, new.scope, {}):
        return ["its subqueries"]
    return kinds


def _clauses(lineage: ColumnLineage) -> Iterator[tuple[str, str]]:
    for scope in lineage.scope.traverse():
        yield from _own_clauses(lineage, scope)


def _shape(lineage: ColumnLineage, scope: Scope, known: dict[int, str]) -> str:
    """Return the clauses of a scope together with those of each query that it reads, as a text.

    :param known: texts of the scopes so far, by the ids of these.
    """
    from sqlglot.optimizer.scope import Scope

    if id(scope) not in known:
        known[id(scope)] = "itself"  # a recursive CTE reads itself
        inner = [source for source in scope.sources.values() if isinstance(source, Scope)]
        nested = [_shape(lineage, source, known) for source in (*inner, *branches(scope), *scope.subquery_scopes)]
        text = repr((sorted(_own_clauses(lineage, scope)), nested))
        known[id(scope)] = sha256(text.encode()).hexdigest()
    return known[id(scope)]


def _own_clauses(lineage: ColumnLineage, scope: Scope) -> Iterator[tuple[str, str]]:
    """Yield kind and normalized SQL of each clause of one scope, without its subqueries."""
    from sqlglot import exp

    query = scope.expression
    if isinstance(query, exp.SetOperation):
        distinct = query.args.get("distinct")
        yield "set operation", f"{type(query).__name__} {distinct}"
        if distinct or not isinstance(query, exp.Union):
            for branch in branches(scope):
                yield from _selected(lineage, branch, "set operation")
    if not isinstance(query, exp.Select):
        yield from _limits(lineage, scope, query)
        return
    for name, value in query.args.items():
        if name in _NOT_COMPARED or not value:
            continue
        kind = _NAMES.get(name, name.upper())
        for part in value if isinstance(value, list) else _conditions(value):
            yield kind, _text(lineage, scope, part) if hasattr(part, "sql") else str(part)
    yield from _limits(lineage, scope, query)
    yield from _group(lineage, scope, query)
    if query.args.get("distinct") or scope.is_subquery:
        yield from _selected(lineage, scope, "DISTINCT")
    for item in query.expressions:
        if _changes_row_count(item):
            expands = item.find(exp.UDTF) is not None
            yield "aggregation", lineage.text(scope, item.unalias()) if expands else ""


def _conditions(clause: exp.Expr) -> list[exp.Expr]:
    """Return the conditions that a clause joins by AND, whose order does not count; any other clause as it is."""
    from sqlglot import exp

    condition = clause.this if isinstance(clause, exp.Where | exp.Having | exp.Qualify) else None
    return list(condition.flatten()) if isinstance(condition, exp.And) else [clause]


def _group(lineage: ColumnLineage, scope: Scope, query: exp.Select) -> Iterator[tuple[str, str]]:
    """Yield what a query groups by, with GROUP BY ALL and positions spelled out."""
    group = query.args.get("group")
    if group is None:
        return
    keys = list(group.expressions)
    if group.args.get("all"):
        keys = [item.unalias() for item in query.expressions if not _changes_row_count(item)]
    for key in keys:
        yield "GROUP BY", lineage.text(scope, key)
    for name in ("rollup", "cube", "grouping_sets", "totals"):
        for part in group.args.get(name) or ():
            yield "GROUP BY", f"{name} {_text(lineage, scope, part)}"


def _limits(lineage: ColumnLineage, scope: Scope, query: exp.Expr) -> Iterator[tuple[str, str]]:
    """Yield the order of a query that returns a part of its rows only."""
    order = query.args.get("order")
    if order and any(query.args.get(name) for name in ("limit", "fetch", "offset", "distinct")):
        yield "ORDER BY", _text(lineage, scope, order)


def _selected(lineage: ColumnLineage, scope: Scope, kind: str) -> Iterator[tuple[str, str]]:
    for item in getattr(scope.expression, "selects", ()):
        yield kind, lineage.text(scope, item.unalias())


def _text(lineage: ColumnLineage, scope: Scope, clause: exp.Expr) -> str:
    """Return a clause as SQL: columns by their lineage, tables without aliases, subqueries as a mere mark."""
    from sqlglot import exp

    places = _places(scope)
    tree = clause.copy()
    for query in [node for node in tree.find_all(exp.Query) if not isinstance(node, exp.Subquery)]:
        if query.find_ancestor(exp.Query) is None or isinstance(query.parent, exp.Subquery):
            query.replace(exp.to_identifier("query"))
    for column in list(tree.find_all(exp.Column)):
        place = places.get(column.table, "")
        column.replace(exp.to_identifier(f"{lineage.input_id(scope, column)}{place}"))
    for table in list(tree.find_all(exp.Table)):
        is_query = not isinstance(scope.sources.get(table.alias_or_name), exp.Table)
        table.set("alias", None)
        if is_query and not table.db:
            table.set("this", exp.to_identifier("query"))
    for subquery in list(tree.find_all(exp.Subquery)):
        subquery.set("alias", None)
        # A subquery in FROM and a CTE are the same.
        if len([value for value in subquery.args.values() if value]) == 1:
            subquery.replace(exp.to_table("query"))
    return str(tree.sql(dialect=lineage.resolver.project.dialect, comments=False, normalize=True))


def _places(scope: Scope) -> dict[str, str]:
    """Return a mark for the alias of each table that a scope reads several times, by the order of the aliases."""
    from sqlglot import exp

    names = {alias: source.name if isinstance(source, exp.Table) else "" for alias, source in scope.sources.items()}
    repeated = Counter(name for name in names.values() if name)
    order = list(scope.selected_sources)
    return {alias: f" #{order.index(alias)}" for alias, name in names.items() if repeated[name] > 1 and alias in order}


def _changes_row_count(item: exp.Expr) -> bool:
    """Return True if a selected expression aggregates many rows into one, or expands one row into many."""
    from sqlglot import exp

    for function in item.find_all(exp.AggFunc, exp.UDTF):
        in_window = isinstance(function.parent, (exp.Window, exp.IgnoreNulls))
        if not in_window and function.parent_select is item.parent_select:
            return True
    return False
