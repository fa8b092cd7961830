"""Lease of a sync: it allows only one run at a time, and its fencing number identifies the holder.

The lease of a killed holder expires. A slow holder whose lease was taken over stops before it changes any state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import RunConflictError, UnreachableError
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING, RunTiming
from airflow_reverse_etl.sync.context import LONGEST_WAIT

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.ports import Clock, StateStore


class Lease:
    """Acquired lease; made by :func:`held`."""

    def __init__(
        self,
        store: StateStore,
        sync: str,
        holder: str,
        clock: Clock,
        fence: int,
        expires_at: datetime,
        *,
        label: str,
        seconds: float,
    ) -> None:
        self._store = store
        self._sync = sync
        self._holder = holder
        self._clock = clock
        self._label = label
        self._seconds = seconds
        self._fence = fence
        self._expires_at = expires_at
        self._renew_lock = asyncio.Lock()
        self._renewal: asyncio.Task[int] | None = None

    async def renew(self) -> None:
        """Extend the lease to its full length from now.

        :raises RunConflictError: another run took the lease over.
        """
        async with self._renew_lock:
            now = self._clock.now()
            self._renewal = asyncio.create_task(
                asyncio.to_thread(
                    self._store.acquire,
                    self._sync,
                    self._holder,
                    now=now,
                    seconds=self._seconds,
                    fence=self._fence,
                    label=self._label,
                )
            )
            await asyncio.shield(self._renewal)
            self._expires_at = now + timedelta(seconds=self._seconds)

    async def check(self) -> None:
        """Make sure that this run still holds the lease.

        Asks the store only if the lease may have expired, for example because the process was paused.

        :raises RunConflictError: another run took the lease over.
        """
        if self._clock.now() >= self._expires_at:
            await self.renew()

    async def settle(self) -> None:
        """Wait for a pending renewal: its thread cannot be cancelled, and would renew a lease that was released."""
        if self._renewal:
            await asyncio.gather(self._renewal, return_exceptions=True)

    async def release(self) -> None:
        await asyncio.to_thread(self._store.release, self._sync, fence=self._fence)


@contextlib.asynccontextmanager
async def held(
    store: StateStore,
    sync: str,
    *,
    holder: str,
    clock: Clock,
    timing: RunTiming = DEFAULT_TIMING,
    label: str = "",
    release: bool = True,
    deferrable: bool = False,
    on_wait: Callable[[RunConflictError], None] = lambda _: None,
) -> AsyncIterator[Lease]:
    """Hold the lease of a sync inside the block, and yield it.

    The same ``holder`` may take the lease again immediately, as a retried task does, or several times, as parallel
    tasks of one run do. Parallel tasks pass ``release=False``, so that none of them takes the lease from the others.

    If another run holds the lease, waits until that run releases it, or until the lease of a killed run has expired.

    :param label: description of the holder, shown to other runs.
    :param deferrable: fail at once if another run holds the lease for more than ``LONGEST_WAIT``.
    :param on_wait: called once, before a wait for another run, with the error that names it.
    :raises RunConflictError: another run took the lease over inside the block, which is then cancelled; or holds it
        for long, see ``deferrable``. Only the latter has ``until``.
    """
    lease = await _take(store, sync, holder, clock, timing, label, on_wait, deferrable=deferrable)
    working = asyncio.current_task()
    assert working is not None
    lost: list[RunConflictError] = []

    async def renew_regularly() -> None:
        while True:
            await clock.sleep(timing.renewal)
            try:
                await lease.renew()
            except UnreachableError:
                continue  # the next renewal may be in time; if the storage stays unreachable, the commit fails
            except RunConflictError as error:
                lost.append(error)
                working.cancel()
                return

    renewer = asyncio.create_task(renew_regularly())
    try:
        yield lease
    except asyncio.CancelledError:
        if lost:
            raise lost[0] from None
        raise
    finally:
        renewer.cancel()
        await asyncio.gather(renewer, return_exceptions=True)
        await lease.settle()
        if release and not lost:
            await lease.release()


async def _take(
    store: StateStore,
    sync: str,
    holder: str,
    clock: Clock,
    timing: RunTiming,
    label: str,
    on_wait: Callable[[RunConflictError], None],
    *,
    deferrable: bool,
) -> Lease:
    is_waiting = False
    while True:
        now = clock.now()
        try:
            fence = await asyncio.to_thread(store.acquire, sync, holder, now=now, seconds=timing.lease, label=label)
        except RunConflictError as error:
            if deferrable and error.until and (error.until - now).total_seconds() > LONGEST_WAIT:
                # Ask again then, as a holder whose clock is ahead may have ended long before its lease.
                error.until = min(error.until, now + timedelta(seconds=timing.lease))
                raise
            if not is_waiting:
                on_wait(error)
            is_waiting = True
        else:
            expires_at = now + timedelta(seconds=timing.lease)
            return Lease(store, sync, holder, clock, fence, expires_at, label=label, seconds=timing.lease)
        await clock.sleep(timing.waiting)
