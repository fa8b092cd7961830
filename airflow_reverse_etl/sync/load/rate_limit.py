"""Rate limiter of one load: its rate, its share of the connection's budget, and pauses for the destination."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.ports import Clock, RateBudget

#: Seconds of requests that are reserved from a shared budget at a time. A lower value means more reservations. A higher
#: one means that tasks wait longer for each other, and that a task that ends wastes more reserved requests.
RESERVED_SECONDS = 2.0


class Pace:
    """Limiter that every request of a load waits for. Without a rate it costs next to nothing.

    :param rate: requests a second.
    :param budget: budget shared with other tasks under the name of ``connection``. Without a budget or a connection,
        the rate applies to this load alone.
    """

    def __init__(
        self, rate: float | None, clock: Clock, budget: RateBudget | None = None, connection: str | None = None
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._bucket = TokenBucket(rate) if rate else None
        self._budget = budget
        self._connection = connection
        self._reserved = 0
        self._reserving = asyncio.Lock()
        self._paused_until = float("-inf")

    def pause(self, seconds: float) -> None:
        """Let no request pass for the given seconds."""
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
        """Take one of the reserved requests; reserve more if none is left."""
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
    """Bucket that gives ``rate`` tokens a second, at most ``capacity`` at once, and none before ``free_at``.

    A capacity of 1 spaces requests evenly.

    >>> bucket = TokenBucket(rate=2)
    >>> bucket.reserve(now=0.0), bucket.reserve(now=0.0), bucket.reserve(now=0.0)
    (0.0, 0.5, 1.0)
    """

    rate: float
    capacity: float = 1.0
    free_at: float = float("-inf")

    def reserve(self, now: float) -> float:
        """Take a token; returns the seconds to wait before its use."""
        start = max(self.free_at, now - (self.capacity - 1) / self.rate)
        self.free_at = start + 1 / self.rate
        return max(0.0, start - now)
