"""A column of a query."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query: its name, and its type in the warehouse's own words (may be empty)."""

    name: str
    data_type: str = ""
