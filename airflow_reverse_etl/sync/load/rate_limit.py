"""The limiter of one load: its rate, its share of the connection's budget, and pauses that the destination asks for."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.ports import Clock, RateBudget

#: Seconds of requests that are reserved from a shared budget at a time. Fewer mean more reservations, more mean that
#: tasks wait longer for each other, and that more is lost when one ends with requests left over.
RESERVED_SECONDS = 2.0


class Pace:
    """Asked before every request. Without a rate it costs next to nothing.

    :param rate: requests a second.
    :param budget: where requests are reserved together with other tasks, under the name of ``connection``. A load
        without a connection, or without a budget, keeps the rate by itself.
    """

    def __init__(
        self, rate: float | None, clock: Clock, budget: RateBudget | None = None, connection: str | None = None
    ) -> None:
        self._rate, self._clock = rate, clock
        self._bucket = TokenBucket(rate) if rate else None
        self._budget, self._connection = budget, connection
        self._reserved = 0
        self._reserving = asyncio.Lock()
        self._paused_until = float("-inf")

    def pause(self, seconds: float) -> None:
        """Let nothing pass for so many seconds."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    async def acquire(self) -> None:
        """Wait until one more request may be sent."""
        wait = 0.0
        if self._bucket:
            if self._budget and self._connection:
                await self._draw()
            wait = self._bucket.reserve(self._clock.monotonic())
        while (wait := max(wait, self._paused_until - self._clock.monotonic())) > 0:
            await self._clock.sleep(wait)
            wait = 0.0

    async def _draw(self) -> None:
        """Take one of the reserved requests, and reserve more when there are none."""
        assert self._rate is not None
        assert self._budget is not None
        assert self._connection is not None
        async with self._reserving:
            if not self._reserved:
                tokens = max(1, math.ceil(self._rate * RESERVED_SECONDS))
                wait = await asyncio.to_thread(
                    self._budget.reserve, self._connection, tokens, rate=self._rate, now=self._clock.now()
                )
                self._reserved = tokens
                self._bucket = TokenBucket(self._rate, free_at=self._clock.monotonic() + wait)
            self._reserved -= 1


@dataclass(slots=True)
class TokenBucket:
    """``rate`` tokens a second, at most ``capacity`` at once, none before ``free_at``.

    A capacity of 1 spaces requests evenly.

    >>> bucket = TokenBucket(rate=2)
    >>> bucket.reserve(now=0.0), bucket.reserve(now=0.0), bucket.reserve(now=0.0)
    (0.0, 0.5, 1.0)
    """

    rate: float
    capacity: float = 1.0
    free_at: float = float("-inf")

    def reserve(self, now: float) -> float:
        """Take a token; returns how many seconds to wait before using it."""
        start = max(self.free_at, now - (self.capacity - 1) / self.rate)
        self.free_at = start + 1 / self.rate
        return max(0.0, start - now)
