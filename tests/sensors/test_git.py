"""Waiting for commits: what is new, what is remembered, and that a trigger never raises. Repositories are real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_reverse_etl.compat import AirflowFailException, AirflowSensorTimeout, TaskDeferred
from airflow_reverse_etl.sensors.git import GitCommitSensor
from airflow_reverse_etl.triggers.git import GitCommitTrigger, git_commit
from tests.git.servers import Origin, git

pytestmark = pytest.mark.airflow


@pytest.fixture(autouse=True)
def connection(origin: Origin, state_url: Path, add_connection: Callable[..., None]) -> None:
    add_connection("git_dbt", conn_type="git", host=str(origin.bare), extra={"allow_protocols": ["file"]})


def without_waiting(trigger: GitCommitTrigger) -> list[float]:
    """Let a trigger poll at once. Returns what it would have waited before each poll, growing."""
    waited: list[float] = []

    async def soon(seconds: float) -> None:
        waited.append(seconds)
        await asyncio.sleep(0.01)

    trigger.sleep = soon
    return waited


async def polled(waited: list[float]) -> None:
    """Wait until a trigger has finished a poll that it began after this call."""
    before = len(waited)
    await until(lambda: len(waited) > before + 1)


def sensor(**settings: Any) -> GitCommitSensor:
    return GitCommitSensor(task_id="commit", git_conn_id="git_dbt", path="analytics", **settings)


def context(run_id: str) -> Any:
    return {"ti": SimpleNamespace(dag_id="d", task_id="commit", run_id=run_id, map_index=-1)}


def test_each_change_under_the_path_once(origin: Origin) -> None:
    """First what is there; then only what changes the path; a retry of the same run finds the same."""
    first = git(origin.work, "rev-parse", "HEAD")
    found = sensor().execute(context("run 1"))
    assert (found["commit"], found["previous"], found["path"]) == (first, None, "analytics")
    with pytest.raises(TaskDeferred):
        sensor().execute(context("run 2"))
    origin.commit({"README.md": "elsewhere"})
    with pytest.raises(TaskDeferred):
        sensor().execute(context("run 2"))
    assert sensor().execute(context("run 1")) == found
    second = origin.commit({"analytics/models/new.sql": "select 1"})
    found = sensor().execute(context("run 2"))
    assert (found["commit"], found["previous"]) == (second, first)
    assert sensor().execute(context("run 2")) == found
    assert sensor(deferrable=False).poke(context("run 3")).is_done is False


def test_another_branch_begins_anew(origin: Origin) -> None:
    assert sensor().execute(context("1"))
    assert sensor(ref="develop").execute(context("2"))["previous"] is None


async def test_deferred_until_the_trigger_fires(origin: Origin) -> None:
    """The first check is made before deferring; the trigger waits first; a commit elsewhere does not wake the task."""
    sensor().execute(context("1"))
    with pytest.raises(TaskDeferred) as deferred:
        sensor().execute(context("2"))
    path, kwargs = deferred.value.trigger.serialize()
    assert json.loads(json.dumps(kwargs)) == kwargs
    assert path == "airflow_reverse_etl.triggers.git.GitCommitTrigger"
    trigger = GitCommitTrigger(**kwargs)
    waited = without_waiting(trigger)
    events = trigger.run()
    waiting = asyncio.ensure_future(anext(events))
    await polled(waited)
    origin.commit({"README.md": "elsewhere"})
    await polled(waited)
    assert not waiting.done()
    commit = origin.commit({"analytics/models/new.sql": "select 1"})
    event = (await asyncio.wait_for(waiting, 10)).payload
    assert waited[0] == 60
    assert event["commit"] == commit
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    done = sensor().execute_complete(context("2"), event, until="2999-01-01T00:00:00+00:00")
    assert done["commit"] == commit


def test_time_is_up_and_a_wrong_configuration() -> None:
    sensor().execute(context("1"))
    with pytest.raises(AirflowSensorTimeout, match="in 2 hours"):
        sensor(timeout=7200).execute_complete(context("2"), {}, until="2026-01-01T00:00:00+00:00")
    with pytest.raises(AirflowFailException, match="no branch"):
        sensor().execute_complete(context("2"), {"error": "there is no branch"}, until="2999-01-01T00:00:00+00:00")
    with pytest.raises(AirflowFailException, match="no branch or tag"):
        sensor(ref="nope").execute(context("2"))


async def test_trigger_tells_a_sensor_what_no_waiting_would_help() -> None:
    trigger = GitCommitTrigger("git_dbt", ref="nope", seen={"commit": "", "content": None}, poll_interval=1)
    waited = without_waiting(trigger)
    events = [event.payload async for event in trigger.run()]
    assert "no branch or tag" in events[0]["error"]
    assert len(events) == 1
    assert waited == [15]


def test_another_repository_of_the_connections_host_is_watched_by_itself(origin: Origin, tmp_path: Path) -> None:
    other = Origin.create(tmp_path / "another")
    commit = other.commit({"analytics/dbt_project.yml": "name: other\n"}, "first")
    first = git(origin.work, "rev-parse", "HEAD")
    assert sensor().execute(context("run 1"))["commit"] == first
    found = sensor(repository=str(other.bare)).execute(context("run 2"))
    assert (found["commit"], found["repository"]) == (commit, str(other.bare))
    with pytest.raises(TaskDeferred) as deferred:
        sensor(repository=str(other.bare)).execute(context("run 3"))
    assert deferred.value.trigger.serialize()[1]["repository"] == str(other.bare)
    names = [git_commit("git_dbt", repository=repository).name for repository in (None, "owner/other")]
    assert names == ["git/git_dbt/main/.", "git/git_dbt/owner%2Fother/main/."]


async def test_watcher_goes_on_through_errors_ever_more_slowly(origin: Origin) -> None:
    """It begins where the branch stands, and yields each change with what was before; it never raises or ends."""
    first = git(origin.work, "rev-parse", "HEAD")
    (watcher,) = git_commit("git_dbt", path="analytics", poll_interval=2).watchers
    stream = watcher.trigger["kwargs"] if isinstance(watcher.trigger, dict) else watcher.trigger.serialize()[1]
    trigger = GitCommitTrigger(**stream)
    waited = without_waiting(trigger)
    events = trigger.run()
    waiting = asyncio.ensure_future(anext(events))
    await polled(waited)
    assert not waiting.done()
    origin.bare.rename(origin.bare.with_name("away"))
    await until(lambda: 8 in waited)
    origin.bare.with_name("away").rename(origin.bare)
    assert not waiting.done()
    commit = origin.commit({"analytics/models/new.sql": "select 1"})
    event = (await asyncio.wait_for(waiting, 30)).payload
    assert event == {
        "git_conn_id": "git_dbt", "ref": "main", "path": "analytics", "commit": commit, "previous": first,
    }  # fmt: skip
    assert 4 in waited
    await events.aclose()


async def test_watcher_remembers_where_the_store_is_there(origin: Origin) -> None:
    """What was pushed while nobody looked is found; what was yielded is noted one poll later, hence never lost."""
    kept: dict[str, Any] = {}

    class Store:
        async def aget(self, key: str, default: Any) -> Any:
            return kept.get(key, default)

        async def aset(self, key: str, value: Any) -> None:
            kept[key] = value

    def started() -> Any:
        trigger = GitCommitTrigger("git_dbt", path="analytics", poll_interval=1)
        trigger.asset_state_store = Store()
        without_waiting(trigger)
        return trigger.run()

    waiting = asyncio.ensure_future(anext(started()))
    await until(lambda: bool(kept))
    waiting.cancel()
    commit = origin.commit({"analytics/models/new.sql": "select 1"})
    events = started()
    assert (await anext(events)).payload["commit"] == commit
    assert kept["git_commit"]["commit"] != commit
    again = asyncio.ensure_future(anext(events))
    await until(lambda: kept["git_commit"]["commit"] == commit)
    again.cancel()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    pytest.fail("not within 10 seconds")
