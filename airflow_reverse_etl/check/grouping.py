"""Columns that a query with groups selects although it neither groups by them nor aggregates them.

Most warehouses refuse such a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_reverse_etl.check.lineage import ColumnLineage
from airflow_reverse_etl.check.scopes import changes_row_count

if TYPE_CHECKING:
    from sqlglot import exp


def ungrouped(statement: ColumnLineage) -> set[str]:
    """Return the columns, ``table.column``, that are neither grouped by nor aggregated."""
    from sqlglot import exp

    found: set[str] = set()
    for scope in statement.scope.traverse():
        tree = scope.expression
        if isinstance(tree, exp.Select) and _has_groups(tree):
            found.update(_ungrouped(tree))
    return found


def _has_groups(tree: exp.Select) -> bool:
    from sqlglot import exp

    group = tree.args.get("group")
    if group is not None:
        # GROUP BY ALL, ROLLUP and the like name their groups otherwise.
        return {name for name, value in group.args.items() if value} == {"expressions"}
    return any(changes_row_count(item) and item.find(exp.UDTF) is None for item in tree.expressions)


def _ungrouped(tree: exp.Select) -> Iterator[str]:
    group = tree.args.get("group")
    keys = [key.unnest() for key in group.expressions] if group else []
    # A position that sqlglot has not replaced by what it stands for.
    keys += [tree.expressions[int(key.name) - 1].unalias() for key in keys if _is_position(key, tree)]
    grouped = {_compared(key) for key in keys}
    for item in tree.expressions:
        for column in _loose(item.unalias(), grouped):
            yield column.sql(comments=False)


def _is_position(key: exp.Expr, tree: exp.Select) -> bool:
    return key.is_int and 0 < int(key.name) <= len(tree.expressions)


def _compared(node: exp.Expr) -> str:
    """Return an expression as a text, with names as the warehouse stores them."""
    from sqlglot import exp

    tree = exp.Paren(this=node.copy())
    for identifier in tree.find_all(exp.Identifier):
        identifier.set("quoted", None)
    return tree.sql(comments=False)


def _loose(node: exp.Expr, grouped: set[str]) -> Iterator[exp.Column]:
    """Yield the columns of an expression that are in no group and in no aggregate."""
    from sqlglot import exp

    node = node.unnest()
    # A function that sqlglot does not know may be an aggregate.
    if _compared(node) in grouped or isinstance(node, exp.Query | exp.AggFunc | exp.Anonymous | exp.UDTF):
        return
    if isinstance(node, exp.Filter | exp.WithinGroup | exp.IgnoreNulls | exp.RespectNulls):
        return
    if isinstance(node, exp.Column):
        # A name without a table is that of another item.
        if node.table and not isinstance(node.this, exp.Star):
            yield node
        return
    for part in _parts(node):
        if not isinstance(part, exp.Identifier | exp.DataType):
            yield from _loose(part, grouped)


def _parts(node: exp.Expr) -> Iterator[exp.Expr]:
    """Yield what an expression is computed from. A window's own function aggregates nothing in its groups."""
    from sqlglot import exp

    if not isinstance(node, exp.Window):
        yield from node.iter_expressions()
        return
    yield from node.this.unnest().iter_expressions()
    yield from node.args.get("partition_by") or ()
    order = node.args.get("order")
    yield from order.expressions if order else ()
