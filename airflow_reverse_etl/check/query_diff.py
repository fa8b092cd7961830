"""The comparison of two versions of a query by what decides which rows it returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from airflow_reverse_etl.check.canonical import canonical, conditions
from airflow_reverse_etl.check.lineage import ColumnLineage
from airflow_reverse_etl.check.project.definition import CONFIGURATION
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.check.scopes import branches, changes_row_count, is_plain, passed_on, table_text

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

# Parts of SELECT that do not decide which rows it returns, do so together with others only, or are compared apart.
_NOT_COMPARED = ("expressions", "with", "with_", "hint", "order", "kind", "group", "from", "from_", "joins")
_NAMES = {"laterals": "LATERAL"}


@dataclass(frozen=True, slots=True)
class _Query:
    """A scope of a node's statement."""

    lineage: ColumnLineage
    scope: Scope


@dataclass(frozen=True, slots=True)
class _Clause:
    """A part of a query that decides about its rows.

    :param kind: what a finding calls it.
    :param text: equal for parts that mean the same, wherever the query has them.
    """

    kind: str
    text: str


def different_clauses(old: ColumnLineage, new: ColumnLineage) -> list[str]:
    """Return the kinds of clauses in which two queries differ.

    Columns in them are compared by their lineage. Selected expressions count if they decide about rows: with
    DISTINCT, in a set operation, with GROUP BY ALL, in a subquery of a condition. Queries that only pass rows on do not
    count, whether they are subqueries, CTEs, or models that the other version does not have.
    """
    before = _Rows(old, new.resolver.project)
    after = _Rows(new, old.resolver.project)
    texts = Counter(clause.text for clause in before.clauses)
    new_texts = Counter(clause.text for clause in after.clauses)
    different = (texts - new_texts) + (new_texts - texts)
    kinds = sorted({clause.kind for clause in (*before.clauses, *after.clauses) if clause.text in different})
    if not kinds and before.shape != after.shape:
        return ["its subqueries"]
    return kinds


class _Rows:
    """Everything that decides about the rows of one statement.

    :param other: the other version of the project.
    """

    def __init__(self, lineage: ColumnLineage, other: ProjectVersion) -> None:
        self._other = other
        self._shapes: dict[int, str] = {}
        root = _Query(lineage, lineage.scope)
        self.clauses: list[_Clause] = []
        seen: set[int] = set()
        queue = [root]
        while queue:
            query = queue.pop(0)
            if id(query.scope) not in seen:
                seen.add(id(query.scope))
                self.clauses += self._own_clauses(query)
                queue += self._inner(query)
        self.shape = self._shape(root)

    def _inner(self, query: _Query) -> list[_Query]:
        """Return the queries that a query reads: its tables, its branches, the subqueries of its expressions."""
        sources = [self._source(query, place, source) for place, source in query.scope.selected_sources.values()]
        found = [source for source in sources if isinstance(source, _Query)]
        parts = (*branches(query.scope), *query.scope.subquery_scopes)
        return [*found, *(_Query(query.lineage, scope) for scope in parts)]

    def _shape(self, query: _Query) -> str:
        """Return the clauses of a query together with those of each query that it reads, as a text."""
        key = id(query.scope)
        if key not in self._shapes:
            self._shapes[key] = "itself"  # a recursive CTE reads itself
            texts = sorted(clause.text for clause in self._own_clauses(query))
            inner = self._inner(query)
            nested = [shape for shape in map(self._shape, inner) if shape]
            if self._is_unordered(query):
                nested.sort()
            # A query that only passes on the rows of one other has the shape of that.
            is_empty = passed_on(query.scope) is not None and not texts
            only = nested[0] if len(nested) == 1 else ""
            text = sha256(repr((texts, nested)).encode()).hexdigest()
            self._shapes[key] = only if is_empty and only else text
        return self._shapes[key]

    def _is_unordered(self, query: _Query) -> bool:
        from sqlglot import exp

        tree = query.scope.expression
        return isinstance(tree, exp.Union) or (isinstance(tree, exp.Select) and _joins_inner(tree))

    def _source(self, query: _Query, place: exp.Expr, source: exp.Table | Scope) -> _Query | exp.Table | None:
        """Return where the rows of a table in a query come from, past queries that only pass them on.

        :returns: None for what is not read as it is, such as a pivot.
        """
        from sqlglot import exp

        if not is_plain(place):
            return None if isinstance(source, exp.Table) else _Query(query.lineage, source)
        found = self._model(query.lineage, source) if isinstance(source, exp.Table) else _Query(query.lineage, source)
        if found is None:
            return source if isinstance(source, exp.Table) else None
        deeper = passed_on(found.scope)
        if deeper is None:
            return found
        return self._source(found, *deeper) or found

    def _model(self, lineage: ColumnLineage, table: exp.Table) -> _Query | None:
        """Return the query of a model that the other version does not have: it may have been split off or renamed."""
        unique_id = lineage.parents.get(table.name.lower())
        if unique_id is None or unique_id in self._other.nodes:
            return None
        project = lineage.resolver.project
        statements = lineage.resolver.statements(unique_id)
        is_model = project.nodes[unique_id]["resource_type"] == "model"
        if not is_model or len(statements) != 1 or project.definition(unique_id)[CONFIGURATION] != "{}":
            return None
        return _Query(statements[0], statements[0].scope)

    def _own_clauses(self, query: _Query) -> Iterator[_Clause]:
        """Yield the clauses of one scope, without its subqueries."""
        from sqlglot import exp

        tree = query.scope.expression
        if isinstance(tree, exp.SetOperation):
            distinct = tree.args.get("distinct")
            yield _clause("set operation", f"{type(tree).__name__} {distinct}")
            if distinct or not isinstance(tree, exp.Union):
                for branch in branches(query.scope):
                    yield from _selected(_Query(query.lineage, branch), "set operation")
        if isinstance(tree, exp.Select):
            yield from self._tables(query, tree)
            yield from _own_parts(query, tree)
            yield from _group(query, tree)
            yield from _aggregations(query, tree)
        yield from _limits(query, tree)

    def _tables(self, query: _Query, tree: exp.Select) -> Iterator[_Clause]:
        """Yield what a query reads and how it joins it. Inner joins and their conditions have no order."""
        passes = passed_on(query.scope)
        sources = query.scope.selected_sources
        first = tree.args.get("from_") or tree.args.get("from")
        if first is not None:
            name = self._name(query, first.this)
            # A query that only passes rows on is not a part of the comparison.
            if not (passes and isinstance(self._source(query, *passes), _Query)):
                yield _Clause("FROM", f"table {name}")
        inner = _joins_inner(tree)
        for join in tree.args.get("joins") or ():
            on = join.args.get("on")
            tests = [_text(query, test) for test in conditions(on)] if on is not None else []
            name = self._name(query, join.this)
            if inner and not join.args.get("using"):
                yield _Clause("JOIN", f"table {name}")
                for test in tests:
                    yield _Clause("JOIN", f"condition {test}")
                continue
            bare = join.copy()
            bare.set("on", None)
            bare.set("this", None)
            yield _clause("JOIN", f"{_text(query, bare)} {name} {sorted(tests)}")
        if len(sources) > 1 and not tree.args.get("joins"):
            yield _clause("FROM", f"{len(sources)} tables")

    def _name(self, query: _Query, place: exp.Expr) -> str:
        from sqlglot import exp

        found = query.scope.selected_sources.get(place.alias_or_name)
        if found is None or not is_plain(place):
            return _text(query, place)
        source = self._source(query, *found)
        return table_text(source) if isinstance(source, exp.Table) else "query"


def _joins_inner(tree: exp.Select) -> bool:
    joins = tree.args.get("joins") or ()
    return all(not join.side and not join.method and join.kind in ("", "INNER", "CROSS") for join in joins)


def _clause(kind: str, text: str) -> _Clause:
    return _Clause(kind, f"{kind} {text}")


def _own_parts(query: _Query, tree: exp.Select) -> Iterator[_Clause]:
    """Yield the clauses of a SELECT that need no other."""
    from sqlglot import exp

    for name, value in tree.args.items():
        if name in _NOT_COMPARED or not value:
            continue
        kind = _NAMES.get(name, name.upper())
        if isinstance(value, exp.Where):
            for test in conditions(value.this):
                yield _Clause(kind, f"condition {_text(query, test)}")
        elif isinstance(value, exp.Having | exp.Qualify):
            for test in conditions(value.this):
                yield _clause(kind, _text(query, test))
        else:
            for part in value if isinstance(value, list) else [value]:
                yield _clause(kind, _text(query, part) if hasattr(part, "sql") else str(part))
    if tree.args.get("distinct") or query.scope.is_subquery:
        yield from _selected(query, "DISTINCT")


def _aggregations(query: _Query, tree: exp.Select) -> Iterator[_Clause]:
    """Yield what expands rows, and that a query without groups aggregates all rows into one."""
    from sqlglot import exp

    found = [item for item in tree.expressions if changes_row_count(item)]
    expanding = [item for item in found if item.find(exp.UDTF) is not None]
    for item in expanding:
        yield _clause("aggregation", query.lineage.text(query.scope, item.unalias()))
    if len(found) > len(expanding) and not tree.args.get("group"):
        yield _clause("aggregation", "")


def _group(query: _Query, tree: exp.Select) -> Iterator[_Clause]:
    """Yield what a query groups by, with GROUP BY ALL and positions spelled out."""
    group = tree.args.get("group")
    if group is None:
        return
    keys = list(group.expressions)
    if group.args.get("all"):
        keys = [item.unalias() for item in tree.expressions if not changes_row_count(item)]
    for key in keys:
        yield _clause("GROUP BY", _text(query, key, aliases=True))
    for name in ("rollup", "cube", "grouping_sets", "totals"):
        for part in group.args.get(name) or ():
            yield _clause("GROUP BY", f"{name} {_text(query, part)}")


def _limits(query: _Query, tree: exp.Expr) -> Iterator[_Clause]:
    """Yield the order of a query that returns a part of its rows only, and that part of a set operation."""
    from sqlglot import exp

    order = tree.args.get("order")
    if order and any(tree.args.get(name) for name in ("limit", "fetch", "offset", "distinct")):
        yield _clause("ORDER BY", _text(query, order, aliases=True))
    if isinstance(tree, exp.SetOperation):
        for name in ("limit", "fetch", "offset"):
            if tree.args.get(name):
                yield _clause("LIMIT", _text(query, tree.args[name]))


def _selected(query: _Query, kind: str) -> Iterator[_Clause]:
    for item in getattr(query.scope.expression, "selects", ()):
        yield _clause(kind, query.lineage.text(query.scope, item.unalias()))


def _text(query: _Query, clause: exp.Expr, *, aliases: bool = False) -> str:
    """Return a clause as a text: columns by their lineage, tables without aliases, subqueries as a mere mark.

    :param aliases: a name without a table is that of a selected expression, if there is one.
    """
    from sqlglot import exp

    lineage = query.lineage
    tree = exp.Paren(this=clause.copy())
    for inner in list(tree.find_all(exp.Query)):
        if inner.find_ancestor(exp.Query) is None:
            inner.replace(exp.to_identifier("query"))
    for column in list(tree.find_all(exp.Column)):
        if aliases and not column.table and lineage.selects(query.scope, column.name):
            name = lineage.column_id(query.scope, column.name)
        else:
            name = lineage.input_id(query.scope, column)
        column.replace(exp.to_identifier(name, quoted=True))
    return canonical(tree, lineage.resolver.project.dialect)
