"""The inputs of a column: which columns of which nodes its values may come from, in one statement of a dbt model.

Names are compared case-insensitively. Where several columns may be the input, all of them count: a column may get an
input too many, and never lacks one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_reverse_etl.check.lineage import inner_scopes, lists_all
from airflow_reverse_etl.check.scopes import branches, is_plain, source_of, table_text

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

#: Name for every column of a node that nothing names.
OTHERS = ""
_UNNAMED = re.compile(r"(?i)|_col_\d+")


@dataclass(slots=True)
class Inputs:
    """Inputs of a column.

    :param columns: id of a node and its column in lower case. :data:`OTHERS` is every column that nothing names.
    :param nodes: ids of nodes any of whose columns may be an input.
    :param unknown: descriptions of inputs that are not in the project.
    """

    columns: set[tuple[str, str]] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


class Tracer:
    """Finder of the inputs of one statement's columns.

    :param nodes: table name in the statement → id of its node.
    """

    def __init__(self, scope: Scope, nodes: Mapping[str, str]) -> None:
        self._scope = scope
        self._nodes = nodes
        self._seen: set[tuple[int, str, int | None]] = set()

    def inputs_of(self, name: str) -> Inputs:
        """Return the inputs of a column of the statement's result."""
        found = Inputs()
        self._seen.clear()
        self._of_scope(self._scope, name.lower(), None, found)
        return found

    def stars(self) -> bool:
        """Return True if the statement does not name all its columns, so that it may have any of its inputs'."""
        return any(not lists_all(scope) for scope in _results(self._scope))

    def names(self) -> set[str]:
        """Return all columns that the statement names anywhere, in lower case: a ``*`` may pass on any of them."""
        from sqlglot import exp

        found: set[str] = set()
        for scope in self._scope.traverse():
            if not isinstance(scope.expression, exp.Query):
                continue
            found.update(name.lower() for name in scope.expression.named_selects if name != "*")
            for item in scope.expression.selects:
                for part in (*(item.args.get("rename") or ()), *(item.args.get("replace") or ())):
                    found.add(part.alias_or_name.lower())
        return found

    def _of_scope(self, scope: Scope, name: str, position: int | None, found: Inputs) -> None:
        """Add the inputs of a column of a query.

        :param position: place of the column, from 0, in a branch of a set operation.
        """
        key = (id(scope), name, position)
        if key in self._seen:  # also ends a recursive CTE, which reads itself
            return
        self._seen.add(key)
        inner = branches(scope)
        if inner:
            self._of_branches(scope, inner, name, position, found)
            return
        selects = list(_query(scope).selects)
        if position is not None and position < len(selects):
            self._of_expression(scope, selects[position], found)
            return
        for item in selects:
            if name and item.alias_or_name.lower() == name:
                self._of_expression(scope, item, found)
        if not lists_all(scope):
            self._of_unnamed(scope, selects, name, found)

    def _of_branches(
        self, scope: Scope, inner: Iterable[Scope], name: str, position: int | None, found: Inputs
    ) -> None:
        """Add the inputs of a set operation's column: by its place in each branch, or by its name."""
        from sqlglot import exp

        tree = _query(scope)
        by_name = bool(tree.args.get("by_name"))
        if not by_name and not tree.is_star:
            # The first branch names the columns, or the warehouse does.
            places = [position]
            if position is None:
                names = [known.lower() for known in tree.named_selects]
                places = [at for at, known in enumerate(names) if known == name or _UNNAMED.fullmatch(known)]
            for place in places:
                for branch in inner:
                    self._of_scope(branch, name, place, found)
            return
        for branch in inner:
            self._of_scope(branch, name, None, found)
            # Behind a "*" no place is known: each column that is spelled out may be this one.
            for result in _results(branch) if not by_name else ():
                spelled = [item for item in _query(result).selects if not isinstance(item, exp.Star)]
                for item in spelled:
                    self._of_expression(result, item, found)

    def _of_unnamed(self, scope: Scope, selects: Iterable[exp.Expr], name: str, found: Inputs) -> None:
        """Add the inputs of a column that the query does not name, but may have."""
        from sqlglot import exp

        for item in selects:
            table = item.table if isinstance(item, exp.Column) and isinstance(item.this, exp.Star) else ""
            star = item.this if table else item
            if isinstance(star, exp.Star) and (not table or source_of(scope, table) is not None):
                self._of_star(scope, star, table, name, found)
            elif not item.alias_or_name or _UNNAMED.fullmatch(item.alias_or_name) or item.is_star:
                # The warehouse names it, or it has the fields of a struct.
                self._of_expression(scope, item, found)

    def _of_star(self, scope: Scope, star: exp.Star, table: str, name: str, found: Inputs) -> None:
        """Add the inputs of a column that a ``*`` passes on."""
        excepted = {one.name.lower() for one in star.args.get("except_") or ()}
        for replaced in star.args.get("replace") or ():
            if replaced.alias_or_name.lower() == name:
                self._of_expression(scope, replaced, found)
                return
        for renamed in star.args.get("rename") or ():
            if renamed.alias.lower() == name:
                self._of_named(scope, table, renamed.this.name.lower(), found)
                return
        moved = {one.this.name.lower() for one in star.args.get("rename") or ()}
        if name in excepted | moved:
            return
        self._of_named(scope, table, name, found)

    def _of_named(self, scope: Scope, table: str, name: str, found: Inputs) -> None:
        """Add a column of a table that a query reads, or of any of them if none is named."""
        source = source_of(scope, table) if table else None
        if source is None:
            self._of_every_source(scope, name, found)
        else:
            self._of_source(source, name, found)

    def _of_expression(self, scope: Scope, tree: exp.Expr, found: Inputs) -> None:
        """Add every column that an expression reads, those in its subqueries included."""
        from sqlglot import exp

        key = (id(scope), "", id(tree))
        if key in self._seen:
            return
        self._seen.add(key)
        inner = inner_scopes(scope)
        for column in tree.find_all(exp.Column):
            # A column of a subquery in the expression is one of that query's, or of this one.
            owners = [one for one in inner if column.table in one.selected_sources] if column.table else [scope, *inner]
            for owner in owners or [scope]:
                self._of_column(owner, column, found)
        whole = [one for one in tree.find_all(exp.Star) if not isinstance(one.parent, exp.Count | exp.Column)]
        if whole or tree.find(exp.Columns, exp.Parameter, exp.TableColumn):
            # A whole row, columns by a pattern, or a column by its number.
            for source in _sources(scope):
                self._of_whole(source, found)

    def _of_column(self, scope: Scope, column: exp.Column, found: Inputs) -> None:
        from sqlglot import exp

        # A table's name may stand where a column's does, for the whole row.
        whole = source_of(scope, column.name) if column.table in ("", column.name) else None
        if whole is not None:
            self._of_whole(whole, found)
        if isinstance(column.this, exp.Star):
            source = source_of(scope, column.table)
            if source is None:
                self._of_every_source(scope, column.table.lower(), found)
            else:
                self._of_whole(source, found)
            return
        source = source_of(scope, column.table) if column.table else None
        if source is None:
            # A struct's name may stand where a table's does.
            for part in column.parts:
                self._of_every_source(scope, part.name.lower(), found)
            if scope.parent and (scope.is_subquery or scope.is_udtf):
                self._of_column(scope.parent, column, found)
            return
        reads = scope.selected_sources.get(column.table)
        if reads:
            self._of_function(scope, *reads, column.name.lower(), found)
        self._of_source(source, column.name.lower(), found)

    def _of_every_source(self, scope: Scope, name: str, found: Inputs) -> None:
        for place, source in scope.selected_sources.values():
            self._of_function(scope, place, source, name, found)
            self._of_source(source, name, found)

    def _of_function(self, scope: Scope, place: exp.Expr, source: exp.Table | Scope, name: str, found: Inputs) -> None:
        """Add what a lateral view, an unnested list, or the like reads, if it may have a column of this name."""
        from sqlglot import exp

        is_query = isinstance(source, exp.Table) or isinstance(source.expression, exp.Query)
        alias = place.args.get("alias")
        columns = [one.name.lower() for one in getattr(alias, "columns", ())]
        if not is_query and (not columns or name in columns):
            self._of_expression(scope, place, found)

    def _of_source(self, source: exp.Table | Scope, name: str, found: Inputs) -> None:
        """Add a column of a table, a CTE or a subquery."""
        from sqlglot import exp

        if not isinstance(source, exp.Table):
            if isinstance(source.expression, exp.Query):
                self._of_scope(source, name, None, found)
            return
        node = self._nodes.get(source.name.lower())
        if node is None:
            found.unknown.add(f"table {table_text(source)} is not in the dbt project")
        elif is_plain(source):
            found.columns.add((node, name))
        else:
            # A pivot, or an alias that renames columns.
            found.nodes.add(node)

    def _of_whole(self, source: exp.Table | Scope, found: Inputs) -> None:
        """Add every column of a table, a CTE or a subquery."""
        from sqlglot import exp

        if isinstance(source, exp.Table):
            node = self._nodes.get(source.name.lower())
            if node is None:
                found.unknown.add(f"table {table_text(source)} is not in the dbt project")
            else:
                found.nodes.add(node)
            return
        for scope in _results(source) if isinstance(source.expression, exp.Query) else ():
            for name in (*_query(scope).named_selects, OTHERS):
                self._of_scope(scope, name.lower(), None, found)


def _results(scope: Scope) -> list[Scope]:
    """Return the scope of a query, or those of a set operation's branches."""
    inner = branches(scope)
    if not inner:
        return [scope]
    found: list[Scope] = []
    for branch in inner:
        found += _results(branch)
    return found


def _query(scope: Scope) -> exp.Query:
    """Return the query of a scope, which is not one of a function."""
    from sqlglot import exp

    assert isinstance(scope.expression, exp.Query)
    return scope.expression


def _sources(scope: Scope) -> list[exp.Table | Scope]:
    return [source for _, source in scope.selected_sources.values()]
