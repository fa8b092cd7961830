"""What goes over the wire and what it means: requests, replies, statuses. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from airflow_reverse_etl.spec.receipts import Outcome, Receipt


class Action(StrEnum):
    """What a reply's status means for the rows of its request."""

    ACCEPT = "accept"  # written
    REJECT = "reject"  # every row refused as it is
    REFUSE = "refuse"  # nothing written because of some row: the engine splits the batch to find it
    RETRY = "retry"  # nothing written, may be sent again
    THROTTLE = "throttle"  # nothing written, too fast: wait as long as the reply says
    UNKNOWN = "unknown"  # written or not, nobody knows
    SKIP = "skip"  # there is no such row
    CREDENTIALS = "credentials"  # stop: the credentials were refused
    CONFIGURATION = "configuration"  # stop: no row can succeed before the configuration is corrected


#: The usual meaning of a status; by its first digit where it is not listed.
#:
#: 408, 423, 425, 429 and 503 say that the request was not carried out. 500, 502 and 504 do not: it may have been.
ACTIONS: Mapping[int, Action] = {
    2: Action.ACCEPT,
    3: Action.CONFIGURATION,
    4: Action.REFUSE,
    5: Action.UNKNOWN,
    401: Action.CREDENTIALS,
    402: Action.CONFIGURATION,
    403: Action.CREDENTIALS,
    404: Action.CONFIGURATION,
    405: Action.CONFIGURATION,
    406: Action.CONFIGURATION,
    407: Action.CONFIGURATION,
    408: Action.RETRY,
    410: Action.CONFIGURATION,
    411: Action.CONFIGURATION,
    415: Action.CONFIGURATION,
    421: Action.RETRY,
    423: Action.RETRY,
    425: Action.RETRY,
    426: Action.CONFIGURATION,
    429: Action.THROTTLE,
    501: Action.CONFIGURATION,
    503: Action.THROTTLE,
    505: Action.CONFIGURATION,
}


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
            return orjson.loads(self.body)
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


def action_of(status: int, *tables: Mapping[int, Action]) -> Action:
    """The first table's entry for the status; then the first one's for its first digit."""
    for key in (status, status // 100):
        for table in tables:
            if key in table:
                return table[key]
    return Action.UNKNOWN


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


def words(answer: Any) -> tuple[str, str]:
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
