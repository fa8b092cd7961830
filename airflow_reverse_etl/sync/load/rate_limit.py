"""Rate limiter of one load: its rate, its share of the connection's budget, its daily limit, and pauses."""

from __future__ import annotations

import asyncio
import contextlib
import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.sync.load.daily_limit import DailyLimit

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.sync.context import RunContext
    from airflow_reverse_etl.sync.ports import Clock, Destination, RateBudget

#: Most seconds that are reserved from a shared budget at a time. A lower value means more reservations. A higher one
#: means that tasks wait longer for each other.
RESERVED_SECONDS = 2.0

#: Part of a stated rate that is used. The rest is for clocks that differ, and for requests that arrive unevenly.
USED = 0.96


class Pace:
    """Limiter that every request of a load waits for. Without a rate it costs next to nothing.

    Requests are spaced evenly: any two are at least ``1 / rate`` seconds apart. With a budget, they are sent in spans
    of time that this load has reserved. What is left of a span when it ends is lost: the next span may be another's.

    :param rate: requests a second.
    :param budget: budget shared with other tasks under the name of ``connection``. Without a budget or a connection,
        the limits apply to this load alone.
    :param learns: a rate that the destination states replaces ``rate``.
    :param per_day: requests in a day.
    :param daily_reset: time zone at whose midnight a day begins; empty: a day is any 24 hours.
    """

    def __init__(
        self,
        rate: float | None,
        clock: Clock,
        budget: RateBudget | None = None,
        connection: str | None = None,
        *,
        learns: bool = False,
        per_day: int | None = None,
        daily_reset: str = "",
    ) -> None:
        self._rate = rate
        self._learns = learns
        self._clock = clock
        self._budget = budget if connection else None
        self._connection = connection or ""
        self._today = DailyLimit(per_day, clock, self._budget, self._connection, reset=daily_reset)
        self._paused_until = -math.inf
        self._drawing = asyncio.Lock()
        #: Time of the next request, and the last time at which a request may be sent in the present span.
        self._next = -math.inf
        self._last = -math.inf if self._budget else math.inf
        self._end: datetime | None = None
        self._tokens = 1
        self._used = 0
        self._lead = 0.0

    @property
    def paused(self) -> float:
        """Seconds until the next request may pass."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    def pause(self, seconds: float) -> None:
        """Let no request of this load pass for the given seconds."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    async def pause_all(self, seconds: float) -> None:
        """Let no request of any task on the connection pass, or join the pause that another task has begun."""
        self.pause(seconds)
        if self._budget:
            with contextlib.suppress(UnreachableError):  # the others are then refused, and pause by themselves
                now = self._clock.now()
                self.pause(await asyncio.to_thread(self._budget.pause, self._connection, seconds, now=now))

    @property
    def spent_until(self) -> datetime | None:
        """Time at which requests may be sent again, if those of the day are used up."""
        return self._today.spent_until

    def note_left_today(self, requests: int) -> None:
        """Note how many requests the remote still allows today, by its own count."""
        self._today.note_left(requests)

    def note_allowed(self, rate: float) -> None:
        """Note how many requests a second the remote allows the account, and use nearly all of them."""
        if self._learns:
            self._rate = USED * rate

    async def acquire(self) -> None:
        """Wait until one more request may be sent.

        :raises DailyLimitError: none may be sent today.
        """
        await self._today.take()
        while True:
            await self._sleep_until(self._paused_until)
            if self._rate:
                await self._sleep_until(await self._draw(self._rate))
            if self._clock.monotonic() >= self._paused_until:
                return

    async def close(self) -> None:
        """Give back what is left of the reserved span, and of the requests drawn for the day."""
        await self._today.close()
        left = self._last - max(self._next, self._clock.monotonic())
        if self._budget and self._end and left > 0:
            with contextlib.suppress(UnreachableError):  # another task then waits until the span is over
                await asyncio.to_thread(self._budget.give_back, self._connection, left, end=self._end)

    async def _sleep_until(self, time: float) -> None:
        while (wait := time - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait)

    async def _draw(self, rate: float) -> float:
        """Take the next request of the span, and return its time. Reserve another span if this one is over."""
        async with self._drawing:
            while True:
                time = max(self._next, self._clock.monotonic())
                if time <= self._last:
                    self._next = time + 1 / rate
                    self._used += 1
                    return time
                await self._reserve(rate)

    async def _reserve(self, rate: float) -> None:
        assert self._budget is not None
        # More than the last time if that was used up, otherwise as much as was used.
        if self._next > self._last:
            most = max(1, math.ceil(rate * RESERVED_SECONDS))
            self._tokens = min(2 * self._tokens, most)
        else:
            self._tokens = max(1, self._used)
        asked = self._clock.monotonic()
        now = self._clock.now()
        wait = await asyncio.to_thread(
            self._budget.reserve, self._connection, self._tokens, rate=rate, now=now, lead=self._lead
        )
        # A span that begins before the storage has answered is lost, in whole or in part.
        self._lead = 2 * (self._clock.monotonic() - asked)
        self._used = 0
        self._next = asked + wait
        self._last = self._next + (self._tokens - 1 + 1e-6) / rate
        self._end = now + timedelta(seconds=wait) + timedelta(seconds=self._tokens / rate)


def pace_of(sync: Sync, destination: Destination, context: RunContext) -> Pace:
    """Return the limiter of a sync's requests to its destination, within the budget of the connection."""
    capabilities = destination.capabilities
    limits = capabilities.limits(sync)
    return Pace(
        limits.requests_per_second,
        context.clock,
        context.budget,
        sync.destination.connection,
        learns=sync.rate.requests_per_second is None and capabilities.requests_per_second is not None,
        per_day=limits.requests_per_day,
        daily_reset=capabilities.daily_reset,
    )
