"""Constants and names as SQL."""

from __future__ import annotations


def literal(value: object, dialect: str) -> str:
    """Return a constant (text, number, boolean, None) as SQL."""
    from sqlglot import exp

    return exp.convert(value).sql(dialect)


def quoted(name: str, dialect: str) -> str:
    """Return an identifier as SQL, always quoted."""
    from sqlglot import exp

    return exp.to_identifier(name, quoted=True).sql(dialect)
