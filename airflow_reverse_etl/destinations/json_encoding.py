"""Exact JSON of records: decimals as numbers, times in UTC, bytes as base64; NaN and Infinity are refused."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_OFFSET = re.compile(rb'[+-]\d\d:\d\d"')


class NotJsonError(ValueError):
    """A value has no JSON form. The text names its type, never the value."""


def dumps(value: Any) -> bytes:
    """Return a value as JSON in UTF-8, without spaces.

    Decimals become numbers with all their digits, UUIDs become text, bytes become base64. Dates and times are written
    as ISO 8601; those with a time zone are converted to UTC and end with ``Z``.

    :raises NotJsonError: the value contains NaN, Infinity, text that is not Unicode, or a type without a JSON form.
    """
    import orjson

    try:
        data = orjson.dumps(value, _default, orjson.OPT_UTC_Z)
    except TypeError:  # a value without a JSON form, or an integer beyond 64 bits, which JSON allows
        return _dumps_plain(value)
    # orjson writes NaN as null, and keeps time zones other than UTC. Both are rare, and searching the bytes for a hint
    # costs a hundredth of checking every value.
    if b"null" in data and _has_nan(value):
        raise NotJsonError("NaN or Infinity has no JSON form")
    return _dumps_plain(value) if _may_have_offset(data) else data


def dumps_rows(records: Sequence[Mapping[str, Any]]) -> tuple[bytes, dict[int, str]]:
    """Return records as one JSON array, and the problems of records that have no JSON form: position → problem.

    The array leaves out the records with a problem.
    """
    # Usually every record has a JSON form, and one call encodes them all.
    try:
        return dumps(records), {}
    except NotJsonError:
        pass
    parts: list[bytes] = []
    problems: dict[int, str] = {}
    for position, record in enumerate(records):
        try:
            parts.append(dumps(record))
        except NotJsonError as error:
            problems[position] = str(error)
    return b"[" + b",".join(parts) + b"]", problems


def _may_have_offset(data: bytes) -> bool:
    """Return whether JSON may contain a time with an offset from UTC."""
    # The cheapest test comes first: most rows have no "T". Offsets end in :00, :30 or :45.
    if b"T" not in data or (b':00"' not in data and b':30"' not in data and b':45"' not in data):
        return False
    return _OFFSET.search(data) is not None


def _default(value: Any) -> Any:
    import orjson

    if isinstance(value, Decimal):
        if not value.is_finite():
            raise NotJsonError("NaN or Infinity has no JSON form")
        return orjson.Fragment(f"{value:f}")
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise NotJsonError(f"a value of type {type(value).__name__} has no JSON form")


def _dumps_plain(value: Any) -> bytes:
    import orjson

    try:
        return orjson.dumps(_plain(value), _default, orjson.OPT_UTC_Z)
    except TypeError as error:
        cause = error.__cause__
        raise NotJsonError(str(cause) if isinstance(cause, NotJsonError) else "text that is not Unicode") from None


def _plain(value: Any) -> Any:
    """Return a value in which everything is replaced that orjson alone would encode differently."""
    import orjson

    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if isinstance(value, int) and not isinstance(value, bool):
        return orjson.Fragment(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise NotJsonError("NaN or Infinity has no JSON form")
    return value


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_nan(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_has_nan(item) for item in value)
    return False
