"""Stored values: the check that what is read has the types of what was stored."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

T = TypeVar("T")


def typed(cls: type[T], values: Any) -> T:
    """Make an object of a class from stored values.

    :raises ValueError: a value is missing, or has another type than the class says.
    """
    adapter: TypeAdapter[T] = _adapter(cast(Any, cls))
    return adapter.validate_python(values)


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)
