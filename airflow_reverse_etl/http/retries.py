"""The retry loop of requests that read, or that a server refused before it did anything. Pure.

Rows are not sent by this loop: the engine decides which of them are sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request
from airflow_reverse_etl.http.rate_headers import retry_after
from airflow_reverse_etl.spec.receipts import Outcome
from airflow_reverse_etl.sync.load.backoff import Backoff

Result = TypeVar("Result")

#: Methods that change nothing (RFC 9110, section 9.2.1).
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: Statuses that mean that the server did nothing.
_NOT_DONE = frozenset({429, 503})
#: Statuses of a failure that may pass.
_FAILED = frozenset({408, 500, 502, 504})


@dataclass(frozen=True, slots=True)
class Wait:
    """A step of a flow: the client waits for so many seconds."""

    seconds: float


def _throttled(reply: Reply) -> bool:
    return reply.status in _NOT_DONE


def _no_least(_: Reply) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Retries:
    """Rules by which a request is repeated: how often, and after how long.

    A request is repeated only if it provably did nothing: the server refused it, no connection was made, or its
    method is a safe one.

    :param backoff: waits where the reply states none, and the number of attempts.
    :param longest: most seconds that one request waits, over all its attempts.
    :param throttled: function that returns whether the server refused a request because there were too many.
    :param least: function that returns the least seconds to wait after such a refusal that states no time.
    """

    backoff: Backoff = field(default_factory=lambda: Backoff(first=1.0, longest=30.0, attempts=5))
    longest: float = 300.0
    throttled: Callable[[Reply], bool] = _throttled
    least: Callable[[Reply], float] = _no_least

    def flow(self, request: Request) -> Generator[Request | Wait, Reply, Reply]:
        """Send a request until it is answered; returns the last answer, whatever its status.

        :raises NotAnsweredError: the last attempt got no answer.
        """
        waited = 0.0
        attempt = 0
        while True:
            attempt += 1
            reply: Reply | None = None
            lost: NotAnsweredError | None = None
            try:
                reply = yield request
            except NotAnsweredError as error:
                lost = error
            wait = self._wait(request, reply, lost, attempt)
            if wait is None or attempt == self.backoff.attempts or waited + wait > self.longest:
                break
            yield Wait(wait)
            waited += wait
        if lost is not None:
            raise lost
        assert reply is not None
        return reply

    def around(self, flow: Generator[Request, Reply, Result]) -> Generator[Request | Wait, Reply, Result]:
        """Send each request of another flow until it is answered, and return that flow's result."""
        try:
            request = next(flow)
            while True:
                request = flow.send((yield from self.flow(request)))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _wait(self, request: Request, reply: Reply | None, lost: NotAnsweredError | None, attempt: int) -> float | None:
        """Return the seconds to wait before the request is repeated, or None if it must not be, or need not be."""
        backoff = self.backoff.wait(attempt)
        if lost is not None:
            nothing_done = request.method in _SAFE or lost.receipt.outcome is Outcome.RETRYABLE
            return backoff if nothing_done else None
        assert reply is not None
        if self.throttled(reply):
            return retry_after(reply) or max(backoff, self.least(reply))
        if reply.status in _FAILED and request.method in _SAFE:
            return retry_after(reply) or backoff
        return None
