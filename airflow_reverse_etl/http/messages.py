"""What goes over the wire and what it means: requests, replies, statuses. Pure."""

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

    :param url: absolute, or a path that is joined to the connection's URL; percent-encoded by whoever made it.
    :param headers: beside those that every request of the destination has.
    """

    method: str
    url: str
    body: bytes | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. ``headers`` is case-insensitive when it comes from the driver."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        import orjson

        try:
            return orjson.loads(self.body.removeprefix(codecs.BOM_UTF8))
        except ValueError:
            return None


class NotAnsweredError(Exception):
    """There is no reply to a request. A flow may catch it; if it does not, it is the outcome of the whole batch.

    ``outcome`` is ``RETRYABLE`` only where no byte of the request can have left: the connection was not made.
    Everything else is ``UNKNOWN``, as the remote may have carried the request out before its answer was lost.
    """

    def __init__(self, outcome: Outcome, code: str, message: str, *, host: str = "") -> None:
        super().__init__(message)
        self.receipt = Receipt(outcome, code, message, host)


def retry_after(reply: Reply) -> float | None:
    """Seconds that the reply's ``Retry-After`` asks to wait, given in seconds or as a date; None without one.

    A date is measured against the reply's own ``Date`` where it has one, so that a wrong clock here does no harm.
    """
    text = reply.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    then, now = _date(text), _date(reply.headers.get("Date", "")) or datetime.now(UTC)
    return None if then is None else max(0.0, (then - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


_CODES = ("code", "error.code", "errorCode", "errors.0.code", "0.errorCode", "category", "error")
_MESSAGES = (
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
    """Code and message from where JSON APIs usually put them; empty where there are none."""
    return _first(answer, _CODES), _first(answer, _MESSAGES)


def _first(answer: Any, paths: tuple[str, ...]) -> str:
    found = (at(answer, path.split(".")) for path in paths)
    return next((str(value) for value in found if isinstance(value, str | int) and value != ""), "")


def at(value: Any, path: list[str] | tuple[str, ...]) -> Any:
    """What is found by following the keys, or positions of lists; None where there is nothing."""
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
