"""One poll of a dbt Cloud account for all that wait for one of its jobs: requests do not grow with their number.

Works the same on every Airflow version, for deferred sensors and for asset watchers alike, because it shares by process
and event loop and needs nothing of Airflow. It keeps no history: a poll lists what finished in the last minutes, or as
far back as the newest arrival asks for, and each waiter's own cursor drops what it has seen.
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
from airflow_reverse_etl.sync.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi

log = logging.getLogger(__name__)

#: Waiters that start together, as after a restart of the triggerer, share the first poll.
_GATHER_SECONDS = 1.0
#: Who has to catch up on more than this asks for their own job only, when that is fewer requests than all jobs' runs.
_FAR_BACK = timedelta(days=1)
_JOBS_EVERY_SECONDS = 900.0
_SHORTEST_SECONDS = 1.0
#: How much sooner than the interval a poll is made: Airflow stores what a trigger yields with its next heartbeats.
_STORING_SECONDS = 2.0
#: Whoever arrives waits no longer for a first poll, however seldom the others want one.
_ARRIVAL_SECONDS = 10.0
_BACKOFF = Backoff(first=5.0, longest=300.0)

_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AccountFeed]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class News:
    """What one poll says to one waiter.

    :param runs: finished runs of its job, maybe seen before.
    :param now: dbt Cloud's clock; None with an error.
    :param error: why the poll failed, or that the job is gone.
    """

    runs: tuple[CloudRun, ...] = ()
    now: datetime | None = None
    error: ReverseEtlError | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    job_id: int
    since: datetime
    interval: float
    told: bool = False
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)


def account_feed(conn_id: str, connect: Callable[[], Awaitable[DbtCloudApi]]) -> AccountFeed:
    """The feed of a connection in this event loop.

    :param connect: makes a client that is not open yet; called again when dbt Cloud refuses the token.
    """
    feeds = _feeds.setdefault(asyncio.get_running_loop(), {})
    return feeds.setdefault(conn_id, AccountFeed(connect))


class AccountFeed:
    """Polls while anybody waits. Get it from :func:`account_feed`."""

    def __init__(self, connect: Callable[[], Awaitable[DbtCloudApi]]) -> None:
        self._connect = connect
        self._waiters: set[_Waiter] = set()
        self._joined = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._api: DbtCloudApi | None = None
        self._read_to: datetime | None = None
        self._jobs_at = float("-inf")

    async def watch(self, job_id: int, *, since: datetime, interval: float) -> AsyncGenerator[News, None]:
        """News of one job, forever: after every poll, also when nothing happened.

        Never misses a run that finished at ``since`` or later (dbt Cloud's clock); repeats some. Never raises: errors
        are news, and polls go on behind them, further and further apart. Close the iterator to stop.

        :param interval: seconds in which a finished run is news, and Airflow has time left to store its event; polls
            are a little closer together. The shortest interval that anybody asks for counts.
        """
        waiter = _Waiter(job_id, since, interval)
        self._waiters.add(waiter)
        self._joined.set()
        if self._task is None or self._task.done():
            # A context of its own: its log lines belong to no single trigger.
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
            await asyncio.sleep(_GATHER_SECONDS)
            while True:
                polled_at = asyncio.get_running_loop().time()
                try:
                    await self._poll()
                    failures = 0
                except Exception as error:  # noqa: BLE001  whatever it is, the loop of all watchers must go on
                    failures += 1
                    await self._report(error)
                took = asyncio.get_running_loop().time() - polled_at
                await self._pause(polled_at, took, _BACKOFF.wait(failures) if failures else 0.0)
        finally:
            await self._close()

    async def _pause(self, polled_at: float, took: float, extra: float) -> None:
        """Until the next poll is due. What finishes now is listed then, and told when that poll has taken its time."""
        loop = asyncio.get_running_loop()
        while True:
            self._joined.clear()
            interval = min((waiter.interval for waiter in self._waiters), default=60.0)
            interval = max(_SHORTEST_SECONDS, interval - took - _STORING_SECONDS)
            if not all(waiter.told for waiter in self._waiters):
                interval = min(interval, _ARRIVAL_SECONDS)
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
            # The token may have been changed in the connection meanwhile: look once before telling anybody.
            await self._close()
            api = await self._open()
            lists = await self._list(api, waiters)
        for waiter in waiters:
            waiter.told = True
            waiter.news.put_nowait(News(tuple(lists[waiter]), self._read_to))
        missing = await self._missing(api, waiters)
        for waiter in waiters:
            if waiter.job_id in missing:
                waiter.news.put_nowait(News(error=_deleted(waiter.job_id)))

    async def _list(self, api: DbtCloudApi, waiters: list[_Waiter]) -> dict[_Waiter, list[CloudRun]]:
        """What finished lately, for each waiter; and what it asked for when it came."""
        recent = (self._read_to or api.server_time or datetime.now(UTC)) - OVERLAP
        arrivals = [waiter for waiter in waiters if not waiter.told]
        far = {waiter for waiter in arrivals if waiter.since < recent - _FAR_BACK}
        if far and await api.pages_of_finished_runs(min(waiter.since for waiter in far)) <= len(far):
            far = set()
        start = min([recent, *(waiter.since for waiter in arrivals if waiter not in far)])
        by_job = defaultdict(list)
        for run in await api.finished_runs(start):
            by_job[run.job_id].append(run)
        read_to = api.server_time or datetime.now(UTC)
        lists = {waiter: by_job[waiter.job_id] for waiter in waiters if waiter not in far}
        for waiter in far:
            lists[waiter] = await api.finished_runs(waiter.since, job_id=waiter.job_id)
        self._read_to = read_to  # only now: after an outage, list from where the last whole poll ended
        return lists

    async def _missing(self, api: DbtCloudApi, waiters: list[_Waiter]) -> set[int]:
        """Jobs waited for that are not there, looked up now and then."""
        now = asyncio.get_running_loop().time()
        if now < self._jobs_at:
            return set()
        self._jobs_at = now + _JOBS_EVERY_SECONDS
        try:
            return {waiter.job_id for waiter in waiters} - await api.job_ids()
        except ReverseEtlError as error:
            log.warning("Cannot see whether the dbt Cloud jobs still exist: %s", error)
            return set()

    async def _report(self, error: Exception) -> None:
        log.warning("Polling dbt Cloud failed and goes on: %s", error)
        known = (
            error if isinstance(error, ReverseEtlError) else TryLaterError(f"polling failed: {type(error).__name__}")
        )
        for waiter in self._waiters:
            waiter.news.put_nowait(News(error=known))
        await self._close()

    async def _open(self) -> DbtCloudApi:
        if self._api is None:
            self._api = await (await self._connect()).__aenter__()
        return self._api

    async def _close(self) -> None:
        api, self._api = self._api, None
        if api:
            with suppress(Exception):  # nothing may end the loop that all wait for
                await api.__aexit__()


def _deleted(job_id: int) -> ConfigurationError:
    return ConfigurationError(
        "dbt Cloud has no such job any more, or the token cannot see it",
        todo="correct the job id, or give the token the job's project",
        job=job_id,
    )
