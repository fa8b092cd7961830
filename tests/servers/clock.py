"""Simulated time next to real sockets."""

from __future__ import annotations

import asyncio

from airflow_reverse_etl.testing import FrozenClock

#: A moment is quiet if no server hears of a request for so many turns of the loop, of a millisecond each.
QUIET_TURNS = 3


class QuietClock(FrozenClock):
    """Clock that moves to the end of the shortest sleep once nothing else happens.

    A frozen clock moves with every sleep, also while a request is on its way: any task that sleeps in a loop then takes
    it hours ahead within one exchange. A day of this clock still takes a few milliseconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[float] = []
        self._events = 0

    def stir(self) -> None:
        """Note that something happens now: time stands still for a moment."""
        self._events += 1

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.stir()
        end = self.monotonic() + max(0.0, seconds)
        self._ends.append(end)
        try:
            while self.monotonic() < end:
                await self._until_quiet()
                # Another sleeper may have moved the clock meanwhile.
                if end == min(self._ends) and self.monotonic() < end:
                    self.advance(end - self.monotonic())
        finally:
            self._ends.remove(end)

    async def _until_quiet(self) -> None:
        quiet = 0
        while quiet < QUIET_TURNS:
            before = self._events
            await asyncio.sleep(0.001)
            quiet = quiet + 1 if self._events == before else 0
