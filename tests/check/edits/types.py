"""The columns of a query and the families of their types, by a dialect's table of rules.

It shares no code with the check: it resolves names itself, and knows no more SQL than the generator writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from tests.check.edits.rules import CASTS, FAMILIES, Broken, Family, Rules, Undecided, WrongTypes

#: Columns by their keys, in order.
Columns = Mapping[str, Family]

_TEXT = (exp.Upper, exp.Lower, exp.Trim)
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_SUMS = (exp.Sum, exp.Avg)
_SAME = (exp.Max, exp.Min, exp.Lag, exp.Lead, exp.FirstValue, exp.Alias, exp.Paren, exp.AnyValue)
_RANKS = (exp.RowNumber, exp.Rank, exp.DenseRank)


@dataclass
class Scope:
    """The names that an expression can see.

    :param sources: alias → columns.
    :param aliases: what the SELECT computes, by key.
    """

    sources: dict[str, Columns] = field(default_factory=dict)
    outer: Scope | None = None
    aliases: dict[str, exp.Expr] = field(default_factory=dict)


class Typer:
    """The reader of one query.

    :param tables: columns of each table by its name.
    """

    def __init__(self, rules: Rules, tables: Mapping[str, Columns]) -> None:
        self.rules = rules
        self.tables = tables
        #: Casts of texts that fail if a text does not have the form.
        self.risks = 0

    def columns(
        self,
        query: exp.Expr,
        outer: Scope | None = None,
        ctes: Mapping[str, Columns] | None = None,
        *,
        by_position: bool = False,
    ) -> dict[str, Family]:
        """Return the columns of a query.

        :param by_position: the names do not count, so that several columns may have the same.
        :raises Broken: the warehouse refuses the query.
        :raises Undecided: the rules do not decide it.
        """
        known = dict(ctes or {})
        if isinstance(query, exp.Subquery):
            return self.columns(query.this, outer, known, by_position=by_position)
        for cte in query.ctes:
            name = self._key(cte.args["alias"].this)
            if name in known:
                raise Broken(f"two CTEs {name}")
            known[name] = self.columns(cte.this, outer, known)
        if isinstance(query, exp.SetOperation):
            return self._set_operation(query, outer, known, by_position=by_position)
        assert isinstance(query, exp.Select)
        return self._select(query, outer, known, by_position=by_position)

    def _set_operation(
        self, query: exp.SetOperation, outer: Scope | None, known: Mapping[str, Columns], *, by_position: bool
    ) -> dict[str, Family]:
        left = self.columns(query.left, outer, known, by_position=by_position)
        right = self.columns(query.right, outer, known, by_position=True)
        if len(left) != len(right):
            raise Broken("branches of different numbers of columns")
        pairs = zip(left.items(), right.values(), strict=True)
        return {name: self._common(first, second) for (name, first), second in pairs}

    def _select(
        self, query: exp.Select, outer: Scope | None, known: Mapping[str, Columns], *, by_position: bool
    ) -> dict[str, Family]:
        scope = Scope(outer=outer)
        self._sources(query, scope, known)
        scope.aliases = {self._key(item.args["alias"]): item.this for item in query.expressions if item.alias}
        self._clauses(query, scope)
        found: list[tuple[str, Family]] = []
        earlier: dict[str, exp.Expr] = {}
        for item in query.expressions:
            whole = self._without_aliases(item, scope, earlier) if self.rules.reuses_aliases else item
            found += self._item(whole, scope)
            if item.alias:
                earlier[self._key(item.args["alias"])] = whole.this
        if by_position:
            return {f"{at} {name}": family for at, (name, family) in enumerate(found)}
        names = [name for name, _ in found]
        if len(set(names)) < len(names) and "*" not in query.sql():
            raise Broken("two columns of one name")
        if len(set(names)) < len(names):
            raise Undecided("two columns of one name by *")
        return dict(found)

    def _sources(self, query: exp.Select, scope: Scope, known: Mapping[str, Columns]) -> None:
        tables = [query.args["from_"].this] if query.args.get("from_") else []
        joins = query.args.get("joins") or []
        for table in [*tables, *(join.this for join in joins)]:
            columns = self._table(table, scope, known)
            alias = table.args.get("alias")
            name = self._key(alias.this if alias else table.this)
            if name in scope.sources:
                raise Broken(f"two tables {name}")
            scope.sources[name] = columns
        for join in joins:
            if join.args.get("on"):
                self._condition(join.args["on"], scope)

    def _table(self, table: exp.Expr, scope: Scope, known: Mapping[str, Columns]) -> Columns:
        if isinstance(table, exp.Subquery):
            return self.columns(table.this, scope.outer, known)
        name = self._key(table.this)
        if name in known:
            return known[name]
        if table.name not in self.tables:
            raise Broken(f"no table {table.name}")
        return self.tables[table.name]

    def _clauses(self, query: exp.Select, scope: Scope) -> None:
        where = query.args.get("where")
        if where:
            self._condition(where.this, scope, aliases=self.rules.aliases_in_where)
        for name in ("having", "qualify"):
            clause = query.args.get(name)
            if clause:
                self._condition(clause.this, scope, aliases=name == "qualify" or self.rules.adapter != "postgres")
        group = query.args.get("group")
        if group:
            for key in group.expressions:
                if not key.is_int:
                    self.family(key, scope, aliases=True)
            self._check_grouping(query, group, scope)
        order = query.args.get("order")
        for key in order.expressions if order else ():
            if not key.this.is_int:
                self.family(key.this, scope, aliases=True)

    def _check_grouping(self, query: exp.Select, group: exp.Group, scope: Scope) -> None:
        """Refuse a column that is neither grouped by nor aggregated."""
        keys = set()
        for key in group.expressions:
            chosen = query.expressions[int(key.name) - 1].unalias() if key.is_int else key
            alias = self._key(key.this) if isinstance(key, exp.Column) and not key.table else None
            if alias in scope.aliases and (self.rules.groups_by_alias or not self._has(scope, alias)):
                chosen = scope.aliases[alias]
            keys.add(self._plain(chosen))
        for item in query.expressions:
            self._check_grouped(item.unalias(), keys)

    def _check_grouped(self, node: exp.Expr, keys: set[str]) -> None:
        if self._plain(node) in keys or isinstance(node, exp.AggFunc | exp.Query):
            return
        if isinstance(node, exp.Column):
            raise Broken(f"{node.name} is not grouped")
        for child in node.iter_expressions():
            if not isinstance(child, exp.Identifier):
                self._check_grouped(child, keys)

    def _plain(self, node: exp.Expr) -> str:
        tree = node.copy()
        for column in [tree] if isinstance(tree, exp.Column) else tree.find_all(exp.Column):
            column.set("table", None)
            column.set("this", exp.to_identifier(self._key(column.this)))
        return str(tree.sql())

    def _has(self, scope: Scope, name: str) -> bool:
        return any(name in columns for columns in scope.sources.values())

    def _without_aliases(self, item: exp.Expr, scope: Scope, earlier: Mapping[str, exp.Expr]) -> exp.Expr:
        """Return an item of a SELECT with what it names of the items before it."""
        whole = item.copy()
        for column in list(whole.find_all(exp.Column)):
            name = self._key(column.this)
            is_alias = not column.table and name in earlier and not self._has(scope, name)
            if is_alias and column is not whole and not column.find_ancestor(exp.Query):
                column.replace(exp.Paren(this=earlier[name].copy()))
        return whole

    def _item(self, item: exp.Expr, scope: Scope) -> Iterator[tuple[str, Family]]:
        if item.is_star:
            table = self._key(item.args["table"]) if isinstance(item, exp.Column) else None
            if table and table not in scope.sources:
                raise Broken(f"no table {table}")
            for name, columns in scope.sources.items():
                if table in (None, name):
                    yield from columns.items()
            return
        identifier = item.args.get("alias") or (item.this if isinstance(item, exp.Column) else None)
        name = self._key(identifier) if identifier else "?"
        family = self.family(item, scope)
        yield name, family

    def _key(self, identifier: exp.Expr) -> str:
        return self.rules.key(identifier.name, quoted=bool(identifier.args.get("quoted")))

    def _condition(self, node: exp.Expr, scope: Scope, *, aliases: bool = False) -> None:
        self._expect(node, "boolean", scope, aliases=aliases)

    def _expect(self, node: exp.Expr, family: Family, scope: Scope, *, aliases: bool = False) -> None:
        found = self.family(node, scope, aliases=aliases)
        if found in (family, "null"):
            return
        if not self.rules.converts:
            raise WrongTypes(f"{found} instead of {family}")
        if family != "text":
            raise Undecided(f"{found} converted to {family}")

    def family(self, node: exp.Expr, scope: Scope, *, aliases: bool = False) -> Family:
        """Return the family of an expression's type."""
        for kinds, rule in _BY_NODE.items():
            if isinstance(node, kinds):
                return rule(self, node, scope, aliases)
        raise AssertionError(f"the table has no rule for {node!r}")

    def _expect_all(self, nodes: list[exp.Expr], family: Family, scope: Scope, *, aliases: bool) -> Family:
        for node in nodes:
            self._expect(node, family, scope, aliases=aliases)
        return family

    def _joined(self, node: exp.DPipe, scope: Scope, *, aliases: bool) -> Family:
        families = [self.family(part, scope, aliases=aliases) for part in (node.left, node.right)]
        if not (self.rules.joins_any and "text" in families):
            self._expect_all([node.left, node.right], "text", scope, aliases=aliases)
        return "text"

    def _exists(self, node: exp.Exists, scope: Scope) -> Family:
        self.columns(node.this, scope)
        return "boolean"

    def _count(self, node: exp.Count, scope: Scope) -> Family:
        counted = node.this.expressions if isinstance(node.this, exp.Distinct) else [node.this]
        for part in counted:
            if not isinstance(part, exp.Star):
                self.family(part, scope)
        return "number"

    def _is(self, node: exp.Is, scope: Scope, *, aliases: bool) -> Family:
        self.family(node.this, scope, aliases=aliases)
        return "boolean"

    def _same(self, node: exp.Expr, family: Family) -> Family:
        if isinstance(node, exp.Max | exp.Min) and family == "boolean" and not self.rules.max_of_boolean:
            raise WrongTypes("max of a boolean")
        return family

    def _column(self, node: exp.Column, scope: Scope, *, aliases: bool) -> Family:
        name = self._key(node.this)
        table = self._key(node.args["table"]) if node.args.get("table") else None
        found = [
            columns[name] for alias, columns in scope.sources.items() if table in (None, alias) and name in columns
        ]
        if len(found) > 1:
            raise Broken(f"{name} is ambiguous")
        if found:
            return found[0]
        if aliases and table is None and name in scope.aliases:
            return self.family(scope.aliases[name], scope)
        if scope.outer:
            return self._column(node, scope.outer, aliases=False)
        raise Broken(f"no column {node.sql()}")

    def _cast(self, before: Family, node: exp.Cast) -> Family:
        after = FAMILIES[node.to.this.name]
        if before == "text" != after:
            self.risks += 1
        if before in (after, "null") or "text" in (before, after) or (before, after) in CASTS:
            return after
        raise WrongTypes(f"{before} cast to {after}")

    def _window(self, node: exp.Window, scope: Scope) -> Family:
        for key in node.args.get("partition_by") or ():
            self.family(key, scope)
        order = node.args.get("order")
        for key in order.expressions if order else ():
            self.family(key.this, scope)
        return self.family(node.this, scope)

    def _case(self, node: exp.Case, scope: Scope) -> Family:
        values: list[exp.Expr] = []
        for branch in node.args["ifs"]:
            self._condition(branch.this, scope)
            values.append(branch.args["true"])
        if node.args.get("default"):
            values.append(node.args["default"])
        return self._all(values, scope)

    def _all(self, nodes: list[exp.Expr], scope: Scope) -> Family:
        common: Family = "null"
        for node in nodes:
            common = self._common(common, self.family(node, scope))
        return common

    def _in(self, node: exp.In, scope: Scope) -> Family:
        query = node.args.get("query")
        if query is None:
            for item in node.expressions:
                self._compare([node.this, item], scope)
            return "boolean"
        columns = list(self.columns(query, scope).values())
        if len(columns) > 1:
            raise Broken("several columns after IN")
        self._common(self.family(node.this, scope), columns[0])
        return "boolean"

    def _compare(self, nodes: list[exp.Expr], scope: Scope, *, aliases: bool = False) -> Family:
        common: Family = "null"
        for node in nodes:
            # A text constant takes the type that is expected.
            if not (isinstance(node, exp.Literal) and node.is_string and common in ("date", "timestamp")):
                common = self._common(common, self.family(node, scope, aliases=aliases))
        return "boolean"

    def _common(self, first: Family, second: Family) -> Family:
        if first == second or second == "null":
            return first
        if first == "null":
            return second
        if {first, second} == {"date", "timestamp"} and self.rules.compares_dates:
            return "timestamp"
        if self.rules.converts:
            raise Undecided(f"{first} and {second}")
        raise WrongTypes(f"{first} and {second}")

    def _truncated(self, family: Family) -> Family:
        if family == "date":
            return self.rules.date_trunc
        if family == "timestamp":
            return family
        if self.rules.converts:
            raise Undecided(f"date_trunc of {family}")
        raise WrongTypes(f"date_trunc of {family}")


#: Kinds of expressions → the rule for their family, given typer, expression, scope, and whether aliases are seen.
_BY_NODE: Mapping[tuple[type[exp.Expr], ...], Callable[[Typer, Any, Scope, bool], Family]] = {
    (exp.Column,): lambda t, node, scope, aliases: t._column(node, scope, aliases=aliases),
    (exp.Literal,): lambda _, node, *__: "text" if node.is_string else "number",
    (exp.Boolean,): lambda *_: "boolean",
    (exp.Null,): lambda *_: "null",
    (exp.Cast,): lambda t, node, scope, aliases: t._cast(t.family(node.this, scope, aliases=aliases), node),
    (exp.Exists,): lambda t, node, scope, _: t._exists(node, scope),
    (exp.Subquery,): lambda t, node, scope, _: next(iter(t.columns(node.this, scope).values())),
    (exp.Count,): lambda t, node, scope, _: t._count(node, scope),
    (exp.Window,): lambda t, node, scope, _: t._window(node, scope),
    (exp.Case,): lambda t, node, scope, _: t._case(node, scope),
    (exp.Coalesce,): lambda t, node, scope, _: t._all([node.this, *node.expressions], scope),
    (exp.And, exp.Or): lambda t, node, scope, aliases: t._expect_all(
        [node.left, node.right], "boolean", scope, aliases=aliases
    ),
    (exp.Not,): lambda t, node, scope, aliases: t._expect_all([node.this], "boolean", scope, aliases=aliases),
    (exp.Is,): lambda t, node, scope, aliases: t._is(node, scope, aliases=aliases),
    (exp.Between,): lambda t, node, scope, aliases: t._compare(
        [node.this, node.args["low"], node.args["high"]], scope, aliases=aliases
    ),
    (exp.In,): lambda t, node, scope, _: t._in(node, scope),
    (exp.DPipe,): lambda t, node, scope, aliases: t._joined(node, scope, aliases=aliases),
    (exp.Length,): lambda t, node, scope, aliases: (
        t._expect_all([node.this], "text", scope, aliases=aliases) and "number"
    ),
    (exp.DateTrunc, exp.TimestampTrunc): lambda t, node, scope, _: t._truncated(t.family(node.this, scope)),
    (exp.Add, exp.Sub, exp.Mul): lambda t, node, scope, aliases: t._expect_all(
        [node.left, node.right], "number", scope, aliases=aliases
    ),
    _TEXT: lambda t, node, scope, aliases: t._expect_all([node.this], "text", scope, aliases=aliases),
    _COMPARISONS: lambda t, node, scope, aliases: t._compare([node.left, node.right], scope, aliases=aliases),
    _SUMS: lambda t, node, scope, aliases: t._expect_all([node.this], "number", scope, aliases=aliases),
    _RANKS: lambda *_: "number",
    _SAME: lambda t, node, scope, aliases: t._same(node, t.family(node.this, scope, aliases=aliases)),
}
