"""Limits on the number of requests, and the headers in which APIs announce them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate

from tests.servers.messages import Reply, Request
from tests.servers.rules import Rule

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Usage:
    """State of a limit when a reply is given.

    :param left: requests that may still be sent.
    :param resets_in: seconds until more may be sent.
    :param now: seconds since 1970.
    :param refused: the limit refused this request.
    """

    name: str
    requests: int
    seconds: float
    left: int
    resets_in: float
    now: float
    refused: bool


#: Headers that tell a client about a limit. A vendor with headers of its own has a function of its own.
Hint = Callable[[Usage], Mapping[str, str]]


def retry_after(usage: Usage) -> Mapping[str, str]:
    """``Retry-After`` in seconds, with a refusal."""
    return {"Retry-After": str(math.ceil(usage.resets_in))} if usage.refused else {}


def retry_after_date(usage: Usage) -> Mapping[str, str]:
    """``Retry-After`` as a date, with a refusal, and the ``Date`` to compare it with."""
    if not usage.refused:
        return {}
    until = math.ceil(usage.now + usage.resets_in)
    return {"Date": formatdate(usage.now, usegmt=True), "Retry-After": formatdate(until, usegmt=True)}


def x_ratelimit(usage: Usage) -> Mapping[str, str]:
    """``X-RateLimit-*`` with the reset in seconds since 1970, as Braze and GitHub write it."""
    return _fields(usage, "X-RateLimit", math.ceil(usage.now + usage.resets_in))


def x_ratelimit_seconds(usage: Usage) -> Mapping[str, str]:
    """``X-RateLimit-*`` with the reset in seconds from now, as Segment writes it."""
    return _fields(usage, "X-RateLimit", math.ceil(usage.resets_in))


def ratelimit_fields(usage: Usage) -> Mapping[str, str]:
    """``RateLimit-*`` of the IETF draft's versions up to 06, as Klaviyo and ActiveCampaign write it."""
    return _fields(usage, "RateLimit", math.ceil(usage.resets_in))


def ratelimit(usage: Usage) -> Mapping[str, str]:
    """``RateLimit`` and ``RateLimit-Policy`` of the IETF draft's version 10."""
    return {
        "RateLimit": f'"{usage.name}";r={usage.left};t={math.ceil(usage.resets_in)}',
        "RateLimit-Policy": f'"{usage.name}";q={usage.requests};w={usage.seconds:g}',
    }


def _fields(usage: Usage, prefix: str, reset: int) -> Mapping[str, str]:
    return {
        f"{prefix}-Limit": str(usage.requests),
        f"{prefix}-Remaining": str(usage.left),
        f"{prefix}-Reset": str(reset),
    }


@dataclass
class Limit(Rule):
    """So many requests in so many seconds.

    A refused request does not count.

    :param rolling: any window of this length; otherwise windows follow each other, as on a clock.
    :param hints: headers; without one a client has to guess.
    :param refusal: reply to a request above the limit.
    :param only: prefix of the paths that count, for a limit of one endpoint.
    """

    requests: int
    seconds: float
    rolling: bool = False
    hints: Sequence[Hint] = ()
    refusal: Reply = field(default_factory=lambda: Reply.of({"message": "too many requests"}, 429))
    only: str = "/"
    name: str = "default"
    _times: deque[float] = field(default_factory=deque, init=False)
    _refused: bool = field(default=False, init=False)

    def refuse(self, request: Request, now: float) -> Reply | None:
        if not request.path.startswith(self.only):
            return None
        self._forget(now)
        self._refused = len(self._times) >= self.requests
        if self._refused:
            return self.refusal
        self._times.append(now)
        return None

    def headers(self, request: Request, now: float) -> Mapping[str, str]:
        if not request.path.startswith(self.only):
            return {}
        self._forget(now)
        usage = Usage(
            self.name,
            self.requests,
            self.seconds,
            left=self.requests - len(self._times),
            resets_in=self._resets_in(now),
            now=now,
            refused=self._refused,
        )
        self._refused = False
        found: dict[str, str] = {}
        for hint in self.hints:
            found |= hint(usage)
        return found

    def _forget(self, now: float) -> None:
        start = now - self.seconds if self.rolling else now - now % self.seconds
        while self._times and (self._times[0] < start or (self.rolling and self._times[0] == start)):
            self._times.popleft()

    def _resets_in(self, now: float) -> float:
        if not self.rolling:
            return self.seconds - now % self.seconds
        return self._times[0] + self.seconds - now if self._times else 0.0
