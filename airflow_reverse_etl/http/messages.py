"""Requests and replies as plain values, and what can be read from a reply. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from airflow_reverse_etl.spec.receipts import Outcome, Receipt


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    :param url: absolute, or a path below the connection's URL; percent-encoded by the caller.
    :param headers: headers of this request, in addition to the destination's own.
    """

    method: str
    url: str
    body: bytes | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.

    :param headers: case-insensitive when the driver made the reply.
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


def retry_after(reply: Reply) -> float | None:
    """Return the seconds to wait that a reply's ``Retry-After`` asks for, in seconds or as a date; None without one.

    A date is compared with the reply's own ``Date`` if it has one, so that a wrong local clock does no harm.
    """
    text = reply.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    then = _date(text)
    if then is None:
        return None
    now = _date(reply.headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (then - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


#: Paths at which JSON APIs usually put an error's code, the most specific first; likewise its message.
_CODE_PATHS = ("code", "error.code", "errorCode", "errors.0.code", "0.errorCode", "category", "error")
_MESSAGE_PATHS = (
    "message",
    "error.message",
    "errors.0.message",
    "errors.0.detail",
    "0.message",
    "error_description",
    "detail",
    "title",
    "error",
)


def error_text(answer: Any) -> tuple[str, str]:
    """Return an error's code and message from where JSON APIs usually put them; empty texts if not found."""
    return _first_text(answer, _CODE_PATHS), _first_text(answer, _MESSAGE_PATHS)


def _first_text(answer: Any, paths: tuple[str, ...]) -> str:
    for path in paths:
        value = value_at(answer, path.split("."))
        if isinstance(value, str | int) and value != "":
            return str(value)
    return ""


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
