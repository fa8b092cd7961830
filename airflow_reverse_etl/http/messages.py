"""Requests and replies as plain values. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_reverse_etl.spec.receipts import Outcome, Receipt


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    :param url: absolute, or a path below the connection's URL; percent-encoded by the caller.
    :param headers: headers of this request, in addition to the connection's own.
    """

    method: str
    url: str
    body: bytes | None = None
    headers: Mapping[str, str] | None = None

    def with_header(self, name: str, value: str) -> Request:
        """Return a copy with one more header."""
        return replace(self, headers={**(self.headers or {}), name: value})


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.

    :param headers: case-insensitive when a client made the reply.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """Return the body as JSON, or None if it is not JSON."""
        import orjson

        try:
            return orjson.loads(self.body.removeprefix(codecs.BOM_UTF8))
        except ValueError:
            return None


class NotAnsweredError(Exception):
    """A request got no reply. A flow may catch the error; otherwise its receipt applies to the whole batch.

    :param outcome: ``RETRYABLE`` only if no byte of the request can have been sent, because no connection was made.
        ``UNKNOWN`` in every other case: the remote may have carried out the request before its answer was lost.
    """

    def __init__(self, outcome: Outcome, code: str, message: str, *, host: str = "") -> None:
        super().__init__(message)
        self.receipt = Receipt(outcome, code, message, host)


def value_at(value: Any, path: list[str] | tuple[str, ...]) -> Any:
    """Follow a path of keys and list positions; return the value at its end, or None without one."""
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
