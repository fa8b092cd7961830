"""Conversion of drivers' rows and batches to Arrow columns of few types.

Rows of Python values are typed by the cursor's description if it has the type, otherwise by the first values. Arrow
batches of a driver keep their types, but widths and units become the same for all drivers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.columns import JSON, KIND, nested_kind, no_decimal

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_reverse_etl.spec.columns import JsonPlaces

#: A running query: its cursor, schema, first batch, and a function that returns the next batch, or None at the end.
RunningQuery = tuple[Any, "pa.Schema", "pa.RecordBatch | None", Callable[[], "pa.RecordBatch | None"]]

#: Most digits of a decimal in Arrow's 128 bits and in DuckDB.
_DIGITS = 38
#: Digits after the point reserved for later rows of a decimal without a declared scale.
_ROOM = 9
_INT64 = range(-(2**63), 2**63)
_DAY = 86_400_000_000  # microseconds
#: Stands in a driver's rows for a date or time that Python has not: infinite, before the year 1, after 9999, or 24:00.
UNSUPPORTED = object()
_FIRST_DAY = (date.min - date(1970, 1, 1)).days
_LAST_DAY = (date.max - date(1970, 1, 1)).days


@dataclass(frozen=True, slots=True)
class ArrowColumn:
    """A column, and the conversion of its values to an Arrow array. Without ``convert``, pyarrow accepts the values.

    :param kind: what its text stands for; empty for the text itself.
    """

    name: str
    data_type: pa.DataType
    convert: Callable[[Any], Any] | None = None
    kind: str = ""

    @classmethod
    def of(cls, name: str, data_type: pa.DataType, kind: str = "") -> ArrowColumn:
        """Build a column of a known type."""
        import pyarrow as pa

        converts: dict[pa.DataType, Callable[[Any], Any]] = {pa.string(): _text, pa.binary(): bytes}
        return cls(name, data_type, converts.get(data_type), kind)

    @classmethod
    def text(cls, name: str, kind: str = "") -> ArrowColumn:
        """Build a column that converts all values to text."""
        import pyarrow as pa

        return cls.of(name, pa.string(), kind)

    @property
    def field(self) -> pa.Field:
        """The column's field in a schema."""
        return field_of(self.name, self.data_type, self.kind)


def column_for(description: Sequence[Any], values: Sequence[Any], *, complete: bool) -> ArrowColumn | None:
    """Return a column for these values; None if all are null.

    :param description: the column's entry in ``cursor.description``.
    :param complete: no values follow these.
    """
    import pyarrow as pa

    name = description[0]
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return None
    if kinds <= {int} and all(value in _INT64 for value in values if value is not None):
        return ArrowColumn(name, pa.int64())
    if kinds <= {int, Decimal}:
        return _decimal(description, values, complete=complete)
    if kinds <= {int, float}:
        return ArrowColumn(name, pa.float64())
    if kinds == {datetime}:
        aware = {value.tzinfo is not None for value in values if value is not None}
        if len(aware) > 1:
            return ArrowColumn.text(name)
        zone = "UTC" if aware == {True} else None
        return ArrowColumn(name, pa.timestamp("us", tz=zone))
    if kinds <= {bytes, bytearray, memoryview}:
        return ArrowColumn.of(name, pa.binary())
    if kinds <= {dict, list, tuple}:
        return ArrowColumn.text(name, JSON)
    plain = {bool: pa.bool_(), str: pa.string(), date: pa.date32(), time: pa.time64("us")}
    kind = kinds.pop() if len(kinds) == 1 else None
    return ArrowColumn(name, plain[kind]) if kind in plain else ArrowColumn.text(name)


def _decimal(description: Sequence[Any], values: Sequence[Any], *, complete: bool) -> ArrowColumn:
    """Return a decimal column of the declared scale.

    Without a declared scale, use the scale of the values, with room for more digits if more values follow.
    """
    import pyarrow as pa

    precision = description[4]
    scale = description[5]
    is_declared = isinstance(precision, int) and isinstance(scale, int)
    if not (is_declared and 0 <= scale <= precision <= _DIGITS and precision):
        exponents = (value.as_tuple().exponent for value in values if isinstance(value, Decimal))
        seen = max((-exponent for exponent in exponents if isinstance(exponent, int)), default=0)
        scale = min(max(seen, 0 if complete else _ROOM), _DIGITS)
    return ArrowColumn(description[0], pa.decimal128(_DIGITS, scale))


def schema_of(columns: Sequence[ArrowColumn]) -> pa.Schema:
    """Return the Arrow schema of columns."""
    import pyarrow as pa

    return pa.schema([column.field for column in columns])


def field_of(name: str, data_type: pa.DataType, kind: str) -> pa.Field:
    """Return a field of a schema, which says what its text stands for.

    :param kind: a value of :data:`~airflow_reverse_etl.spec.columns.KIND`, or empty.
    """
    import pyarrow as pa

    stands = kind and (pa.types.is_string(data_type) or pa.types.is_nested(data_type))
    return pa.field(name, data_type, metadata={KIND: kind.encode()} if stands else None)


#: Names of types whose text is JSON, as databases and drivers write them.
_JSON_TYPES = frozenset(
    {"JSON", "JSONB", "ARROW.JSON", "VARIANT", "OBJECT", "ARRAY", "SUPER", "MAP", "STRUCT", "RECORD"}
    | {"GOOGLE:SQLTYPE:JSON"}  # of BigQuery's Storage API
)


def kind_of_field(field: pa.Field) -> str:
    """Return what the text of a driver's column stands for, by the names of types in the metadata of its fields."""
    return nested_kind(_json_places(field))


def _json_places(field: pa.Field) -> JsonPlaces:
    import pyarrow as pa

    kind = field.type
    is_ = pa.types
    if is_.is_map(kind):
        places = _json_places(kind.item_field)
        return None if places is None else [places]
    if is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind):
        places = _json_places(kind.value_field)
        return None if places is None else [places]
    if is_.is_struct(kind):
        fields = {inner.name: _json_places(inner) for inner in kind}
        return {name: places for name, places in fields.items() if places is not None} or None
    return JSON if _is_json(field) else None


def _is_json(field: pa.Field) -> bool:
    names = {value.decode(errors="replace").upper() for value in (field.metadata or {}).values()}
    names.add(str(getattr(field.type, "extension_name", "")).upper())
    return bool(names & _JSON_TYPES)


def batch_of(columns: Sequence[ArrowColumn], rows: Sequence[Sequence[Any]], *, conn_id: str) -> pa.RecordBatch | None:
    """Build an Arrow batch of rows; None without rows.

    Dates that Python has not become infinite ones, and numbers that a decimal cannot hold :func:`no_decimal`.

    :raises ConfigurationError: a value does not have the type of its column. The error names the column.
    """
    import pyarrow as pa

    if not rows:
        return None
    arrays = []
    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
        convert = column.convert
        try:
            items = values if convert is None else [None if value is None else convert(value) for value in values]
            if pa.types.is_temporal(column.data_type) and UNSUPPORTED in items:
                infinite = _range_of(column.data_type).infinite
                items = [infinite if value is UNSUPPORTED else value for value in items]
            arrays.append(_array(items, column.data_type))
        except (pa.ArrowException, TypeError, ValueError, ArithmeticError, OverflowError):
            raise _does_not_fit(column.name, column.data_type, conn_id) from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema_of(columns))


def _array(items: Sequence[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(items, kind)
    except pa.ArrowException:
        if not pa.types.is_decimal(kind):
            raise
    return _fitting_decimals(items, kind)


def _fitting_decimals(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Build a column of decimals in which :func:`no_decimal` stands for each number that does not fit.

    :raises TypeError: a value is not a decimal.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not all(isinstance(value, Decimal | int | None) for value in values):
        raise TypeError
    fits = [value is None or _fits(value, kind) for value in values]
    numbers = pa.array([value if fit else None for value, fit in zip(values, fits, strict=True)], kind)
    return pc.if_else(pa.array(fits), numbers, no_decimal(kind))


def _fits(value: Decimal | int, kind: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        pa.scalar(value, kind)
    except pa.ArrowException:
        return False
    return True


def _does_not_fit(name: str, data_type: pa.DataType, conn_id: str) -> ConfigurationError:
    return ConfigurationError(
        f"column {name!r} is read as {data_type}, and a value has another type",
        todo="cast the column to one type in the model",
        connection=conn_id,
    )


def unified_type(kind: pa.DataType) -> pa.DataType:
    """Return the type to which a driver's Arrow column is converted."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_integer(kind):
        return pa.int64()
    if is_.is_floating(kind):
        return pa.float64()
    if is_.is_decimal(kind):
        fits = 0 <= kind.scale <= _DIGITS and kind.precision <= _DIGITS
        return pa.decimal128(_DIGITS, kind.scale) if fits else pa.string()
    if is_.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if is_.is_date(kind):
        return pa.date32()
    if is_.is_time(kind):
        return pa.time64("us")
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind) or is_.is_binary_view(kind):
        return pa.binary()
    return kind if is_.is_nested(kind) or is_.is_boolean(kind) else pa.string()


def cast(batch: pa.RecordBatch, schema: pa.Schema, *, conn_id: str) -> pa.RecordBatch:
    """Cast a driver's batch to the types of a schema.

    Dates that Python has not become infinite ones, and numbers that a decimal cannot hold :func:`no_decimal`.

    :raises ConfigurationError: a value does not fit.
    """
    import pyarrow as pa

    arrays = []
    for array, field in zip(batch.columns, schema, strict=True):
        try:
            arrays.append(_with_infinite_dates(_cast(array, field.type)))
        except pa.ArrowException:
            raise _does_not_fit(field.name, field.type, conn_id) from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_float32(array.type) and pa.types.is_float64(kind):  # through text: 0.1 stays 0.1
        array = array.cast(pa.string())
    if array.type == kind:
        return array
    if pa.types.is_decimal(kind) and pa.types.is_string(array.type):
        return _decimals_of(array, kind)
    return array.cast(kind, safe=not pa.types.is_timestamp(kind))  # unsafe for timestamps: truncates nanoseconds


def _decimals_of(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    # Arrow accepts texts with more digits and yields a wrong number.
    if longest <= _DIGITS:
        with contextlib.suppress(pa.ArrowException):
            return texts.cast(kind)
    return _fitting_decimals([None if text is None else Decimal(text) for text in texts.to_pylist()], kind)


class _Range(NamedTuple):
    """Numbers of the dates or times that Python has, and the number that DuckDB reads as an infinite one."""

    number: pa.DataType
    lowest: int
    highest: int
    infinite: int


def _range_of(kind: pa.DataType) -> _Range:
    import pyarrow as pa

    if pa.types.is_date(kind):
        return _Range(pa.int32(), _FIRST_DAY, _LAST_DAY, 2**31 - 1)
    if pa.types.is_time(kind):
        return _Range(pa.int64(), 0, _DAY - 1, _DAY)
    return _Range(pa.int64(), _FIRST_DAY * _DAY, (_LAST_DAY + 1) * _DAY - 1, 2**63 - 1)


def _with_infinite_dates(array: pa.Array) -> pa.Array:
    """Return the column with infinity for dates outside of the years 1 to 9999, and 24:00 for times after the day.

    Drivers do not check this. For infinity, some return other numbers out of the range.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_temporal(array.type):
        return array
    numbers, lowest, highest, infinite = _range_of(array.type)
    values = array.view(numbers)
    found = pc.min_max(values).as_py()
    if found["min"] is None or (lowest <= found["min"] and found["max"] <= highest):
        return array
    supported = pc.and_(pc.greater_equal(values, lowest), pc.less_equal(values, highest))
    return pc.if_else(supported, values, pa.scalar(infinite, numbers)).view(array.type)


def _text(value: Any) -> str:
    """Convert a value to text: dicts, lists and tuples to JSON, others (UUID, interval, network …) to Python's text."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
