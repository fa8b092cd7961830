"""Facts about any database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Facts about a database. The defaults suit a database of which nothing else is known.

    :param name: sqlglot's name of the dialect.
    """

    name: str
