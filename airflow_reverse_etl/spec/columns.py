"""A column of a query, and what its text may stand for."""

from __future__ import annotations

from dataclasses import dataclass

#: Key in the metadata of an Arrow field whose text stands for another value, and its values: any JSON; a JSON list or
#: object, and other text as it is; a whole number.
KIND = b"kind"
JSON = "json"
NESTED = "nested"
INTEGER = "integer"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query: its name, and its type in the warehouse's own words (may be empty)."""

    name: str
    data_type: str = ""
