"""A column of a query, and what its text may stand for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

#: Key in the metadata of an Arrow field whose text stands for another value, and its values: any JSON; a JSON list or
#: object, and other text as it is; a whole number; or what :func:`nested_kind` returns.
KIND = b"kind"
JSON = "json"
NESTED = "nested"
INTEGER = "integer"
#: The number in a decimal column that stands for one that Arrow has not: it has 39 digits, a decimal
#: at most 38. The greatest number of 39 digits is the greatest HUGEINT of DuckDB.
_NO_DECIMAL = (1 - 2**127).to_bytes(16, "little", signed=True)

#: Where JSON is in values of a type: :data:`JSON` for a text that is JSON, ``[places]`` for each item of a list and
#: each value of a map, ``{name: places}`` for fields of a struct; None if nowhere.
JsonPlaces = Any


def nested_kind(places: JsonPlaces) -> str:
    """Return the value of :data:`KIND` for a column with JSON at places; empty for none."""
    if places is None:
        return ""
    return places if isinstance(places, str) else json.dumps(places)


def json_places(kind: str) -> JsonPlaces:
    """Return the places of :func:`nested_kind`; None for every other kind."""
    return json.loads(kind) if kind.startswith(("[", "{")) else None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query: its name, and its type in the warehouse's own words (may be empty)."""

    name: str
    data_type: str = ""


def no_decimal(data_type: pa.DataType) -> pa.Scalar:
    """Return the value that stands for a number that a decimal column cannot hold: NaN, infinity, too many digits.

    :param data_type: a decimal of 128 bits with 38 digits.
    """
    import pyarrow as pa

    return pa.Array.from_buffers(data_type, 1, [None, pa.py_buffer(_NO_DECIMAL)])[0]
