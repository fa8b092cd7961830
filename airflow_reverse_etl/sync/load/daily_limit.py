"""Daily limit of one load: its share of the requests that a connection may send in a day."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.sync.ports import DailyGrant, DailyLimitError

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.ports import Clock, RateBudget

DAY = timedelta(days=1)
#: Most requests that are drawn from the shared allowance at a time. A killed task loses as many.
_MAX_PORTION = 100
#: Time after which a load asks again, if the remote has stated that the day is used up, but not until when.
_ASK_AGAIN = timedelta(hours=1)


class DailyLimit:
    """Limiter of the requests in a day. Without a limit, it only notes what the remote states.

    :param per_day: requests in a day, of all tasks on the connection.
    :param budget: allowance shared with other tasks. Without one, the limit applies to this load alone.
    :param reset: time zone at whose midnight a day begins; empty: a day is any 24 hours.
    """

    def __init__(
        self, per_day: int | None, clock: Clock, budget: RateBudget | None, connection: str, *, reset: str = ""
    ) -> None:
        self._per_day = per_day
        self._clock = clock
        self._budget = budget
        self._connection = connection
        self._zone = ZoneInfo(reset) if reset else None
        self._drawing = asyncio.Lock()
        self._left = 0
        self._drawn = 0
        self._portion = 1
        self.spent_until: datetime | None = None

    def note_left(self, requests: int) -> None:
        """Note how many requests the remote still allows today."""
        if requests == 0:
            self.spent_until = self._clock.now() + _ASK_AGAIN

    async def take(self) -> None:
        """Take one request of the day.

        :raises DailyLimitError: none is left.
        """
        if self.spent_until:
            raise DailyLimitError(self.spent_until)
        if self._per_day is None:
            return
        async with self._drawing:
            if self._left == 0:
                grant = await self._draw(self._per_day)
                if grant.requests == 0:
                    self.spent_until = grant.more_at
                    raise DailyLimitError(grant.more_at)
                self._left = grant.requests
                self._drawn += grant.requests
            self._left -= 1

    async def close(self) -> None:
        """Return what was drawn and not sent."""
        if self._budget and self._left:
            with contextlib.suppress(UnreachableError):  # the requests then stay counted
                await asyncio.to_thread(self._budget.return_unused, self._connection, self._left)
        self._left = 0

    async def _draw(self, per_day: int) -> DailyGrant:
        now = self._clock.now()
        day = DAY
        next_day = now + DAY
        if self._zone:
            midnight = now.astimezone(self._zone).replace(hour=0, minute=0, second=0, microsecond=0)
            day = now - midnight.astimezone(UTC)
            next_day = (midnight + DAY).astimezone(UTC)  # the next midnight, even if this day has 23 or 25 hours
        if self._budget is None:
            return DailyGrant(min(1, per_day - self._drawn), next_day)
        portion = self._portion
        self._portion = min(2 * portion, _MAX_PORTION)
        draw = self._budget.draw
        grant = await asyncio.to_thread(draw, self._connection, portion, per_day=per_day, now=now, day=day)
        return grant._replace(more_at=next_day) if self._zone else grant
