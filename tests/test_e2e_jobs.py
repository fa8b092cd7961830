"""Jobs in a whole Airflow: scheduler, worker and triggerer, one API of each kind. Five minutes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import duckdb
import pytest

from airflow_reverse_etl.testing import JobDials
from tests.bulk_api import BulkServer, Kind, install
from tests.standalone import Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.e2e, pytest.mark.slow]

#: A busy machine may fail to start a task a few times, which says nothing about jobs.
DAG = """
from datetime import datetime, timedelta
from airflow.sdk import DAG
from airflow_reverse_etl.operators import ReverseEtlOperator

for kind in ("on_close", "at_once"):
    for case in ("deferred", "killed", "cleared", "restarted"):
        with DAG(f"{case}_{kind}", schedule="@once", start_date=datetime(2026, 1, 1)):
            ReverseEtlOperator(
                task_id="sync", deferrable=True, retries=20, retry_delay=timedelta(seconds=1),
                sync={
                    "name": f"{case}_{kind}", "model": {"table": "customers"}, "source": f"shop_{case}_{kind}",
                    "primary_key": "id", "mode": "insert", "mapping": {"id": "id", "name": "name"},
                    "destination": {"type": "bulk", "connection": f"{case}_{kind}", "object": kind, "match_on": "id"},
                    "failure": {"on_unknown": "resend", "max_rejected": "100%"},
                },
            )
"""
KEYS = [f"k{number}" for number in range(10)]
CASES = ("deferred", "killed", "cleared", "restarted")
KINDS: tuple[Kind, ...] = get_args(Kind)
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def apis() -> Iterator[dict[str, BulkServer]]:
    """An API for each case, whose jobs are at work until ``polls`` is 0. All cases run at once."""
    with ExitStack() as stack:
        found = {}
        for kind in KINDS:
            for case in CASES:
                killed = case == "killed"
                dials = JobDials(die="saved" if killed else "", polls=0 if killed else 10**6)
                found[f"{case}_{kind}"] = stack.enter_context(BulkServer(kind, dials=dials).in_thread())
        yield found


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, apis: dict[str, BulkServer]) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "jobs.py").write_text(DAG)
    connections: dict[str, dict[str, Any]] = {}
    for name, api in apis.items():
        # Tasks run at once, and a DuckDB file has one process at a time.
        shop = home / f"{name}.duckdb"
        with duckdb.connect(str(shop)) as database:
            database.execute("create table customers (id text, name text)")
            database.executemany("insert into customers values (?, 'Ada')", [[key] for key in KEYS])
        connections[f"shop_{name}"] = {"conn_type": "duckdb", "host": str(shop)}
        extra = {"poll_seconds": 61}  # longer than a task waits on its worker
        connections[name] = {"conn_type": "generic", "host": "127.0.0.1", "port": api.port, "extra": extra}
    path = f"{Path(__file__).parents[1]}{os.pathsep}{install(home / 'site')}"
    settings = {"PYTHONPATH": path, "AIRFLOW__REVERSE_ETL__STATE_URL": (home / "state").as_uri()}
    with Airflow.running(home, connections=connections, environment=settings) as running:
        yield running


def has_arrived(airflow: Airflow, api: BulkServer, dag: str) -> None:
    """Make sure that the rows are there, once, and that the report says so."""
    airflow.until("the task", lambda: airflow.states(dag) == ["success"])
    assert api.written() == Counter(KEYS)
    (report,) = airflow.xcoms(dag, "sync")
    assert (report["accepted"], report["unknown"], report["retryable"]) == (len(KEYS), 0, 0)


def waits(airflow: Airflow, dag: str) -> bool:
    """Return whether the task is deferred: it is neither queued nor running, so it has no slot."""
    return airflow.states(dag) == ["deferred"]


@of_each_kind
def test_a_task_that_is_killed_while_it_submits_is_retried(
    airflow: Airflow, apis: dict[str, BulkServer], kind: Kind
) -> None:
    """Its job is open, or at work: the next try finds it by its reference."""
    dag = f"killed_{kind}"
    airflow.until("the kill", lambda: apis[dag].killed == ["saved"])
    has_arrived(airflow, apis[dag], dag)


@of_each_kind
def test_a_task_that_is_cleared_while_it_is_deferred_finds_its_job(
    airflow: Airflow, apis: dict[str, BulkServer], kind: Kind
) -> None:
    dag = f"cleared_{kind}"
    airflow.until("deferral", lambda: waits(airflow, dag))
    airflow.command("tasks", "clear", "--yes", dag)
    apis[dag].dials.polls = 0
    has_arrived(airflow, apis[dag], dag)
    assert len(apis[dag].jobs) == 1, "nothing was sent again"


@of_each_kind
def test_the_slot_is_free_while_the_job_is_at_work_and_the_trigger_wakes_the_task(
    airflow: Airflow, apis: dict[str, BulkServer], kind: Kind
) -> None:
    dag = f"deferred_{kind}"
    airflow.until("deferral", lambda: waits(airflow, dag))
    airflow.until("the triggerer asks", lambda: apis[dag].polled)  # the task defers before it asks
    assert waits(airflow, dag)
    apis[dag].dials.polls = 0
    has_arrived(airflow, apis[dag], dag)


def test_a_restart_of_scheduler_and_triggerer_loses_nothing(airflow: Airflow, apis: dict[str, BulkServer]) -> None:
    dags = [f"restarted_{kind}" for kind in KINDS]
    for dag in dags:
        airflow.until("deferral", lambda dag=dag: waits(airflow, dag))  # type: ignore[misc]
    airflow.restart()
    for dag in dags:
        apis[dag].dials.polls = 0
    for dag in dags:
        has_arrived(airflow, apis[dag], dag)
