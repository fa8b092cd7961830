"""In a whole Airflow (scheduler, triggerer, API server, DAG processor): a sensor, a watcher and a webhook.

One Airflow for all three, and about a minute and a half on two cores; ``pytest -m e2e``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.dbt.cloud import RunStatus
from airflow_reverse_etl.testing.dbt_cloud import DbtCloudServer

pytestmark = [pytest.mark.airflow, pytest.mark.e2e]

SENSOR, WATCHER, WEBHOOK = 101, 102, 103
PATIENCE = 120.0

DAGS = f"""
from datetime import timedelta

from airflow.sdk import DAG
from airflow_reverse_etl.sensors import DbtCloudJobSensor
from airflow_reverse_etl.triggers import dbt_cloud_job

def done(job, **options):
    # Tasks may start before the API server does.
    retries = {{"retries": 9, "retry_delay": timedelta(seconds=3)}}
    return DbtCloudJobSensor(
        task_id="done", dbt_cloud_conn_id="dbt_cloud", job_id=job, poke_interval=2, **retries, **options
    )

with DAG("sensor", schedule="@once"):
    done({SENSOR})
with DAG("watcher", schedule=[dbt_cloud_job("dbt_cloud", {WATCHER}, poll_interval=2)]):
    done({WATCHER}, wait=False)
with DAG("webhook", schedule=[dbt_cloud_job("dbt_cloud", {WEBHOOK}, poll_interval=3600)]):
    done({WEBHOOK}, wait=False)
"""

PLUGIN = "from airflow_reverse_etl.plugins.dbt_cloud_webhook import DbtCloudWebhookPlugin"


class Airflow:
    """``airflow standalone`` in a folder of its own. What happens is read from its database."""

    def __init__(self, home: Path, *, ports: list[int], connection: dict[str, Any]) -> None:
        port, worker_logs, trigger_logs = ports
        self.home = home
        (home / "dags").mkdir()
        (home / "plugins").mkdir()
        (home / "dags" / "dags.py").write_text(DAGS)
        if not entry_points(group="airflow.plugins", name="reverse_etl_dbt_cloud_webhook"):
            (home / "plugins" / "webhook.py").write_text(PLUGIN)  # the package is not installed, only on the path
        own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        environment = {
            **own,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": f"http://localhost:{port}",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{port}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "3",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "AIRFLOW__REVERSE_ETL__DBT_CLOUD_WEBHOOKS": "dbt_cloud",
            "AIRFLOW_CONN_DBT_CLOUD": json.dumps(connection),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # standalone starts "airflow"
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONWARNINGS": "ignore",
        }
        self.log = home / "standalone.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "airflow", "standalone"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=30)) as database:
                return database.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "unable to open" in str(error):  # not there yet
                return []
            raise

    def states(self, dag_id: str) -> list[str]:
        return [
            state for (state,) in self.query("select state from task_instance where dag_id = ? order by rowid", dag_id)
        ]

    def runs_taken(self, dag_id: str) -> list[int]:
        rows = self.query("select value from xcom where dag_id = ? and key = 'return_value' order by timestamp", dag_id)
        return [json.loads(json.loads(text) if text.startswith('"') else text)["run_id"] for (text,) in rows]

    def events(self, job: int) -> list[dict[str, Any]]:
        sql = "select e.extra from asset_event e join asset a on a.id = e.asset_id where a.name = ? order by e.id"
        return [json.loads(extra)["payload"] for (extra,) in self.query(sql, f"dbt_cloud/dbt_cloud/{job}")]

    def until(self, what: str, condition: Callable[[], object]) -> float:
        """Seconds until it holds."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > PATIENCE or self.process.poll() is not None:
                states = self.query("select dag_id, state from task_instance")
                pytest.fail(f"{what}: not within {PATIENCE} seconds; tasks: {states}; see {self.log}")
            time.sleep(0.25)
        return time.monotonic() - started


@pytest.fixture(scope="module")
def server() -> Iterator[DbtCloudServer]:
    with DbtCloudServer() as cloud:
        for job in (SENSOR, WATCHER, WEBHOOK):
            cloud.add_job(job_id=job)
        yield cloud


@pytest.fixture(scope="module")
def airflow(server: DbtCloudServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [listener.getsockname()[1] for listener in free]
    for listener in free:
        listener.close()
    secret = server.subscribe(WEBHOOK, f"http://localhost:{ports[0]}/reverse-etl/dbt-cloud/dbt_cloud")
    connection = {
        "conn_type": "dbt_cloud",
        "host": server.url,
        "login": str(server.account_id),
        "password": server.token,
        "extra": {"webhook_secret": secret},
    }
    running = Airflow(tmp_path_factory.mktemp("airflow"), ports=ports, connection=connection)
    try:
        yield running
    finally:
        running.stop()


def test_sensor_watcher_and_webhook(server: DbtCloudServer, airflow: Airflow) -> None:
    """Each job's finished run is consumed by its DAG, once, with its commit; a failed run starts nothing."""
    state = airflow.home / "reverse_etl" / "dbt_cloud" / "watchers"
    ready = airflow.until("the sensor waits in the triggerer", lambda: airflow.states("sensor") == ["deferred"])
    watching = "select count(*) from asset_state_store" if _has_state_store(airflow) else ""
    ready += airflow.until(
        "the watchers watch", lambda: airflow.query(watching)[0][0] >= 2 if watching else any(state.rglob("*.json"))
    )

    server.add_run(WATCHER, status=RunStatus.ERROR)
    ran = {job: server.add_run(job) for job in (SENSOR, WATCHER, WEBHOOK)}
    delivered = server.deliveries[-1]["status"]
    event = airflow.until("the watcher's event", lambda: airflow.events(WATCHER))
    airflow.until("all consumed", lambda: all(airflow.runs_taken(dag) for dag in ("sensor", "watcher", "webhook")))

    assert delivered == 200
    assert airflow.runs_taken("sensor") == [ran[SENSOR]]
    assert airflow.runs_taken("watcher") == [ran[WATCHER]]
    assert airflow.runs_taken("webhook") == [ran[WEBHOOK]]
    assert [payload["run_id"] for payload in airflow.events(WATCHER)] == [ran[WATCHER]]
    assert airflow.events(WATCHER)[0]["git_sha"] == server.sha(ran[WATCHER])
    assert {payload["run_id"] for payload in airflow.events(WEBHOOK)} == {ran[WEBHOOK]}  # its watcher may repeat it
    print(f"ready after {ready:.0f} s, the watcher's event {event:.1f} s after the run finished")


def _has_state_store(airflow: Airflow) -> bool:
    return bool(airflow.query("select 1 from sqlite_master where name = 'asset_state_store'"))
