"""The names that a query gives its columns, as far as its words show them. To parse the query takes much longer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot import Token


def selected_names(sql: str, dialect: str | None) -> frozenset[str]:
    """Return some names of a query's columns, in lower case: each is certain, and others may exist.

    :returns: nothing for a set operation, or a text that is not a query.
    """
    from sqlglot.dialects import Dialect
    from sqlglot.errors import SqlglotError

    try:
        tokens = Dialect.get_or_raise(dialect).tokenize(sql)
    except SqlglotError:
        return frozenset()
    return frozenset(name for item in _items(tokens) for name in _name(item))


def _items(tokens: Iterable[Token]) -> list[list[Token]]:
    """Return the items of the only SELECT that is not in parentheses."""
    from sqlglot import TokenType

    opening = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE)
    closing = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE)
    several = (TokenType.UNION, TokenType.INTERSECT, TokenType.EXCEPT, TokenType.SEMICOLON)
    depth = 0
    is_list = False
    items: list[list[Token]] = []
    for token in tokens:
        kind = token.token_type
        depth += (kind in opening) - (kind in closing)
        if depth == 0:
            if kind in several or (kind == TokenType.SELECT and items):
                return []
            if kind == TokenType.FROM:
                is_list = False
            elif kind == TokenType.SELECT or (kind == TokenType.COMMA and is_list):
                is_list = True
                items.append([])
                continue
        if is_list:
            items[-1].append(token)
    return items


def _name(item: list[Token]) -> Iterator[str]:
    """Yield the name of ``a``, ``t.a`` or ``… AS a``."""
    from sqlglot import TokenType

    kinds = [token.token_type for token in item]
    words = (TokenType.VAR, TokenType.IDENTIFIER)
    if not item or kinds[-1] not in words:
        return
    is_column = len(item) == 1 or (len(item) == 3 and kinds[0] in words and kinds[1] == TokenType.DOT)
    if is_column or kinds[-2] == TokenType.ALIAS:
        yield item[-1].text.lower()
