"""Texts of the problems found in a specification."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

#: Tags of the kinds of fields, which no author has written.
_FIELD_TAGS = ("name", "sql", "column", "value", "template", "change", "exclude")
#: Most problems that an error lists.
MAX_PROBLEMS = 100


def title(count: int) -> str:
    """Return the first line of an error with so many problems."""
    noun = "problem" if count == 1 else "problems"
    return f"the sync specification has {count:,} {noun}"


def at_most(problems: Sequence[str]) -> tuple[str, ...]:
    """Return the problems of a specification, without those that nobody would read."""
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    return (*problems[:MAX_PROBLEMS], f"and {len(problems) - MAX_PROBLEMS:,} others")


def problem_text(where: Sequence[str], message: str, line: int | None = None, path: Path | None = None) -> str:
    """Return a problem with its place: ``file:line: key: message``."""
    file = getattr(line, "file", path)  # a line of a folder's defaults has its own
    place = f"{file}:{line}: " if file and line else ""
    return f"{place}{'.'.join(where) or 'sync'}: {message}"


def problems_of(
    error: ValidationError, known_keys: Callable[[Sequence[str]], Sequence[str]]
) -> list[tuple[tuple[str, ...], str]]:
    """Translate pydantic's errors into (path, message) pairs.

    Paths have no union tags. The message for an unknown key suggests the nearest known one.
    """
    found: list[tuple[tuple[str, ...], str]] = []
    for item in error.errors(include_url=False):
        where = tuple(str(part) for part in item["loc"])
        # drop the tag of the union's member, which no author has written
        if len(where) > 1 and where[0] in ("model", "track") and where[1] in ("name", "table", "sql", "details"):
            where = (where[0], *where[2:])
        if len(where) > 2 and where[0] == "mapping" and where[2] in _FIELD_TAGS:
            where = (*where[:2], *where[3:])
        if len(where) > 1 and where[0] == "nulls" and where[1] in ("name", "value", "fields"):
            where = (where[0], *where[2:])
        if len(where) > 3 and where[:2] == ("nulls", "fields") and where[3] in ("name", "value"):
            where = (*where[:3], *where[4:])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            # Searching for similar names takes time. Nobody reads the hint of a problem that is not listed.
            hint = nearest(where[-1], known_keys(where[:-1])) if len(found) < MAX_PROBLEMS else ""
            message = f"unknown key{hint}"
        elif item["type"] == "missing":
            message = "is required"
        found.append((where, message))
    return found


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ``"; did you mean 'mapping'?"``, or the list of known names if none is similar."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""
