"""Types of a specification's values: a limit, a duration, one name or several, a constant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

#: Most levels of a value, of a sync file, and of a field's name, whose dots nest.
MAX_DEPTH = 50
#: Most digits of a whole number.
_MAX_DIGITS = 300

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
        try:
            return timedelta(**{_UNITS[match.group(2)]: int(match.group(1))})
        except (OverflowError, ValueError):
            raise ValueError("must be less than a million years") from None
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


def constant_problem(value: object, *, depth: int = 0) -> str:
    """Return why a value cannot be a part of a record or of a destination's options; empty if it can."""
    if depth > MAX_DEPTH:
        return f"must not be nested more than {MAX_DEPTH} levels deep"
    if isinstance(value, int):
        return "" if abs(value) < 10**_MAX_DIGITS else f"must be a number with at most {_MAX_DIGITS} digits"
    if value is None or isinstance(value, str | float | Decimal | date | time | UUID):
        return ""
    if isinstance(value, Mapping):
        keys = [key for key in value if not isinstance(key, str | int) or isinstance(key, bool)]
        parts = [*value, *value.values()]
        problem = "must have text or numbers as keys" if keys else ""
    elif isinstance(value, list | tuple):
        parts = list(value)
        problem = ""
    else:
        return f"must be text, a number, a date, true, false, null, a list or a mapping, not a {type(value).__name__}"
    return problem or next(filter(None, (constant_problem(part, depth=depth + 1) for part in parts)), "")


def _constant(value: Any) -> Any:
    if problem := constant_problem(value):
        raise ValueError(problem)
    return value


#: A value that is the same for every row.
Constant = Annotated[Any, AfterValidator(_constant)]


#: Characters that are blank in every dialect: space, tab, CR, LF and the no-break space.
BLANKS = " \t\r\n\u00a0"


def is_blank(value: object) -> bool:
    """Return whether a value is null or blank, and so cannot identify a record."""
    return value is None or (isinstance(value, str) and not value.strip(BLANKS))
