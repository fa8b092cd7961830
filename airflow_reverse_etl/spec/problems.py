"""The problems of a specification, in words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import (
        ValidationError,
    )


def title(count: int) -> str:
    """Count the problems, in words."""
    return f"the sync specification has {count} problem{'s' if count != 1 else ''}"


def problem_text(where: Sequence[str], message: str, line: int | None = None, path: Path | None = None) -> str:
    """A problem with its place: ``file:line: key: message``."""
    place = f"{path}:{line}: " if path and line else ""
    return f"{place}{'.'.join(where) or 'sync'}: {message}"


def problems_of(
    error: ValidationError, known_keys: Callable[[Sequence[str]], Sequence[str]]
) -> list[tuple[tuple[str, ...], str]]:
    """Pydantic's errors in our words: path without union tags, nearest known key for an unknown one."""
    found = []
    for item in error.errors(include_url=False):
        where = tuple(str(part) for part in item["loc"])
        if len(where) > 1 and where[0] in ("model", "track") and where[1] in ("name", "table", "sql", "details"):
            where = (where[0], *where[2:])
        if len(where) > 2 and where[0] == "mapping" and where[2] in ("name", "sql", "value", "template"):
            where = (*where[:2], *where[3:])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key{nearest(where[-1], known_keys(where[:-1]))}"
        elif item["type"] == "missing":
            message = "is required"
        found.append((where, message))
    return found


def nearest(name: str, known: Sequence[str]) -> str:
    """``"; did you mean 'mapping'?"``, or the list of what is known when nothing is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""
