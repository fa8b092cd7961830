"""Times to wait and quotas that a reply's headers state. Pure.

Sources: RFC 9110, section 10.2.3 (``Retry-After``); draft-ietf-httpapi-ratelimit-headers, versions 06
(``RateLimit-Reset``), 07 (``RateLimit: limit=…``) and 10 (``RateLimit: "name";r=…;t=…``); pages of GitHub, Braze,
Segment and Klaviyo (``X-RateLimit-Reset``), HubSpot (``X-HubSpot-RateLimit-…``), Kong
(``X-RateLimit-Remaining-Day``) and Salesforce (``Sforce-Limit-Info``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from airflow_reverse_etl.http.messages import Reply

_NUMBER = re.compile(r"\d{1,15}(\.\d+)?")
#: Numbers above are times since 1970, in seconds or milliseconds; below, seconds from now.
_EPOCH_SECONDS = 1e9
_EPOCH_MILLISECONDS = 1e12
_DAY_SECONDS = 86_400

_RETRY_AFTER = ("Retry-After", "X-RateLimit-Retry-After")
_REMAINING = ("X-RateLimit-Remaining", "RateLimit-Remaining", "X-Rate-Limit-Remaining")
_RESET = ("X-RateLimit-Reset", "RateLimit-Reset", "X-Rate-Limit-Reset")
_DAILY_REMAINING = ("X-HubSpot-RateLimit-Daily-Remaining", "X-RateLimit-Remaining-Day", "X-RateLimit-Daily-Remaining")


class _Quota(NamedTuple):
    """An entry of the header ``RateLimit``.

    :param left: requests that may still be sent.
    :param reset: seconds until more may be sent.
    """

    name: str
    left: int | None
    reset: float | None


def retry_after(reply: Reply) -> float | None:
    """Return the seconds to wait that the headers of a refused request state; None without a statement.

    Zero and a time in the past are not statements: a server that means "now" would not have refused. A date is
    compared with the reply's own ``Date`` if it has one, so that a wrong local clock does no harm.
    """
    for name in _RETRY_AFTER:
        if wait := _seconds(reply.headers.get(name, ""), reply):
            return wait
    quotas = list(_quotas(reply))
    waits = [quota.reset for quota in quotas if quota.left == 0 and quota.reset]
    if waits:
        return max(waits)
    # A reset says when to send again only if nothing is left; the refusal has another cause otherwise.
    remaining = _first(reply, _REMAINING)
    if remaining is not None and remaining.strip() not in ("0", ""):
        return None
    reset = _first(reply, _RESET)
    return _seconds(reset, reply) if reset else None


def left_today(reply: Reply) -> int | None:
    """Return the number of requests that the API allows for the rest of its day, or None without a statement."""
    if usage := re.search(r"api-usage=(\d+)/(\d+)", reply.headers.get("Sforce-Limit-Info", "")):
        return max(0, int(usage[2]) - int(usage[1]))
    text = _first(reply, _DAILY_REMAINING)
    if text is not None and text.strip().isdigit():
        return int(text)
    daily = set(_daily_policies(reply))
    left = [quota.left for quota in _quotas(reply) if quota.name in daily and quota.left is not None]
    return min(left, default=None)


def allowed_rate(reply: Reply) -> float | None:
    """Return the requests a second that the API allows the account, or None without a statement."""
    requests = reply.headers.get("X-HubSpot-RateLimit-Max", "").strip()
    interval = reply.headers.get("X-HubSpot-RateLimit-Interval-Milliseconds", "").strip()
    if not (requests.isdecimal() and interval.isdecimal() and int(requests) and int(interval)):
        return None
    return int(requests) * 1000 / int(interval)


def _first(reply: Reply, names: tuple[str, ...]) -> str | None:
    return next((reply.headers[name] for name in names if name in reply.headers), None)


def _seconds(text: str, reply: Reply) -> float | None:
    """Return the seconds from now of a number of seconds, a time since 1970 or a date; None unless in the future."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        if seconds > _EPOCH_MILLISECONDS:
            seconds = seconds / 1000 - _now(reply).timestamp()
        elif seconds > _EPOCH_SECONDS:
            seconds -= _now(reply).timestamp()
    elif then := _date(text):
        seconds = (then - _now(reply)).total_seconds()
    else:
        return None
    return seconds if seconds > 0 and math.isfinite(seconds) else None


def server_time(reply: Reply) -> datetime | None:
    """Return the time at which the server answered, by its own clock."""
    return _date(reply.headers.get("Date", ""))


def _now(reply: Reply) -> datetime:
    return server_time(reply) or datetime.now(UTC)


def _date(text: str) -> datetime | None:
    try:
        date = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _quotas(reply: Reply) -> Iterator[_Quota]:
    """Yield the entries of ``RateLimit``, in the form of version 10 or 07 of the draft."""
    text = reply.headers.get("RateLimit", "")
    if "remaining=" in text:
        yield _Quota("", _number(text, "remaining"), _number(text, "reset"))
        return
    for entry in text.split(","):
        name, _, parameters = entry.strip().partition(";")
        if parameters:
            yield _Quota(name.strip('"'), _number(parameters, "r"), _number(parameters, "t"))


def _daily_policies(reply: Reply) -> Iterator[str]:
    """Yield the names of the quotas whose window is a day or longer."""
    for entry in reply.headers.get("RateLimit-Policy", "").split(","):
        name, _, parameters = entry.strip().partition(";")
        if (_number(parameters, "w") or 0) >= _DAY_SECONDS:
            yield name.strip('"')


def _number(text: str, name: str) -> int | None:
    found = re.search(rf"(?:^|[;,\s]){name}=(\d{{1,15}})\b", text)
    return int(found[1]) if found else None
