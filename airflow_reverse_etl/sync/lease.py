"""Only one run of a sync at a time: a lease, held while a run works, and a fencing number that tells holders apart.

A holder that is killed leaves a lease that runs out. One that was only slow, and finds its lease taken over, stops
before it changes any state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
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


@contextlib.asynccontextmanager
async def held(
    store: StateStore, sync: str, *, holder: str, clock: Clock, release: bool = True
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold the lease of a sync inside the block, which gets a function that makes sure that it is still held.

    The same ``holder`` may take it again at once, as a retried task does, and several times, as parallel tasks of one
    run do; these leave it to each other with ``release=False``.

    Waits for a lease that is held for as long as one lasts that nobody renews: so the run after one that was killed
    goes on by itself.

    :raises RunConflictError: another run is at work, or took the lease over meanwhile; the block is then cancelled.
    """
    fence = await _take(store, sync, holder, clock)
    working = asyncio.current_task()
    assert working is not None
    lost: list[RunConflictError] = []
    last: list[asyncio.Task[int]] = []
    renewing = asyncio.Lock()

    async def renew() -> None:
        async with renewing:
            last[:] = [
                asyncio.create_task(
                    asyncio.to_thread(store.acquire, sync, holder, now=clock.now(), seconds=LEASE_SECONDS, fence=fence)
                )
            ]
            await asyncio.shield(last[0])

    async def keep() -> None:
        while True:
            await clock.sleep(RENEW_SECONDS)
            try:
                await renew()
            except UnreachableError:
                continue  # tried again in time; if the storage stays away, the commit will say so
            except RunConflictError as error:
                lost.append(error)
                working.cancel()
                return

    keeper = asyncio.create_task(keep())
    try:
        yield renew
    except asyncio.CancelledError:
        if lost:
            raise lost[0] from None
        raise
    finally:
        keeper.cancel()
        # A thread cannot be cancelled: it would renew what is given back.
        await asyncio.gather(keeper, *last, return_exceptions=True)
        if release and not lost:
            await asyncio.to_thread(store.release, sync, fence=fence)


async def _take(store: StateStore, sync: str, holder: str, clock: Clock) -> int:
    patience = clock.monotonic() + LEASE_SECONDS + WAIT_SECONDS
    while True:
        try:
            return await asyncio.to_thread(store.acquire, sync, holder, now=clock.now(), seconds=LEASE_SECONDS)
        except RunConflictError:
            if clock.monotonic() >= patience:
                raise
        await clock.sleep(WAIT_SECONDS)
