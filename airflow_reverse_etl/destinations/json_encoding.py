"""Records → JSON, exactly: decimals as numbers, times in UTC, bytes as base64; NaN and Infinity are refused."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt

_OFFSET = re.compile(rb'[+-]\d\d:\d\d"')


class NotJsonError(ValueError):
    """A value has no JSON form. The text names its type, never the value."""


def dumps(value: Any) -> bytes:
    """``value`` as JSON in UTF-8, without spaces.

    Decimals are written as numbers with all their digits, dates and times as ISO 8601 (with a time zone: in UTC, with
    ``Z``), UUIDs as text, bytes as base64.

    :raises NotJsonError: for NaN, Infinity, text that is not Unicode, and types without a JSON form.
    """
    import orjson

    try:
        data = orjson.dumps(value, _default, orjson.OPT_UTC_Z)
    except TypeError:  # a value without JSON form, or an integer beyond 64 bits, which is fine here
        return _dumps_plain(value)
    # orjson writes NaN as null, and keeps other zones than UTC. Both are rare, and finding a hint of them in the
    # bytes costs a hundredth of looking at every value.
    if b"null" in data and _has_nan(value):
        raise NotJsonError("NaN or Infinity has no JSON form")
    return _dumps_plain(value) if _may_have_offset(data) else data


def dumps_rows(records: Sequence[Mapping[str, Any]]) -> tuple[bytes, dict[int, str]]:
    """Records as one JSON array, without those that have no JSON form: position → problem."""
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


def json_rows(batch: Batch) -> tuple[bytes, Batch, dict[str, Receipt]]:
    """A batch as one JSON array, without the rows that have no JSON form; the batch of the rows in it; and the
    receipts of the others."""
    body, problems = dumps_rows(batch.records)
    if not problems:
        return body, batch, {}
    rejected = {batch.keys[at]: Receipt(Outcome.REJECTED, "not_json", text) for at, text in problems.items()}
    return body, batch.only(at for at in range(len(batch)) if at not in problems), rejected


def _may_have_offset(data: bytes) -> bool:
    """Cheapest test first: most rows have no ``T``; offsets end in :00, :30 or :45."""
    if b"T" not in data or (b':00"' not in data and b':30"' not in data and b':45"' not in data):
        return False
    return _OFFSET.search(data) is not None


def _default(value: Any) -> Any:
    import orjson

    if isinstance(value, Decimal):
        if not value.is_finite():
            raise NotJsonError("NaN or Infinity has no JSON form")
        return orjson.Fragment(str(value))
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
    """``value`` with everything replaced that orjson writes differently from us."""
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
