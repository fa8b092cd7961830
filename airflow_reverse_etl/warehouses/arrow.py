"""Rows of Python values → Arrow columns, typed by the cursor where it says, else by the first values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow as pa

#: Most digits of a decimal in Arrow's 128 bits and in DuckDB.
_DIGITS = 38
#: Digits after the point that an undeclared decimal may have in later rows.
_ROOM = 9
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class ArrowColumn:
    """How a column's values become an Arrow array: ``convert`` is None where pyarrow takes them as they are."""

    name: str
    data_type: pa.DataType
    convert: Callable[[Any], Any] | None = None

    @classmethod
    def text(cls, name: str) -> ArrowColumn:
        import pyarrow as pa

        return cls(name, pa.string(), _text)


def column_for(description: Sequence[Any], values: Sequence[Any], *, whole: bool) -> ArrowColumn | None:
    """The column that these values need; None if they are all null.

    :param description: the column's entry in ``cursor.description``.
    :param whole: no more values are to come.
    """
    import pyarrow as pa

    name = description[0]
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return None
    if kinds <= {int} and all(value in _INT64 for value in values if value is not None):
        return ArrowColumn(name, pa.int64())
    if kinds <= {int, Decimal}:
        return _decimal(description, values, whole=whole)
    if kinds <= {int, float}:
        return ArrowColumn(name, pa.float64())
    if kinds == {datetime}:
        aware = {value.tzinfo is not None for value in values if value is not None}
        zone = "UTC" if aware == {True} else None
        return ArrowColumn(name, pa.timestamp("us", tz=zone)) if len(aware) == 1 else ArrowColumn.text(name)
    if kinds <= {bytes, bytearray, memoryview}:
        return ArrowColumn(name, pa.binary(), bytes)
    plain = {bool: pa.bool_(), str: pa.string(), date: pa.date32(), time: pa.time64("us")}
    kind = kinds.pop() if len(kinds) == 1 else None
    return ArrowColumn(name, plain[kind]) if kind in plain else ArrowColumn.text(name)


def _decimal(description: Sequence[Any], values: Sequence[Any], *, whole: bool) -> ArrowColumn:
    """A decimal of the declared scale; else of the scale seen, with room for more where more rows are to come."""
    import pyarrow as pa

    precision, scale = description[4], description[5]
    if not (isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision <= _DIGITS and precision):
        exponents = (value.as_tuple().exponent for value in values if isinstance(value, Decimal))
        seen = max((-exponent for exponent in exponents if isinstance(exponent, int)), default=0)
        scale = min(max(seen, 0 if whole else _ROOM), _DIGITS)
    return ArrowColumn(description[0], pa.decimal128(_DIGITS, scale))


def batch_of(columns: Sequence[ArrowColumn], rows: Sequence[Sequence[Any]], *, conn_id: str) -> pa.RecordBatch:
    """An Arrow batch of rows.

    :raises ConfigurationError: naming the column, when a value does not have the type of those before it.
    """
    import pyarrow as pa

    arrays = []
    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
        convert = column.convert
        try:
            items = values if convert is None else [None if value is None else convert(value) for value in values]
            arrays.append(pa.array(items, column.data_type))
        except (pa.ArrowException, TypeError, ValueError, ArithmeticError, OverflowError):
            raise ConfigurationError(
                f"column {column.name!r} was {column.data_type} in its first rows and is something else further down",
                todo="cast the column to one type in the model",
                connection=conn_id,
            ) from None
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def _text(value: Any) -> str:
    """Text as it is; JSON for what drivers make of JSON and arrays; else Python's text (UUID, interval, network …)."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
