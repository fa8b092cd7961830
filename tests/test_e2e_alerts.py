"""Alerts in a whole Airflow whose worker is killed hard: one message, and one recovery. Two minutes."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tests.standalone import Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.e2e, pytest.mark.slow]

DAG = """
import os
import signal
from pathlib import Path

from airflow.sdk import DAG, BaseNotifier

from airflow_reverse_etl.notifications import SyncNotifier
from airflow_reverse_etl.operators import ReverseEtlOperator

HOME = Path("{home}")


class Channel(BaseNotifier):
    template_fields = ("text",)

    def __init__(self):
        super().__init__()
        self.text = "{{{{ severity }}}}: {{{{ sync }}}} is {{{{ health }}}}"

    def notify(self, context):
        with (HOME / "heard.txt").open("a") as file:
            file.write(self.text + "\\n")


def die(context):
    # The process that runs the task, and the one that watches over it and would report its end.
    for pid in (os.getppid(), os.getpid()) if (HOME / "die").exists() else ():
        os.kill(pid, signal.SIGKILL)


alert = SyncNotifier(Channel())
with DAG("people", schedule=None):
    ReverseEtlOperator(
        task_id="sync", retries=0, pre_execute=die, on_success_callback=alert, on_failure_callback=alert,
        sync={{
            "name": "people", "model": {{"table": "customers"}}, "source": "shop", "primary_key": "id",
            "destination": {{"type": "file", "url": str(HOME / "out"), "format": "jsonl"}},
            "mapping": {{"id": "id"}},
        }},
    )
"""


def test_a_worker_that_is_killed_hard_is_reported_once_and_so_is_the_recovery(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as database:
        database.execute("create table customers as select 1 as id")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "alerts.py").write_text(DAG.format(home=tmp_path))
    (tmp_path / "die").touch()
    settings = {
        "AIRFLOW__REVERSE_ETL__STATE_URL": (tmp_path / "state").as_uri(),
        # Airflow looks after five minutes for a task whose worker is gone.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "5",
    }
    heard = tmp_path / "heard.txt"
    connections = {"shop": {"conn_type": "duckdb", "host": str(tmp_path / "shop.duckdb")}}
    with Airflow.running(tmp_path, connections=connections, environment=settings) as airflow:
        airflow.until("the DAG is read", lambda: airflow.query("select 1 from dag"))
        for _ in range(2):
            before = len(airflow.states("people"))
            airflow.command("dags", "trigger", "people")
            airflow.until("the kill", lambda before=before: airflow.states("people")[before:] == ["failed"])  # type: ignore[misc]
            airflow.until("the alert", heard.exists)
        (tmp_path / "die").unlink()
        airflow.command("dags", "trigger", "people")
        airflow.until("the recovery", lambda: len(heard.read_text().splitlines()) > 1)
    assert heard.read_text().splitlines() == ["critical: people is failing", "info: people is ok"]
