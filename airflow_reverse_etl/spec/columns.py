"""A column of a query."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query, as the warehouse names it and types it (its own type text, may be empty)."""

    name: str
    data_type: str = ""
