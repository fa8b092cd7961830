"""Only one run of a sync at a time: a lease, held while a run works, and a fencing number that tells holders apart.

A holder that is killed leaves a lease that runs out. One that was only slow, and finds its lease taken over, stops
before it changes any state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import RunConflictError, UnreachableError

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.ports import Clock, StateStore

#: Seconds that a lease lasts without being renewed: how long the next run waits after its holder was killed.
LEASE_SECONDS = 120.0
#: Seconds between renewals.
RENEW_SECONDS = 30.0
#: Seconds between two looks at a lease that somebody else holds.
WAIT_SECONDS = 5.0


class Lease:
    """A lease that was taken. Made by :func:`held`."""

    def __init__(
        self, store: StateStore, sync: str, holder: str, clock: Clock, fence: int, until: datetime, *, label: str
    ) -> None:
        self._store, self._sync, self._holder, self._clock = store, sync, holder, clock
        self._label = label
        self._fence, self._until = fence, until
        self._renewing = asyncio.Lock()
        self._last: asyncio.Task[int] | None = None

    async def renew(self) -> None:
        """Make it last ``LEASE_SECONDS`` from now.

        :raises RunConflictError: another run took it over.
        """
        async with self._renewing:
            now = self._clock.now()
            self._last = asyncio.create_task(
                asyncio.to_thread(
                    self._store.acquire,
                    self._sync,
                    self._holder,
                    now=now,
                    seconds=LEASE_SECONDS,
                    fence=self._fence,
                    label=self._label,
                )
            )
            await asyncio.shield(self._last)
            self._until = now + timedelta(seconds=LEASE_SECONDS)

    async def check(self) -> None:
        """Make sure that nobody took it over; asks the store only when it may have run out, as in a paused process.

        :raises RunConflictError: another run took it over.
        """
        if self._clock.now() >= self._until:
            await self.renew()

    async def settle(self) -> None:
        """Wait for a renewal under way: a thread cannot be cancelled, and would renew what is given back."""
        if self._last:
            await asyncio.gather(self._last, return_exceptions=True)

    async def release(self) -> None:
        await asyncio.to_thread(self._store.release, self._sync, fence=self._fence)


@contextlib.asynccontextmanager
async def held(
    store: StateStore, sync: str, *, holder: str, clock: Clock, label: str = "", release: bool = True
) -> AsyncIterator[Lease]:
    """Hold the lease of a sync inside the block, which gets it.

    The same ``holder`` may take it again at once, as a retried task does, and several times, as parallel tasks of one
    run do; these leave it to each other with ``release=False``. ``label`` describes the holder to other runs.

    Waits for a lease that is held for as long as one lasts that nobody renews: so the run after one that was killed
    goes on by itself.

    :raises RunConflictError: another run is at work, or took the lease over meanwhile; the block is then cancelled.
    """
    lease = await _take(store, sync, holder, clock, label)
    working = asyncio.current_task()
    assert working is not None
    lost: list[RunConflictError] = []

    async def keep() -> None:
        while True:
            await clock.sleep(RENEW_SECONDS)
            try:
                await lease.renew()
            except UnreachableError:
                continue  # tried again in time; if the storage stays away, the commit will say so
            except RunConflictError as error:
                lost.append(error)
                working.cancel()
                return

    keeper = asyncio.create_task(keep())
    try:
        yield lease
    except asyncio.CancelledError:
        if lost:
            raise lost[0] from None
        raise
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await lease.settle()
        if release and not lost:
            await lease.release()


async def _take(store: StateStore, sync: str, holder: str, clock: Clock, label: str) -> Lease:
    patience = clock.monotonic() + LEASE_SECONDS + WAIT_SECONDS
    while True:
        now = clock.now()
        try:
            fence = await asyncio.to_thread(store.acquire, sync, holder, now=now, seconds=LEASE_SECONDS, label=label)
        except RunConflictError:
            if clock.monotonic() >= patience:
                raise
        else:
            return Lease(store, sync, holder, clock, fence, now + timedelta(seconds=LEASE_SECONDS), label=label)
        await clock.sleep(WAIT_SECONDS)
