"""Types of a specification's values: a limit, a duration, one name or several."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_LIMIT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*$")
_DURATION = re.compile(r"^\s*(\d+)\s*(s|m|h|d|w)\s*$")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _limit(value: object) -> object:
    if isinstance(value, str) and _LIMIT.match(value):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("must be a number of rows (100) or a percentage of them ('5%')")


#: A number of rows, or a percentage of them such as ``"5%"``.
Limit = Annotated[
    int | str,
    BeforeValidator(_limit),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _LIMIT.pattern}]}),
]


def rows_of(limit: int | str, total: int) -> float:
    """Return the number of rows of ``total`` that a limit allows: ``rows_of("5%", 200) == 10.0``."""
    if isinstance(limit, int):
        return limit
    match = _LIMIT.match(limit)
    assert match is not None, limit  # validated when the spec was read
    return total * float(match.group(1)) / 100


def _duration(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.match(value)):
        return timedelta(**{_UNITS[match.group(2)]: int(match.group(1))})
    if isinstance(value, timedelta):
        return value
    raise ValueError("must be a duration such as 30s, 15m, 12h, 14d or 2w")


#: A duration: ``"14d"``, ``"12h"`` or a timedelta.
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(lambda delta: f"{int(delta.total_seconds())}s", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern}),
]


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


#: One name, or a list of them.
Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_names),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


#: Characters that are blank in every dialect: space, tab, CR, LF and the no-break space.
BLANKS = " \t\r\n\u00a0"


def is_blank(value: object) -> bool:
    """Return whether a value is null or blank, and so cannot identify a record."""
    return value is None or (isinstance(value, str) and not value.strip(BLANKS))
