"""Jobs in a whole Airflow: scheduler, worker and triggerer, one API of each kind. Four minutes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import duckdb
import pytest

from airflow_reverse_etl.testing import JobDials
from tests.bulk_api import BulkServer, Kind, install
from tests.standalone import Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.e2e, pytest.mark.slow]

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_reverse_etl.operators import ReverseEtlOperator

for kind in ("on_close", "at_once"):
    for case in ("deferred", "killed", "cleared", "restarted"):
        with DAG(f"{case}_{kind}", schedule=None):
            ReverseEtlOperator(
                task_id="sync", deferrable=True, retries=3, retry_delay=timedelta(seconds=1),
                sync={
                    "name": f"{case}_{kind}", "model": {"table": "customers"}, "source": "warehouse",
                    "primary_key": "id", "mode": "insert", "mapping": {"id": "id", "name": "name"},
                    "destination": {"type": "bulk", "connection": f"bulk_{kind}", "object": kind, "match_on": "id"},
                    "failure": {"on_unknown": "resend", "max_rejected": "100%"},
                },
            )
"""
KEYS = [f"k{number}" for number in range(10)]
KINDS: tuple[Kind, ...] = get_args(Kind)
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def apis() -> Iterator[dict[str, BulkServer]]:
    with ExitStack() as stack:
        yield {kind: stack.enter_context(BulkServer(kind).in_thread()) for kind in KINDS}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, apis: dict[str, BulkServer]) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "jobs.py").write_text(DAG)
    with duckdb.connect(str(home / "shop.duckdb")) as database:
        database.execute("create table customers (id text, name text)")
        database.executemany("insert into customers values (?, 'Ada')", [[key] for key in KEYS])
    connections: dict[str, dict[str, Any]] = {
        "warehouse": {"conn_type": "duckdb", "host": str(home / "shop.duckdb")},
        **{
            f"bulk_{kind}": {
                "conn_type": "generic",
                "host": "127.0.0.1",
                "port": api.port,
                "extra": {"poll_seconds": 61},  # longer than a task waits on its worker
            }
            for kind, api in apis.items()
        },
    }
    path = f"{Path(__file__).parents[1]}{os.pathsep}{install(home / 'site')}"
    settings = {"PYTHONPATH": path, "AIRFLOW__REVERSE_ETL__STATE_URL": (home / "state").as_uri()}
    with Airflow.running(home, connections=connections, environment=settings) as running:
        yield running


@pytest.fixture
def start(airflow: Airflow, apis: dict[str, BulkServer]) -> Callable[..., BulkServer]:
    """Start a case with an empty API, whose jobs are at work until ``polls`` is 0."""

    def begin(case: str, kind: Kind, **dials: Any) -> BulkServer:
        api = apis[kind]
        api.dials = JobDials(**{"polls": 10**6, **dials})
        api.jobs.clear()
        api.rows.clear()
        api.table.writes.clear()
        api.polled.clear()
        api.killed.clear()
        dag = f"{case}_{kind}"
        airflow.until("the DAG is there", lambda: airflow.query("select 1 from dag where dag_id = ?", dag))
        airflow.command("dags", "trigger", dag)
        return api

    return begin


def has_arrived(airflow: Airflow, api: BulkServer, dag: str) -> None:
    """Make sure that the rows are there, once, and that the report says so."""
    airflow.until("the task", lambda: airflow.states(dag) == ["success"])
    assert set(api.written().values()) == {1}
    assert sorted(api.rows) == sorted(KEYS)
    (report,) = airflow.xcoms(dag, "sync")
    assert (report["accepted"], report["unknown"], report["retryable"]) == (len(KEYS), 0, 0)


def is_deferred(airflow: Airflow, dag: str) -> bool:
    """Return whether the task waits, which leaves its slot to others: no job of the executor is at work on it."""
    return airflow.states(dag) == ["deferred"] and bool(airflow.query("select 1 from trigger"))


@of_each_kind
def test_the_slot_is_free_while_the_job_is_at_work_and_the_trigger_wakes_the_task(
    airflow: Airflow, start: Any, kind: Kind
) -> None:
    dag = f"deferred_{kind}"
    api = start("deferred", kind)
    airflow.until("deferral", lambda: is_deferred(airflow, dag))
    slots = airflow.query(
        "select 1 from task_instance where dag_id = ? and state in ('running', 'queued', 'scheduled')", dag
    )
    assert not slots
    worker = set(api.polled)
    airflow.until("the triggerer asks", lambda: set(api.polled) - worker)
    api.dials.polls = 0
    has_arrived(airflow, api, dag)


@of_each_kind
def test_a_task_that_is_killed_while_it_submits_is_retried(airflow: Airflow, start: Any, kind: Kind) -> None:
    """Its job is open, or at work: the next try finds it by its reference."""
    dag = f"killed_{kind}"
    api = start("killed", kind, die="saved", polls=0)
    airflow.until("the kill", lambda: api.killed == ["saved"])
    has_arrived(airflow, api, dag)


@of_each_kind
def test_a_task_that_is_cleared_while_it_is_deferred_finds_its_job(airflow: Airflow, start: Any, kind: Kind) -> None:
    dag = f"cleared_{kind}"
    api = start("cleared", kind)
    airflow.until("deferral", lambda: is_deferred(airflow, dag))
    airflow.command("tasks", "clear", "--yes", dag)
    airflow.until("it ran again", lambda: airflow.states(dag) != ["deferred"])
    airflow.until("deferral again", lambda: is_deferred(airflow, dag))
    assert len(api.jobs) == 1, "nothing was sent again"
    api.dials.polls = 0
    has_arrived(airflow, api, dag)


@of_each_kind
def test_a_restart_of_scheduler_and_triggerer_loses_nothing(airflow: Airflow, start: Any, kind: Kind) -> None:
    dag = f"restarted_{kind}"
    api = start("restarted", kind)
    airflow.until("deferral", lambda: is_deferred(airflow, dag))
    airflow.restart()
    api.dials.polls = 0
    has_arrived(airflow, api, dag)
