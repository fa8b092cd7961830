"""Triggers that wait for dbt Cloud jobs without a worker slot: for a deferred sensor, and as an asset's watcher."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import AssetWatcher
from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

from airflow_reverse_etl.assets import ASSET_GROUP
from airflow_reverse_etl.compat import Asset
from airflow_reverse_etl.dbt_cloud.consumption import Cursor
from airflow_reverse_etl.dbt_cloud.feed import DEFAULT_TIMING, FeedTiming, account_feed
from airflow_reverse_etl.dbt_cloud.models import OVERLAP
from airflow_reverse_etl.errors import ConfigurationError, ReverseEtlError
from airflow_reverse_etl.sync.load.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from airflow_reverse_etl.dbt_cloud.feed import News

_BACKOFF = Backoff(first=5.0, longest=300.0)


@dataclass(frozen=True, slots=True)
class Timing:
    """Waits of the triggers, in seconds.

    :param deferral: shortest wait before a sensor's trigger fires. Airflow fails a deferred task whose trigger fires
        before the scheduler has noted the deferral (apache/airflow#66374).
    :param repeated: time before a watcher's stop whose events it repeats when it starts. An event is lost when the
        triggerer dies before it has stored it, seconds later; and when it comes after its DAG was paused, but before
        Airflow parsed the DAG's file again and stopped the watcher, minutes later.
    :param backoff: waits after attempts to read a watcher's cursor that failed.
    :param feed: intervals of the connection's feed; those of its first user count.
    """

    deferral: float = 15.0
    repeated: float = 600.0
    backoff: Backoff = _BACKOFF
    feed: FeedTiming = DEFAULT_TIMING


def dbt_cloud_job(dbt_cloud_conn_id: str, job_id: int, *, poll_interval: float = 60.0) -> Asset:
    """Return the asset that a dbt Cloud job's successful run updates: ``schedule=[dbt_cloud_job("dbt_cloud", 70403)]``.

    Its events' ``extra["payload"]`` has run_id, job_id, status, finished_at, git_sha, git_branch, project_id,
    environment_id, href. Delivery is at least once: let a
    :class:`~airflow_reverse_etl.sensors.dbt_cloud.DbtCloudJobSensor` with ``wait=False`` be the DAG's
    first task, and repeats are skipped.

    :param dbt_cloud_conn_id: Airflow connection of type ``dbt_cloud``.
    :param job_id: the job.
    :param poll_interval: seconds in which a finished run becomes an event, at most, while dbt Cloud and Airflow answer;
        polls are a little closer together. The shortest one of a connection's watchers and sensors counts for all.
    """
    asset = job_asset(dbt_cloud_conn_id, job_id)
    trigger = DbtCloudJobTrigger(dbt_cloud_conn_id, job_id, poll_interval)
    asset.watchers = [AssetWatcher(name=f"{asset.name} finished", trigger=trigger)]
    return asset


def job_asset(dbt_cloud_conn_id: str, job_id: int) -> Asset:
    """Return the asset of :func:`dbt_cloud_job`, without its watcher."""
    name = f"dbt_cloud/{quote(dbt_cloud_conn_id, safe='.-_')}/{job_id}"
    return Asset(name=name, uri=f"reverse-etl://{name}", group=ASSET_GROUP)


def _news(
    conn_id: str, job_id: int, *, since: datetime, interval: float, timing: FeedTiming
) -> AsyncGenerator[News, None]:
    from airflow_reverse_etl.hooks.dbt_cloud import DbtCloudApiHook

    feed = account_feed(conn_id, DbtCloudApiHook(conn_id).async_api, timing=timing)
    return feed.watch(job_id, since=since, interval=interval)


class DbtCloudRunFinishedTrigger(BaseTrigger):
    """Fires once, when a run of a job has finished that the sensor has not seen.

    The trigger consumes nothing: the sensor looks again when it resumes, and takes the run then.

    :param cursor: what the sensor has seen, as :meth:`~airflow_reverse_etl.dbt_cloud.consumption.Cursor.to_json`
        writes it.
    :param only_success: failed and cancelled runs do not wake the sensor.
    """

    #: Not a part of what :meth:`serialize` returns.
    timing = Timing()

    def __init__(
        self, dbt_cloud_conn_id: str, job_id: int, poll_interval: float, *, cursor: dict[str, Any], only_success: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dbt_cloud_conn_id = dbt_cloud_conn_id
        self.job_id = job_id
        self.poll_interval = poll_interval
        self.cursor = cursor
        self.only_success = only_success

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("dbt_cloud_conn_id", "job_id", "poll_interval", "cursor", "only_success")
        return _path(self), {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncGenerator[TriggerEvent, None]:
        started = asyncio.get_running_loop().time()
        event = await self._event()
        await asyncio.sleep(started + self.timing.deferral - asyncio.get_running_loop().time())
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _event(self) -> dict[str, Any]:
        cursor = Cursor.from_json(self.cursor)
        news = _news(
            self.dbt_cloud_conn_id,
            self.job_id,
            since=cursor.since,
            interval=self.poll_interval,
            timing=self.timing.feed,
        )
        async with aclosing(news):
            async for item in news:
                if isinstance(item.error, ConfigurationError):  # everything else passes by itself
                    return {"error": error_to_json(item.error)}
                fresh, cursor = cursor.advance(item.runs)
                if runs := [run.id for run in fresh if run.succeeded or not self.only_success]:
                    return {"runs": runs}
        raise AssertionError("the feed never ends")


class DbtCloudJobTrigger(BaseEventTrigger):
    """An asset's watcher: an event for each successful run of a job, at least once, in the order they finish.

    The watcher keeps its cursor in the asset's state store (Airflow 3.3), else in a file under ``[reverse_etl]
    state_url``. Without a cursor, it begins with the present. Airflow stops the watcher when the last consumer DAG is
    paused, and drops the events until then. After unpausing, the watcher continues ten minutes before its stop. It logs
    errors, and polls again at growing intervals.

    :param dbt_cloud_conn_id: Airflow connection of type ``dbt_cloud``.
    :param job_id: the job.
    :param poll_interval: see :func:`dbt_cloud_job`.
    """

    #: Not a part of what :meth:`serialize` returns.
    timing = Timing()

    def __init__(self, dbt_cloud_conn_id: str, job_id: int, poll_interval: float = 60.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dbt_cloud_conn_id = dbt_cloud_conn_id
        self.job_id = job_id
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return _path(self), {name: getattr(self, name) for name in ("dbt_cloud_conn_id", "job_id", "poll_interval")}

    async def run(self) -> AsyncGenerator[TriggerEvent, None]:
        started = asyncio.get_running_loop().time()
        cursor = await self._load()
        since = cursor.since if cursor else datetime.now(UTC) - OVERLAP
        news = _news(
            self.dbt_cloud_conn_id, self.job_id, since=since, interval=self.poll_interval, timing=self.timing.feed
        )
        reached: deque[tuple[float, Cursor]] = deque()
        async with aclosing(news):
            async for item in news:
                if item.error:
                    self.log.warning("Job %s: %s", self.job_id, item.error)
                if item.now is None:
                    continue
                now = asyncio.get_running_loop().time()
                if cursor is None:
                    cursor = _beginning(item, item.now - timedelta(seconds=now - started))
                    await self._save(cursor)
                fresh, cursor = cursor.advance(item.runs)
                for run in fresh:
                    if run.succeeded:
                        yield TriggerEvent(run.to_json())  # type: ignore[no-untyped-call]
                if fresh:
                    reached.append((now, cursor))
                await self._save_old(reached, now - self.timing.repeated)

    async def _save_old(self, reached: deque[tuple[float, Cursor]], before: float) -> None:
        cursor = None
        while reached and reached[0][0] <= before:
            cursor = reached.popleft()[1]
        if cursor:
            await self._save(cursor)

    @property
    def _place(self) -> str:
        return f"dbt_cloud/watchers/{quote(self.dbt_cloud_conn_id, safe='')}/{self.job_id}.json"

    async def _load(self) -> Cursor | None:
        """Read the cursor, and wait while that fails: Airflow would restart a failed watcher at once, and for ever."""
        for failures in itertools.count(1):
            try:
                return await self._read()
            except Exception as error:  # noqa: BLE001  whatever it is, it must pass before anything is announced
                self.log.warning("The cursor of the watcher of job %s cannot be read: %s", self.job_id, error)
                await asyncio.sleep(self.timing.backoff.wait(failures))
        raise AssertionError("counts forever")

    async def _read(self) -> Cursor | None:
        store = getattr(self, "asset_state_store", None)
        if store is not None:
            data = await store.aget("dbt_cloud_cursor", None)
        else:
            text = await asyncio.to_thread(lambda: _files().read(self._place))
            data = json.loads(text) if text else None
        return Cursor.from_json(data) if data else None

    async def _save(self, cursor: Cursor) -> None:
        store = getattr(self, "asset_state_store", None)
        try:
            if store is not None:
                await store.aset("dbt_cloud_cursor", cursor.to_json())
            else:
                text = json.dumps(cursor.to_json()).encode()
                await asyncio.to_thread(lambda: _files().write(self._place, text))
        except Exception as error:  # noqa: BLE001  a restart repeats events then; ending here would repeat them at once
            self.log.warning("The cursor of the watcher of job %s was not stored: %s", self.job_id, error)


def _beginning(news: News, begin: datetime) -> Cursor:
    """Return a cursor that has seen everything before a time."""
    return Cursor(begin).advance(run for run in news.runs if run.ended and run.order[0] < begin)[1]


def _files() -> Any:
    from airflow_reverse_etl.wiring import state_files

    return state_files()


def _path(trigger: BaseTrigger) -> str:
    return f"{type(trigger).__module__}.{type(trigger).__qualname__}"


def error_to_json(error: ReverseEtlError) -> dict[str, Any]:
    """Serialize an error for its way from the triggerer to the task."""
    return {"type": type(error).__name__, "what": error.what, "todo": error.todo, "where": error.where}


def error_from_json(data: dict[str, Any]) -> ReverseEtlError:
    """Rebuild the error that the trigger met."""
    from airflow_reverse_etl import errors

    kind = getattr(errors, data["type"], ReverseEtlError)
    return kind(data["what"], todo=data["todo"], **data["where"])
