"""Values as they are sent: Python values of the columns of a change set.

``docs/reference/values.md`` has the table of types. A value without a Python form, such as a date in the year 10000, is
a problem of its row alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.spec.columns import INTEGER, JSON, KIND, NESTED, json_places, no_decimal

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_reverse_etl.spec.columns import JsonPlaces


_NO_TIME = "the time 24:00 cannot be sent"
_NO_DECIMAL = "NaN, Infinity and numbers with too many digits cannot be sent"
_NO_NUMBER = "NaN and Infinity have no JSON form"
#: Most digits before or after the point of a number in JSON that is kept with all its digits.
_DIGITS = 40


def with_kinds(batch: pa.RecordBatch, kinds: Mapping[str, str]) -> pa.RecordBatch:
    """Return a batch of a change set whose schema says which texts stand for other values.

    :param kinds: column → one of :mod:`airflow_reverse_etl.spec.columns`.
    """
    import pyarrow as pa

    if not kinds:
        return batch
    fields = [
        field.with_metadata({KIND: kinds[field.name].encode()}) if field.name in kinds else field
        for field in batch.schema
    ]
    return batch.cast(pa.schema(fields))


def python_values(column: pa.Array, field: pa.Field, *, parse_json: bool) -> tuple[list[Any], dict[int, str]]:
    """Return the values of a column as they are sent, and the problem of each position without a value.

    Instants are in UTC. Nanoseconds are cut to microseconds. A number of single precision keeps its own digits: 0.1
    stays 0.1. A map becomes an object.

    :param field: of the column, with the metadata of :func:`with_kinds`.
    :param parse_json: text of a JSON column becomes the value that it stands for, and numbers that JSON has not are
        problems.
    """
    import pyarrow as pa

    kind = (field.metadata or {}).get(KIND, b"").decode()
    column = _plain(column)
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError, ArithmeticError):
        values, problems = _one_by_one(column)
    else:
        problems = {}
    problems |= dict.fromkeys(_midnights(column), _NO_TIME)
    problems |= dict.fromkeys(_unreadable_decimals(column), _NO_DECIMAL)
    if parse_json and _has_floats(column.type):
        problems |= {at: _NO_NUMBER for at, value in enumerate(values) if not _is_finite(value)}
    if kind == INTEGER:
        return [_integer(value) for value in values], problems
    if kind in (JSON, NESTED) and parse_json:
        return [_parsed(value, nested=kind == NESTED) for value in values], problems
    if (convert := _nested(column.type)) is not None:
        values = [_with(convert, value) for value in values]
    places = json_places(kind)
    # Other destinations write lists of JSON as arrays of texts, and objects as JSON.
    if parse_json or places != [JSON] or pa.types.is_map(column.type):
        values = [_with_json(places, value) for value in values]
    return values, problems


def _with_json(places: JsonPlaces, value: Any) -> Any:
    """Return a value whose texts at places are the values that they stand for."""
    if places is None or value is None:
        return value
    if places == JSON:
        return _parsed(value, nested=False)
    if isinstance(places, dict):
        return {name: _with_json(places.get(name), item) for name, item in value.items()}
    [each] = places
    if isinstance(value, dict):
        return {name: _with_json(each, item) for name, item in value.items()}
    return [_with_json(each, item) for item in value]


def _plain(column: pa.Array) -> pa.Array:
    """Convert what Arrow converts faster than Python."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    is_ = pa.types
    if is_.is_float32(kind) or is_.is_float16(kind):
        # Through text, as Arrow writes the shortest digits of the type.
        return column.cast(pa.string()).cast(pa.float64())
    if is_.is_timestamp(kind):
        # A cast that is not safe cuts nanoseconds.
        column = column.cast(pa.timestamp("us", kind.tz), safe=False) if kind.unit == "ns" else column
        return column.cast(pa.timestamp(column.type.unit, "UTC")) if kind.tz not in (None, "UTC") else column
    if is_.is_time64(kind) and kind.unit == "ns":
        return column.cast(pa.time64("us"), safe=False)
    if is_.is_dictionary(kind):
        return pc.cast(column, kind.value_type)
    return column


def _one_by_one(column: pa.Array) -> tuple[list[Any], dict[int, str]]:
    values: list[Any] = []
    problems: dict[int, str] = {}
    for at in range(len(column)):
        try:
            values.append(column[at].as_py())
        except (ValueError, OverflowError, ArithmeticError):
            values.append(None)
            problems[at] = f"a value of type {column.type} cannot be sent: dates are in the years 1 to 9999"
    return values, problems


def _midnights(column: pa.Array) -> list[int]:
    """Return the positions of the time 24:00, which Python would read as 00:00."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_time64(column.type):
        return []
    late = pc.greater_equal(column.view(pa.int64()), 86_400_000_000)
    return list(pc.indices_nonzero(pc.fill_null(late, fill_value=False)).to_pylist())


def _unreadable_decimals(column: pa.Array) -> list[int]:
    """Return the positions of numbers that the column could not hold when it was read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_decimal128(column.type):
        return []
    found = pc.equal(column, no_decimal(column.type))
    return list(pc.indices_nonzero(pc.fill_null(found, fill_value=False)).to_pylist())


def _integer(value: Any) -> Any:
    """Return the whole number that a text stands for; other texts as they are."""
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _parsed(value: Any, *, nested: bool) -> Any:
    """Return the value that JSON text stands for; a text that is not JSON as it is.

    :param nested: only lists and objects count.
    """
    if not isinstance(value, str) or (nested and not value.startswith(("[", "{"))):
        return value
    try:
        return json.loads(value, parse_constant=_no_constant, parse_float=_number)
    except (ValueError, RecursionError):
        return value


def _number(text: str) -> float | Decimal:
    """Return the number of a text in JSON; one with more digits than a float has as a decimal."""
    number = float(text)
    exact = Decimal(text)
    # Written without an exponent, a number far from 1 would be a long text.
    if Decimal(repr(number)) == exact or not -_DIGITS <= exact.adjusted() <= _DIGITS:
        return number
    return exact


def _has_floats(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_floating(kind):
        return True
    return any(_has_floats(kind.field(at).type) for at in range(kind.num_fields))


def _is_finite(value: Any) -> bool:
    """Return whether a value has no NaN and no infinity."""
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return True


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _nested(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """Return the function that converts values of a nested type whose Python form is not what is sent, else None."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_map(kind):
        convert = _nested(kind.item_type) or _same
        return lambda value: {str(name): _with(convert, item) for name, item in value}
    if is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind):
        inner = _nested(kind.value_type)
        return inner and (lambda value: [_with(inner, item) for item in value])
    if is_.is_struct(kind):
        members = dict(_members(kind))
        return _struct(members) if members else None
    return _shortest if is_.is_float32(kind) else None


def _shortest(value: float) -> float:
    """Return the number with the fewest digits that is this number of single precision."""
    for digits in range(6, 9):
        found = float(f"{value:.{digits}g}")
        if struct.unpack("f", struct.pack("f", found))[0] == value:
            return found
    return float(f"{value:.9g}")


def _members(kind: pa.DataType) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    for at in range(kind.num_fields):
        field = kind.field(at)
        if (convert := _nested(field.type)) is not None:
            yield field.name, convert


def _struct(members: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    return lambda value: {name: _with(members.get(name, _same), item) for name, item in value.items()}


def _with(convert: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else convert(value)


def _same(value: Any) -> Any:
    return value
