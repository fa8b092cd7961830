"""Feed of a dbt Cloud account: one poll serves all waiters, so that requests do not grow with their number.

Deferred sensors and asset watchers share a feed per process and event loop, on every Airflow version, because the feed
uses nothing of Airflow. The feed has no history: a poll lists the runs of the last minutes, or of as long ago as the
newest arrival asks for, and each waiter's own cursor drops the runs that it has seen.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_reverse_etl.dbt_cloud.models import OVERLAP, CloudRun
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ReverseEtlError, TryLaterError
from airflow_reverse_etl.sync.load.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi

log = logging.getLogger(__name__)

#: A waiter that catches up on more than this asks for its own job, if that takes fewer requests than all jobs' runs.
_FAR_BACK = timedelta(days=1)
_BACKOFF = Backoff(first=5.0, longest=300.0)


@dataclass(frozen=True, slots=True)
class FeedTiming:
    """Intervals of a feed, in seconds.

    :param gather: wait before the first poll, so that waiters that start together share the poll, as after a restart of
        the triggerer.
    :param shortest: lower limit of the interval between polls.
    :param storing: time by which a poll comes earlier than the interval: Airflow stores what a trigger yields with the
        triggerer's next heartbeats.
    :param arrival: longest wait of a new waiter for its first poll, however long the others' interval is.
    :param jobs: interval between checks that the jobs still exist.
    :param backoff: additional waits after failed polls.
    """

    gather: float = 1.0
    shortest: float = 1.0
    storing: float = 2.0
    arrival: float = 10.0
    jobs: float = 900.0
    backoff: Backoff = _BACKOFF


DEFAULT_TIMING = FeedTiming()

_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AccountFeed]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class News:
    """Result of one poll for one waiter.

    :param runs: finished runs of the waiter's job, possibly seen before.
    :param now: time of dbt Cloud's clock; None with an error.
    :param error: reason that the poll failed, or that the job was deleted.
    """

    runs: tuple[CloudRun, ...] = ()
    now: datetime | None = None
    error: ReverseEtlError | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    job_id: int
    since: datetime
    interval: float
    served: bool = False
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)


def account_feed(
    conn_id: str, connect: Callable[[], Awaitable[DbtCloudApi]], *, timing: FeedTiming = DEFAULT_TIMING
) -> AccountFeed:
    """Return the feed of a connection in this event loop.

    :param connect: function that makes a client that is not open yet; called again when dbt Cloud refuses the token.
    :param timing: intervals of a new feed.
    """
    feeds = _feeds.setdefault(asyncio.get_running_loop(), {})
    return feeds.setdefault(conn_id, AccountFeed(connect, timing=timing))


class AccountFeed:
    """Poller of one account, which polls while it has waiters. :func:`account_feed` makes it."""

    def __init__(self, connect: Callable[[], Awaitable[DbtCloudApi]], *, timing: FeedTiming) -> None:
        self._connect = connect
        self._timing = timing
        self._waiters: set[_Waiter] = set()
        self._joined = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._api: DbtCloudApi | None = None
        self._read_to: datetime | None = None
        self._next_jobs_check = float("-inf")

    async def watch(self, job_id: int, *, since: datetime, interval: float) -> AsyncGenerator[News, None]:
        """Yield news of one job after every poll, forever, even when nothing happened.

        Yields every run that finished at ``since`` or later by dbt Cloud's clock, some of them repeatedly. Never
        raises: errors are news, and polls continue after them at growing intervals. Close the iterator to stop.

        :param interval: seconds in which a finished run becomes news and Airflow stores its event, so that polls are a
            little closer together. The shortest interval of all waiters counts.
        """
        waiter = _Waiter(job_id, since, interval)
        self._waiters.add(waiter)
        self._joined.set()
        if self._task is None or self._task.done():
            # A context of its own, because the feed's log lines belong to no single trigger.
            self._task = asyncio.get_running_loop().create_task(self._poll_forever(), context=contextvars.Context())
        try:
            while True:
                yield await waiter.news.get()
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._task.cancel()
                self._task = None

    async def _poll_forever(self) -> None:
        failures = 0
        try:
            await asyncio.sleep(self._timing.gather)
            while True:
                polled_at = asyncio.get_running_loop().time()
                try:
                    await self._poll()
                    failures = 0
                except Exception as error:  # noqa: BLE001  no error may end the loop of all watchers
                    failures += 1
                    await self._report(error)
                took = asyncio.get_running_loop().time() - polled_at
                extra = self._timing.backoff.wait(failures) if failures else 0.0
                await self._pause(polled_at, took, extra)
        finally:
            await self._close()

    async def _pause(self, polled_at: float, took: float, extra: float) -> None:
        """Wait until the next poll is due. A new waiter ends the wait, if its interval demands an earlier poll.

        :param polled_at: time at which the last poll began.
        :param took: duration of the last poll. The next poll takes as long, so it begins that much earlier.
        :param extra: additional wait after failures.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._joined.clear()
            interval = min((waiter.interval for waiter in self._waiters), default=60.0)
            interval = max(self._timing.shortest, interval - took - self._timing.storing)
            if not all(waiter.served for waiter in self._waiters):
                interval = min(interval, self._timing.arrival)
            remaining = polled_at + interval + extra - loop.time()
            if remaining <= 0:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._joined.wait(), remaining)

    async def _poll(self) -> None:
        waiters = list(self._waiters)
        api = await self._open()
        try:
            lists = await self._list(api, waiters)
        except CredentialsError:
            # The connection may have a new token meanwhile: read it once before reporting the error.
            await self._close()
            api = await self._open()
            lists = await self._list(api, waiters)
        for waiter in waiters:
            waiter.served = True
            waiter.news.put_nowait(News(tuple(lists[waiter]), self._read_to))
        missing = await self._missing_jobs(api, waiters)
        for waiter in waiters:
            if waiter.job_id in missing:
                waiter.news.put_nowait(News(error=_deleted(waiter.job_id)))

    async def _list(self, api: DbtCloudApi, waiters: list[_Waiter]) -> dict[_Waiter, list[CloudRun]]:
        """Return the recently finished runs for each waiter, and for a new waiter those since the time it asks for."""
        recent = (self._read_to or api.server_time or datetime.now(UTC)) - OVERLAP
        arrivals = [waiter for waiter in waiters if not waiter.served]
        # Waiters that reach far back ask for their own job, unless the runs of all jobs take fewer requests.
        far = {waiter for waiter in arrivals if waiter.since < recent - _FAR_BACK}
        if far:
            pages = await api.pages_of_finished_runs(min(waiter.since for waiter in far))
            if pages <= len(far):
                far = set()
        # One list serves everybody else.
        start = min([recent, *(waiter.since for waiter in arrivals if waiter not in far)])
        by_job = defaultdict(list)
        for run in await api.finished_runs(start):
            by_job[run.job_id].append(run)
        read_to = api.server_time or datetime.now(UTC)
        lists = {waiter: by_job[waiter.job_id] for waiter in waiters if waiter not in far}
        for waiter in far:
            lists[waiter] = await api.finished_runs(waiter.since, job_id=waiter.job_id)
        self._read_to = read_to  # only now, so that after an outage the list begins where the last complete poll ended
        return lists

    async def _missing_jobs(self, api: DbtCloudApi, waiters: list[_Waiter]) -> set[int]:
        """Return the waiters' jobs that do not exist; empty between the checks."""
        now = asyncio.get_running_loop().time()
        if now < self._next_jobs_check:
            return set()
        self._next_jobs_check = now + self._timing.jobs
        try:
            return {waiter.job_id for waiter in waiters} - await api.job_ids()
        except ReverseEtlError as error:
            log.warning("Cannot check whether the dbt Cloud jobs still exist: %s", error)
            return set()

    async def _report(self, error: Exception) -> None:
        log.warning("Polling dbt Cloud failed and will be repeated: %s", error)
        if not isinstance(error, ReverseEtlError):
            error = TryLaterError(f"polling failed: {type(error).__name__}")
        for waiter in self._waiters:
            waiter.news.put_nowait(News(error=error))
        await self._close()

    async def _open(self) -> DbtCloudApi:
        if self._api is None:
            self._api = await (await self._connect()).__aenter__()
        return self._api

    async def _close(self) -> None:
        api = self._api
        self._api = None
        if api:
            with suppress(Exception):  # no error may end the loop of all waiters
                await api.__aexit__()


def _deleted(job_id: int) -> ConfigurationError:
    return ConfigurationError(
        "the dbt Cloud job was deleted, or the token cannot see it",
        todo="correct the job id, or grant the token access to the job's project",
        job=job_id,
    )
