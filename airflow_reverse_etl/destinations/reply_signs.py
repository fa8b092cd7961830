"""Signs in a 2xx reply that not every row was written, for syncs that do not say where the reply reports rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Fields that are false where something failed.
_VERDICTS = ("ok", "success", "successful")
#: Fields that hold something, or count something, only where something failed.
_FAILURES = ("error", "errors", "failed", "failures")
#: Levels of objects that are searched: ``{"data": {"result": {"errors": […]}}}``.
_DEPTH = 3


def signs_of_failure(answer: Any) -> list[str]:
    """Return the paths at which a reply reports failures, such as ``errors`` or ``results.success``, sorted.

    Objects are searched down to the third level, and each object in a list, but nothing inside of those: there stand
    the records as the API echoes them.
    """
    return sorted(set(_failures(answer, "", _DEPTH)))


def lists_of(answer: Any) -> list[str]:
    """Return the paths of the lists in a reply, sorted; ``(the reply)`` where it is a list itself."""
    return sorted(path or "(the reply)" for path in _lists(answer, "", _DEPTH))


def _failures(value: Any, path: str, depth: int) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            if isinstance(entry, Mapping):
                yield from _failures_here(entry, path)
    elif isinstance(value, Mapping):
        yield from _failures_here(value, path)
        if depth:
            for name, inner in value.items():
                yield from _failures(inner, _below(path, name), depth - 1)


def _failures_here(value: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, inner in value.items():
        word = name.lower()
        if (word in _VERDICTS and inner is False) or (word in _FAILURES and inner):
            yield _below(path, name)


def _lists(value: Any, path: str, depth: int) -> Iterator[str]:
    if isinstance(value, list):
        yield path
    elif isinstance(value, Mapping) and depth:
        for name, inner in value.items():
            yield from _lists(inner, _below(path, name), depth - 1)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
