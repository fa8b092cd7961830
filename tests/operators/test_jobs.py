"""Tasks whose rows go in jobs: they wait in the triggerer, which asks for the jobs by their references alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airflow_reverse_etl.compat import TaskDeferred
from airflow_reverse_etl.destinations.base import DestinationOptions, Setup
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.testing import FakeBulkApi, JobDials, registered
from airflow_reverse_etl.triggers import JobTrigger
from tests.operators.tasks import SYNC, context, operator

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("airflow_db", "customers")]


class BulkType:
    """Destination type whose syncs all send to one bulk API."""

    Options: ClassVar[type[DestinationOptions]] = DestinationOptions
    needs_match_on: ClassVar[frozenset[Any]] = frozenset()

    def __init__(self, api: FakeBulkApi) -> None:
        self._api = api
        self.connections: list[str] = []

    def __call__(self, setup: Setup) -> FakeBulkApi:
        return self._api

    def for_jobs(self, connection: ConnectionInfo | None) -> FakeBulkApi:
        self.connections.append(connection.conn_id if connection else "")
        return self._api


@pytest.fixture(params=["on_close", "at_once"])
def api(request: Any, add_connection: Callable[..., None], state_url: Path) -> Iterator[FakeBulkApi]:
    add_connection("crm", conn_type="reverse_etl_http", host="https://crm.example.com/api", password="t0ken")
    made = FakeBulkApi(request.param, JobDials(polls=3), poll_seconds=61.0)
    with registered("fake", BulkType(made)):
        yield made


def running() -> Any:
    found = context()
    found["ti"].task_id = "t"
    found["ti"].try_number = 1
    found["ti"].start_date = datetime.now(UTC)
    return found


def deferred(work: Callable[[], Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        work()
    return caught.value


def task(**more: Any) -> Any:
    return operator(sync=SYNC, deferrable=True, **more)


def resumed(waiting: TaskDeferred, event: Any, **more: Any) -> Any:
    kept = json.loads(json.dumps(waiting.kwargs))
    return task(**more).resume_execution(waiting.method_name, {**kept, "event": event}, running())


async def fired(waiting: TaskDeferred) -> tuple[dict[str, Any], list[float]]:
    """Run the trigger as the triggerer does, from its serialized form; return its event, and how long it slept."""
    path, arguments = waiting.trigger.serialize()
    assert path == "airflow_reverse_etl.triggers.jobs.JobTrigger"
    trigger = JobTrigger(**json.loads(json.dumps(arguments)))
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    trigger.sleep = sleep  # type: ignore[method-assign]
    events = [event.payload async for event in trigger.run()]
    assert len(events) == 1
    return events[0], slept


def in_triggerer(waiting: TaskDeferred) -> tuple[dict[str, Any], list[float]]:
    import asyncio

    return asyncio.run(fired(waiting))


def test_a_task_defers_until_its_job_is_answered_and_reads_the_result(api: FakeBulkApi) -> None:
    waiting = deferred(lambda: task().execute(running()))
    arguments = waiting.trigger.serialize()[1]
    assert arguments.keys() == {"destination_type", "connection", "refs", "interval", "deadline"}
    assert "Ada" not in json.dumps(arguments)
    assert api.opened == api.closed, "nothing is held"
    event, slept = in_triggerer(waiting)
    assert event == {"at_work": []}
    assert min(slept) >= 15
    report = resumed(waiting, event)
    assert (report["accepted"], report["retryable"]) == (3, 0)
    assert set(Counter(key for _, key in api.table.writes).values()) == {1}


def test_a_task_that_is_cleared_while_it_is_deferred_finds_its_job(api: FakeBulkApi) -> None:
    deferred(lambda: task().execute(running()))
    waiting = deferred(lambda: task().execute(running()))
    report = resumed(waiting, in_triggerer(waiting)[0])
    assert report["accepted"] == 3
    assert len(api.jobs) == 1, "nothing was sent again"


def test_a_triggerer_that_cannot_ask_lets_the_worker_ask(api: FakeBulkApi, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = deferred(lambda: task().execute(running()))
    monkeypatch.delattr(BulkType, "for_jobs")
    event, _ = in_triggerer(waiting)
    assert "has no jobs" in event["error"]
    api.poll_seconds = 0.01
    assert resumed(waiting, event)["accepted"] == 3


def test_the_execution_timeout_is_a_deadline_of_the_wait(api: FakeBulkApi) -> None:
    limit = timedelta(minutes=5)
    waiting = deferred(lambda: task(execution_timeout=limit).execute(running()))
    deadline = datetime.fromisoformat(waiting.trigger.serialize()[1]["deadline"])
    assert deadline <= datetime.now(UTC) + limit
    assert waiting.timeout is not None
    assert waiting.timeout <= limit + timedelta(minutes=1)
    assert api.jobs


def test_a_task_that_is_not_deferrable_waits_on_its_worker(api: FakeBulkApi) -> None:
    api.poll_seconds = 0.01
    assert operator(sync=SYNC, deferrable=False).execute(running())["accepted"] == 3
