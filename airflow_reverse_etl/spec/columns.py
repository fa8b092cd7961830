"""A column of a query, and what its text may stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

#: Key in the metadata of an Arrow field whose text stands for another value, and its values: any JSON; a JSON list or
#: object, and other text as it is; a whole number.
KIND = b"kind"
JSON = "json"
NESTED = "nested"
INTEGER = "integer"
#: The number in a decimal column that stands for one that Arrow has not: it has 39 digits, a decimal
#: at most 38. The greatest number of 39 digits is the greatest HUGEINT of DuckDB.
_NO_DECIMAL = (1 - 2**127).to_bytes(16, "little", signed=True)


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
