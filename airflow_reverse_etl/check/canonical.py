"""Expressions as texts that are equal for expressions that mean the same, however they are written.

The texts are not SQL. They leave out parentheses, aliases of tables, and the order of operands where it does not count;
``b > a`` becomes ``a < b``, ``BETWEEN`` two comparisons, ``IN`` a list of comparisons joined by OR.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlglot import exp

# ``+`` joins texts there, so that the order of its operands counts.
_JOINS_TEXT = ("tsql", "fabric")


def canonical(tree: exp.Expr, dialect: str | None) -> str:
    """Return the text of an expression."""
    return _Writer(dialect).text(tree)


def conditions(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the conditions that an expression joins by AND, in parentheses or not, without those that always hold."""
    from sqlglot import exp

    tree = tree.unnest()
    if isinstance(tree, exp.And):
        yield from conditions(tree.this)
        yield from conditions(tree.expression)
    elif isinstance(tree, exp.Between) and not tree.args.get("symmetric"):
        yield exp.GTE(this=tree.this.copy(), expression=tree.args["low"].copy())
        yield exp.LTE(this=tree.this.copy(), expression=tree.args["high"].copy())
    elif not _always_holds(tree):
        yield tree


def _always_holds(tree: exp.Expr) -> bool:
    from sqlglot import exp

    if isinstance(tree, exp.EQ) and isinstance(tree.this, exp.Literal):
        return bool(tree.this == tree.expression)
    return isinstance(tree, exp.Boolean) and bool(tree.this)


class _Writer:
    def __init__(self, dialect: str | None) -> None:
        from sqlglot import exp

        self._dialect = dialect
        self._flipped: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.LT, exp.GTE: exp.LTE}
        self._symmetric: list[type[exp.Expr]] = [exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Mul]
        if dialect not in _JOINS_TEXT:
            self._symmetric.append(exp.Add)

    def text(self, node: exp.Expr) -> str:
        from sqlglot import exp

        node = node.unnest()
        kind = type(node)
        if isinstance(node, exp.And | exp.Or):
            return self._joined(kind, self._operands(node, kind))
        if isinstance(node, exp.Between) and not node.args.get("symmetric"):
            return self._joined(exp.And, map(self.text, conditions(node)))
        if isinstance(node, exp.In) and self._is_list(node):
            return self._joined(exp.Or, (self.text(exp.EQ(this=node.this, expression=e)) for e in node.expressions))
        if kind in self._flipped:
            return self._other(self._flipped[kind](this=node.expression, expression=node.this))
        if kind in self._symmetric:
            first, second = sorted((self.text(node.this), self.text(node.expression)))
            return f"{kind.__name__}({first}, {second})"
        if isinstance(node, exp.Not):
            return self._negated(node)
        if isinstance(node, exp.Case):
            return self._case(node)
        if isinstance(node, exp.DataType):
            return node.sql(self._dialect).upper()
        if isinstance(node, exp.Identifier):
            return f'"{node.name if node.quoted else node.name.lower()}"'
        return self._other(node)

    def _joined(self, kind: type[exp.Expr], texts: Iterable[str]) -> str:
        # The same condition twice is that condition.
        different = sorted(set(texts))
        return different[0] if len(different) == 1 else f"{kind.__name__}({', '.join(different)})"

    def _operands(self, node: exp.Expr, kind: type[exp.Expr]) -> Iterator[str]:
        for operand in (node.this.unnest(), node.expression.unnest()):
            if type(operand) is kind:
                yield from self._operands(operand, kind)
            else:
                yield self.text(operand)

    def _is_list(self, node: exp.In) -> bool:
        given = {name for name, value in node.args.items() if value}
        return given == {"this", "expressions"}

    def _negated(self, node: exp.Not) -> str:
        from sqlglot import exp

        inner = node.this.unnest()
        opposite: dict[type[exp.Expr], type[exp.Expr]] = {exp.EQ: exp.NEQ, exp.NEQ: exp.EQ}
        if type(inner) in opposite:
            return self.text(opposite[type(inner)](this=inner.this, expression=inner.expression))
        if isinstance(inner, exp.Not):
            return self.text(inner.this)
        return f"Not({self.text(inner)})"

    def _case(self, node: exp.Case) -> str:
        """Return the text of COALESCE for a CASE that says the same."""
        from sqlglot import exp

        branches = node.args["ifs"]
        default = node.args.get("default")
        test = branches[0].this.unnest()
        if node.this or default is None or len(branches) > 1 or not isinstance(test, exp.Is):
            return self._other(node)
        if not isinstance(test.expression, exp.Null) or self.text(test.this) != self.text(default):
            return self._other(node)
        return self._other(exp.Coalesce(this=default, expressions=[branches[0].args["true"]]))

    def _other(self, node: exp.Expr) -> str:
        from sqlglot import exp

        parts: list[str] = []
        for name, value in sorted(node.args.items()):
            is_alias = name == "alias" and isinstance(node, exp.Table | exp.Subquery) and not _names_columns(value)
            if value is None or value is False or value == [] or is_alias:
                continue
            parts.append(f"{name}={self._value(value)}")
        return f"{type(node).__name__}({', '.join(parts)})"

    def _value(self, value: Any) -> str:
        from sqlglot import exp

        if isinstance(value, exp.Expression):
            return self.text(value)
        if isinstance(value, list):
            return f"[{', '.join(self._value(item) for item in value)}]"
        return repr(value)


def _names_columns(alias: Any) -> bool:
    """Return True if the alias of a table names its columns, too."""
    return bool(getattr(alias, "args", {}).get("columns"))
