"""Signs in a 2xx reply that some row was not written, for syncs whose options do not read results from the reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Fields that are false if something failed.
_VERDICTS = ("ok", "success", "successful")
#: Fields that are neither empty nor zero only if something failed, without underscores.
_FAILURES = (
    *("error", "errors", "failed", "failures", "failedrecords", "failedrecordcount"),
    *("failcount", "failedcount", "failurecount", "errorcount", "numerrors", "numfailed"),
)
#: Number of nested objects that are searched: ``{"data": {"result": {"errors": […]}}}``.
_DEPTH = 3


def signs_of_failure(answer: Any) -> list[str]:
    """Return the paths at which a reply reports failures, such as ``errors`` or ``results.success``, sorted.

    The search covers objects down to the third level and the objects in their lists. It does not descend into the
    objects of a list, which often contain the records as the API echoes them.
    """
    return sorted(set(_failures(answer, "", _DEPTH)))


def lists_of(answer: Any) -> list[str]:
    """Return the paths of the lists in a reply, sorted; ``(the reply)`` if the reply itself is a list."""
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
        word = name.replace("_", "").lower()
        if (word in _VERDICTS and inner is False) or (word in _FAILURES and not _is_empty(inner)):
            yield _below(path, name)


def _is_empty(value: Any) -> bool:
    """Return whether a value is empty or zero, or an object of empty lists only."""
    if isinstance(value, Mapping):
        return all(inner in (None, [], {}) for inner in value.values())
    return not value


def _lists(value: Any, path: str, depth: int) -> Iterator[str]:
    if isinstance(value, list):
        yield path
    elif isinstance(value, Mapping) and depth:
        for name, inner in value.items():
            yield from _lists(inner, _below(path, name), depth - 1)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
