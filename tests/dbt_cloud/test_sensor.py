"""The sensor takes each run once, whatever happens to its tasks, and waits without a worker slot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_reverse_etl.compat import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from airflow_reverse_etl.dbt_cloud.models import RunStatus
from airflow_reverse_etl.errors import CredentialsError, SpecError
from airflow_reverse_etl.sensors import DbtCloudJobSensor
from airflow_reverse_etl.stores.compare_and_set import VersionedFile
from airflow_reverse_etl.triggers.dbt_cloud import DbtCloudRunFinishedTrigger, Timing, error_to_json
from tests.dbt_cloud.conftest import QUICK
from tests.dbt_cloud.server import DbtCloudServer

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("connect", "state_url")]

OK, ERROR, CANCELLED = RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED


@pytest.fixture(autouse=True)
def _quick_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DbtCloudRunFinishedTrigger, "timing", Timing(deferral=0.2, feed=QUICK))


def now() -> datetime:
    return datetime.now(UTC)


def sensor(job: int, **options: Any) -> DbtCloudJobSensor:
    return DbtCloudJobSensor(task_id="done", dbt_cloud_conn_id="dbt_cloud", job_id=job, poke_interval=0.1, **options)


class Events:
    """Events added to any outlet. Not a dict: asset aliases cannot be hashed before Airflow 3.2."""

    def __init__(self) -> None:
        self.added: list[tuple[str, int]] = []

    def __getitem__(self, outlet: Any) -> Any:
        return SimpleNamespace(add=lambda asset, extra: self.added.append((asset.name, extra["payload"]["run_id"])))


def context(
    dag_run: str = "r1", *, map_index: int = -1, start: datetime | None = None, events: Events | None = None
) -> Any:
    ti = SimpleNamespace(dag_id="d", task_id="done", run_id=dag_run, map_index=map_index)
    run = SimpleNamespace(run_after=now())
    return {"ti": ti, "data_interval_start": start, "dag_run": run, "outlet_events": events}


def execute(task: DbtCloudJobSensor, dag_run: str = "r1", **about: Any) -> Any:
    """Return the run's id, or "deferred"."""
    try:
        return task.execute(context(dag_run, **about))["run_id"]
    except TaskDeferred:
        return "deferred"


def test_a_finished_run_is_taken_without_deferring(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    old = cloud.add_run(job)
    run = cloud.add_run(job, steps=[{"manifest.json": {}, "compiled/a.sql": {}}])
    result = sensor(job).execute(context())
    assert result["run_id"] == run
    assert result["git_sha"] == cloud.sha(run)
    assert result["superseded"] == [old]
    assert result["artifacts"] == ["manifest.json"]
    assert datetime.fromisoformat(result["finished_at"]) <= now()
    assert result["href"].startswith(cloud.url)


def test_a_retry_or_clear_gets_the_same_run_and_another_dag_run_never(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    first = cloud.add_run(job)
    assert [execute(sensor(job), name) for name in ("r1", "r2", "r1")] == [first, "deferred", first]
    second = cloud.add_run(job)
    assert [execute(sensor(job), name) for name in ("r1", "r2", "r1", "r3")] == [first, second, first, "deferred"]


def test_a_task_that_has_its_run_needs_neither_job_nor_permission(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    run = cloud.add_run(job)
    execute(sensor(job))
    cloud.delete_job(job)
    assert execute(sensor(job)) == run


def test_a_crash_after_consuming_loses_nothing(cloud: DbtCloudServer, monkeypatch: pytest.MonkeyPatch) -> None:
    job = cloud.add_job()
    run = cloud.add_run(job)
    write = VersionedFile.replace

    def crash(*args: Any) -> bool:
        write(*args)
        raise SystemExit("killed")

    monkeypatch.setattr(VersionedFile, "replace", crash)
    with pytest.raises(SystemExit):
        execute(sensor(job))
    monkeypatch.setattr(VersionedFile, "replace", write)
    assert [execute(sensor(job), name) for name in ("r2", "r1")] == ["deferred", run]


def test_dag_runs_at_the_same_time_share_the_runs_out(cloud: DbtCloudServer) -> None:
    """In a backfill of eight DAG runs and eight finished runs, each DAG run gets its own."""
    job = cloud.add_job()
    runs = [cloud.add_run(job) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: execute(sensor(job, consume="each"), f"r{n}"), range(8)))
    assert sorted(got) == runs


def test_mapped_sensors_are_consumers_of_their_own(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    runs = [cloud.add_run(job) for _ in range(2)]
    assert [execute(sensor(job, consume="each"), map_index=index) for index in (0, 1, 0)] == [runs[0], runs[1], runs[0]]


def test_only_runs_after_the_data_interval_start_count(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    cloud.add_run(job, finished_at=now() - timedelta(hours=2))
    task = sensor(job, after="data_interval_start")
    start = now() - timedelta(hours=1)
    assert execute(task, start=start) == "deferred"
    run = cloud.add_run(job, finished_at=start + timedelta(seconds=3))
    assert execute(task, start=start) == run


def test_a_run_that_does_not_count_does_not_wake_it(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    run = cloud.add_run(job, finished_at=now() - timedelta(minutes=2))
    with pytest.raises(TaskDeferred) as deferred:
        sensor(job, after="data_interval_start").execute(context(start=now()))
    assert str(run) in deferred.value.trigger.serialize()[1]["cursor"]["seen"]


@pytest.mark.parametrize("hours", [-3, 3])
def test_clocks_may_differ(cloud: DbtCloudServer, hours: int) -> None:
    """dbt Cloud's clock is three hours off, yet its runs fall into Airflow's intervals."""
    cloud.now = lambda: now() + timedelta(hours=hours)
    job = cloud.add_job()
    start = now() - timedelta(minutes=10)
    cloud.add_run(job, finished_at=cloud.now() - timedelta(minutes=20))
    task = sensor(job, after="data_interval_start")
    assert execute(task, start=start) == "deferred"
    run = cloud.add_run(job, finished_at=cloud.now() - timedelta(minutes=5))
    assert execute(task, start=start) == run


def test_a_given_time_counts_as_it_is(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    cloud.add_run(job, finished_at=datetime(2026, 1, 1, tzinfo=UTC))
    run = cloud.add_run(job, finished_at=datetime(2026, 1, 2, 1, tzinfo=UTC))
    assert execute(sensor(job, after="2026-01-02", consume="each")) == run
    assert execute(sensor(job, after=datetime(2026, 1, 2, tzinfo=UTC), consume="each"), "r2") == "deferred"


@pytest.mark.parametrize("after", ["2026-07-02", datetime.fromisoformat("2026-07-02")])
def test_a_time_without_an_offset_is_in_airflows_time_zone(
    cloud: DbtCloudServer, monkeypatch: pytest.MonkeyPatch, after: datetime | str
) -> None:
    """In July, Berlin's day begins at 22:00 UTC of the day before."""
    monkeypatch.setenv("AIRFLOW__CORE__DEFAULT_TIMEZONE", "Europe/Berlin")
    job = cloud.add_job()
    cloud.add_run(job, finished_at=datetime(2026, 7, 1, 21, 59, tzinfo=UTC))
    run = cloud.add_run(job, finished_at=datetime(2026, 7, 1, 22, 1, tzinfo=UTC))
    assert execute(sensor(job, after=after, consume="each")) == run


def test_the_time_zone_may_be_the_systems(cloud: DbtCloudServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DEFAULT_TIMEZONE", "system")
    job = cloud.add_job()
    midnight = datetime.fromisoformat("2026-07-02").astimezone()
    cloud.add_run(job, finished_at=midnight - timedelta(minutes=1))
    run = cloud.add_run(job, finished_at=midnight + timedelta(minutes=1))
    assert execute(sensor(job, after="2026-07-02", consume="each")) == run


@pytest.mark.parametrize("status", [ERROR, CANCELLED])
def test_a_failed_run_fails_one_try_and_the_next_waits(cloud: DbtCloudServer, status: RunStatus) -> None:
    job = cloud.add_job()
    failed = cloud.add_run(job, status=status)
    with pytest.raises(AirflowException, match=f"run {failed} ended with status {status.name.lower()}"):
        execute(sensor(job))
    assert execute(sensor(job)) == "deferred"
    run = cloud.add_run(job)
    assert execute(sensor(job)) == run


def test_a_run_that_was_retried_in_dbt_cloud_counts_in_the_end(cloud: DbtCloudServer) -> None:
    """A retry in dbt Cloud gets a new id, or finishes the old run again."""
    job = cloud.add_job()
    run = cloud.add_run(job, status=ERROR)
    with pytest.raises(AirflowException, match="error"):
        execute(sensor(job))
    cloud.finish(run, OK)
    assert execute(sensor(job)) == run
    assert execute(sensor(job), "r2") == "deferred"


def test_failures_can_be_skipped_or_passed_over(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    run = cloud.add_run(job)
    cloud.add_run(job, status=ERROR)
    assert execute(sensor(job, on_failure="wait")) == run
    with pytest.raises(AirflowSkipException):
        execute(sensor(job, on_failure="skip"), "r2")
    assert execute(sensor(job, on_failure="skip"), "r3") == "deferred"


def test_without_waiting_a_repeat_is_skipped(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    run = cloud.add_run(job)
    assert execute(sensor(job, wait=False)) == run
    with pytest.raises(AirflowSkipException):
        execute(sensor(job, wait=False), "r2")


def test_events_that_airflow_merged_or_dropped_are_made_up_for(cloud: DbtCloudServer) -> None:
    """Four runs and one DAG run: each task announces what is left, even after its worker died before that."""
    job = cloud.add_job()
    runs = [cloud.add_run(job), cloud.add_run(job)]
    cloud.add_run(job, status=ERROR)
    runs.append(cloud.add_run(job))
    events = Events()
    for dag_run in ("r1", "r1", "r2", "r3"):
        execute(sensor(job, consume="each", on_failure="wait", wait=False), dag_run, events=events)
    assert events.added == [(f"dbt_cloud/dbt_cloud/{job}", run) for run in (runs[1], runs[1], runs[2])]
    with pytest.raises(AirflowSkipException):
        execute(sensor(job, consume="each", on_failure="wait", wait=False), "r4", events=events)


def test_failed_runs_start_no_dag_run_to_take_them() -> None:
    with pytest.raises(SpecError) as caught:
        sensor(1, consume="each", wait=False)
    assert caught.value.problems == (
        "on_failure: consume='each' with wait=False needs 'wait': failed runs start no DAG run",
    )


def test_a_job_is_found_by_its_names(cloud: DbtCloudServer) -> None:
    run = cloud.add_run(cloud.add_job("nightly"))
    cloud.add_job("nightly full refresh")
    names = {"project_name": "analytics", "environment_name": "production"}
    task = DbtCloudJobSensor(task_id="done", dbt_cloud_conn_id="dbt_cloud", job_name="nightly", **names)
    assert execute(task) == run
    task = DbtCloudJobSensor(task_id="done", dbt_cloud_conn_id="dbt_cloud", job_name="weekly", **names)
    with pytest.raises(AirflowFailException, match="weekly"):
        execute(task)


def test_a_read_only_token_is_enough(cloud: DbtCloudServer) -> None:
    cloud.read_only = True
    job = cloud.add_job()
    run = cloud.add_run(job)
    assert execute(sensor(job)) == run


def test_what_can_never_succeed_fails_at_once(cloud: DbtCloudServer, connect: Callable[..., None]) -> None:
    with pytest.raises(AirflowFailException, match="jobs/7"):
        execute(sensor(7))
    cloud.rotate_token()
    with pytest.raises(AirflowFailException, match="401"):
        execute(sensor(7))


def test_a_time_that_is_none_is_named(cloud: DbtCloudServer) -> None:
    with pytest.raises(AirflowFailException, match="'last-consumed' is not a time"):
        execute(sensor(cloud.add_job(), after="last-consumed"))


def test_arguments_are_checked_together() -> None:
    with pytest.raises(SpecError) as caught:
        DbtCloudJobSensor(task_id="x", consume="all", on_failure="cry", job_name="only")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3


def test_the_timeout_ends_the_waiting(cloud: DbtCloudServer) -> None:
    job = cloud.add_job()
    with pytest.raises(TaskDeferred) as deferred:
        sensor(job, timeout=100).execute(context())
    assert timedelta(seconds=95) < deferred.value.timeout <= timedelta(seconds=100)
    with pytest.raises(AirflowSensorTimeout, match="in 1 minute 40 seconds"):
        sensor(job, timeout=100).execute_complete(context(), {"runs": [1]}, until=now().isoformat())


def test_an_error_in_the_trigger_is_the_tasks_error(cloud: DbtCloudServer) -> None:
    data = error_to_json(CredentialsError("refused", todo="new token", connection="dbt_cloud"))
    with pytest.raises(AirflowFailException, match=r"refused \(connection 'dbt_cloud'\)\nWhat to do: new token"):
        sensor(cloud.add_job()).execute_complete(context(), {"error": data}, until=now().isoformat())


@pytest.mark.long
@pytest.mark.parametrize("deferrable", [True, False])
def test_in_a_dag_it_waits_for_the_run_to_finish(
    cloud: DbtCloudServer, run_dag: Callable[..., Any], xcom: Callable[..., Any], deferrable: bool
) -> None:
    job = cloud.add_job()
    with DAG(f"waits_{deferrable}", schedule=None) as dag:
        sensor(job, deferrable=deferrable)
    run = cloud.add_run(job, status=RunStatus.RUNNING)

    def finish_after_the_first_look() -> None:
        while not any(path.endswith("/runs/") for _, _, path in cloud.requests):
            time.sleep(0.05)
        cloud.finish(run)

    threading.Thread(target=finish_after_the_first_look).start()
    dag_run = run_dag(dag)
    assert str(dag_run.state) == "success"
    assert xcom(dag_run, "done")["run_id"] == run


def test_state_lies_under_the_state_url(cloud: DbtCloudServer, state_url: Path) -> None:
    job = cloud.add_job()
    cloud.add_run(job)
    execute(sensor(job))
    assert (state_url / "dbt_cloud" / "consumed" / "d" / "done" / f"{cloud.account_id}-{job}").is_dir()
