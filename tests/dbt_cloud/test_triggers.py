"""Triggers carry no secret, fire for new runs only, and remember their position."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_reverse_etl.dbt_cloud.consumption import Cursor
from airflow_reverse_etl.dbt_cloud.models import RunStatus
from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.hooks import DbtCloudApiHook
from airflow_reverse_etl.sync.load.backoff import Backoff
from airflow_reverse_etl.triggers import DbtCloudJobTrigger, dbt_cloud_job
from airflow_reverse_etl.triggers.dbt_cloud import DbtCloudRunFinishedTrigger, Timing
from tests.dbt_cloud.conftest import QUICK
from tests.dbt_cloud.server import DbtCloudServer

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("connect", "state_url")]

TIMING = Timing(deferral=0.2, repeated=0.2, backoff=Backoff(first=0.2, longest=0.2), feed=QUICK)


class FakeStore:
    """The asset state store of Airflow 3.3."""

    def __init__(self, cursor: Cursor | None = None) -> None:
        self.values: dict[str, Any] = {"dbt_cloud_cursor": cursor.to_json()} if cursor else {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        json.dumps(value)
        self.values[key] = value


def waiting(job: int, **options: Any) -> DbtCloudRunFinishedTrigger:
    cursor = options.pop("cursor", Cursor(datetime.now(UTC)))
    options = {"cursor": cursor.to_json(), "only_success": False, **options}
    trigger = DbtCloudRunFinishedTrigger("dbt_cloud", job, 0.05, **options)
    trigger.timing = TIMING
    return trigger


def watcher(job: int, store: FakeStore | None) -> DbtCloudJobTrigger:
    """Return a watcher whose cursor is in a store, or without one in the state files."""
    trigger = DbtCloudJobTrigger("dbt_cloud", job, 0.05)
    trigger.timing = TIMING
    trigger.asset_state_store = store  # type: ignore[assignment]
    return trigger


async def fired(trigger: DbtCloudRunFinishedTrigger) -> Any:
    async with asyncio.timeout(5), aclosing(trigger.run()) as events:
        return (await anext(events)).payload


async def take(trigger: DbtCloudJobTrigger, count: int) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(10), aclosing(trigger.run()) as events:
        async for event in events:
            found.append(event.payload["run_id"])
            if len(found) == count:
                await asyncio.sleep(0)
                return found
    raise AssertionError


@pytest.mark.parametrize("trigger", [waiting(7), DbtCloudJobTrigger("dbt_cloud", 7, 30.0)])
def test_a_trigger_is_rebuilt_from_plain_data(trigger: Any) -> None:
    path, data = trigger.serialize()
    rebuilt = type(trigger)(**json.loads(json.dumps(data)))
    assert rebuilt.serialize() == (path, data)
    assert path == f"airflow_reverse_etl.triggers.dbt_cloud.{type(trigger).__name__}"


async def test_a_deferred_sensor_is_woken_by_a_run_it_has_not_seen(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    seen = cloud.add_run(job)
    cursor = Cursor(datetime.now(UTC), {seen: cloud._runs[seen].finished_at.isoformat()})  # type: ignore[union-attr]
    event = asyncio.create_task(fired(waiting(job, cursor=cursor)))
    await asyncio.sleep(0.4)
    assert not event.done()
    run = cloud.add_run(job)
    assert await event == {"runs": [run]}


async def test_a_run_that_finished_between_check_and_deferral_wakes_it(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    run = cloud.add_run(job, finished_at=datetime.now(UTC) - timedelta(minutes=2))
    assert await fired(waiting(job)) == {"runs": [run]}


async def test_it_does_not_fire_before_the_scheduler_is_ready(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    cloud.add_run(job)
    started = asyncio.get_running_loop().time()
    await fired(waiting(job))
    assert asyncio.get_running_loop().time() - started >= 0.2


async def test_failed_runs_wake_only_who_cares(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    failed = cloud.add_run(job, status=RunStatus.ERROR)
    run = cloud.add_run(job)
    assert await fired(waiting(job)) == {"runs": [failed, run]}
    assert await fired(waiting(job, only_success=True)) == {"runs": [run]}


async def test_outages_pass_and_a_refused_token_does_not(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    cloud.rotate_token()
    event = await fired(waiting(job))
    assert event["error"]["type"] == "CredentialsError"
    assert "dbtc_" not in json.dumps(event)


async def test_a_missing_connection_is_the_same_error_in_triggerer_and_task(airflow_db: None) -> None:
    with pytest.raises(CredentialsError, match="connection not found") as in_triggerer:
        await DbtCloudApiHook("nowhere").async_api()
    with pytest.raises(CredentialsError) as in_task:
        DbtCloudApiHook("nowhere").api()
    assert str(in_triggerer.value) == str(in_task.value)


async def test_a_watcher_begins_when_it_first_starts(cloud: DbtCloudServer) -> None:
    """The beginning counts even if the first poll comes later, as in an outage."""
    job = cloud.add_job()
    trigger = watcher(job, FakeStore())
    trigger.timing = replace(TIMING, feed=replace(QUICK, gather=1.0))
    cloud.add_run(job, finished_at=datetime.now(UTC) - timedelta(seconds=3))
    events = asyncio.create_task(take(trigger, 1))
    await asyncio.sleep(0.5)
    run = cloud.add_run(job)
    assert await events == [run]


@pytest.mark.parametrize("store", [True, False], ids=["asset state store", "state files"])
async def test_a_watcher_continues_where_it_stopped(cloud: DbtCloudServer, store: bool, state_url: Path) -> None:
    """The watcher finds runs that finished while it was down, or its consumer paused, and repeats no stored event."""
    job, shared = cloud.add_job(), FakeStore() if store else None

    async def collect(seconds: float) -> list[int]:
        found: list[int] = []
        try:
            async with asyncio.timeout(seconds), aclosing(watcher(job, shared).run()) as events:
                async for event in events:
                    found.append(event.payload["run_id"])  # noqa: PERF401  what came before the timeout counts
        except TimeoutError:
            pass
        return found

    first = asyncio.create_task(collect(1.5))
    await asyncio.sleep(0.5)
    one = cloud.add_run(job)
    cloud.add_run(job, status=RunStatus.ERROR)
    assert await first == [one]
    two, three = cloud.add_run(job), cloud.add_run(job)
    assert await collect(1.0) == [two, three]
    assert await collect(0.5) == []
    assert (state_url / "dbt_cloud" / "watchers" / "dbt_cloud" / f"{job}.json").exists() is not store


async def test_what_a_watcher_announced_shortly_before_it_stopped_it_repeats(cloud: DbtCloudServer) -> None:
    """Its DAG may have been paused before the event, or the triggerer may have died before storing the event."""
    job = cloud.add_job()
    trigger = watcher(job, FakeStore(Cursor(datetime.now(UTC))))
    run = cloud.add_run(job)
    assert await take(trigger, 1) == [run]
    assert await take(trigger, 1) == [run]


async def test_an_event_says_what_a_sync_needs(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    trigger = watcher(job, FakeStore(Cursor(datetime.now(UTC))))
    run = cloud.add_run(job)
    async with asyncio.timeout(5), aclosing(trigger.run()) as events:
        payload = (await anext(events)).payload
    assert (payload["run_id"], payload["job_id"], payload["git_sha"]) == (run, job, cloud.sha(run))
    assert json.loads(json.dumps(payload)) == payload


async def test_a_watcher_waits_until_it_can_read_where_it_stopped(cloud: DbtCloudServer) -> None:
    class Down(FakeStore):
        failures = 2

        async def aget(self, key: str, default: Any = None) -> Any:
            self.failures -= 1
            if self.failures >= 0:
                raise OSError("no database")
            return await super().aget(key, default)

    job = cloud.add_job()
    trigger = watcher(job, Down(Cursor(datetime.now(UTC) - timedelta(hours=2))))
    run = cloud.add_run(job, finished_at=datetime.now(UTC) - timedelta(hours=1))
    assert await take(trigger, 1) == [run]


async def test_a_watcher_outlives_errors_and_storage_that_fails(cloud: DbtCloudServer) -> None:
    class Broken(FakeStore):
        async def aset(self, key: str, value: Any) -> None:
            raise OSError("no database")

    job = cloud.add_job()
    events = asyncio.create_task(take(watcher(job, Broken()), 2))
    await asyncio.sleep(0.4)
    cloud.fail_next(2, 500)
    runs = [cloud.add_run(job), cloud.add_run(job)]
    assert await events == runs


def test_the_asset_is_the_same_wherever_it_is_named() -> None:
    asset = dbt_cloud_job("dbt_cloud", 70403)
    assert (asset.name, asset.uri) == ("dbt_cloud/dbt_cloud/70403", "reverse-etl://dbt_cloud/dbt_cloud/70403")
    with DAG("starts_by_itself", schedule=[asset]):
        pass
    assert dbt_cloud_job("dbt_cloud", 70403).watchers[0].trigger.serialize() == asset.watchers[0].trigger.serialize()
