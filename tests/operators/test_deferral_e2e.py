"""In a whole Airflow: two tasks send the same sync at once, and both wait in the triggerer.

About three minutes on two cores; ``make test-all``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import duckdb
import pytest

from tests.standalone import Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.e2e, pytest.mark.slow]

DAG = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_reverse_etl.operators import ReverseEtlOperator

SYNC = {
    "name": "contacts",
    "model": {"table": "customers"},
    "primary_key": "id",
    "destination": {
        "type": "http", "connection": "crm", "object": "rows", "match_on": "id", "path": "/rows", "rows": "single",
    },
    "mode": "insert",
    "mapping": {"id": "id"},
    "failure": {"on_unknown": "fail"},
}

with DAG("waiting", schedule="@once", default_args={"deferrable": True, "execution_timeout": timedelta(minutes=30)}):
    for name in ("one", "two"):
        ReverseEtlOperator(task_id=name, sync={**SYNC, "source": name})
"""


class Busy(ThreadingHTTPServer):
    """Asks the first request to wait for 70 seconds, as soon as ``both`` is set; takes a row with any other."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _BusyHandler)
        self.both = threading.Event()
        self.asked_at = 0.0
        self.rows: list[int] = []

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Busy]:
        with cls() as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server
            server.shutdown()


class _BusyHandler(BaseHTTPRequestHandler):
    server: Busy

    def do_POST(self) -> None:
        row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.server.asked_at:
            self.server.both.wait(25)  # the client's own timeout is 30 seconds
            self.server.asked_at = time.monotonic()
            self.send_response(429)
            self.send_header("Retry-After", "70")
        else:
            self.server.rows.append(row["id"])
            self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None: ...


def test_two_tasks_of_one_sync_wait_in_the_triggerer_and_send_each_row_once(tmp_path: Path) -> None:
    """One waits for the destination, the other for the one."""
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "waiting.py").write_text(DAG)
    for name in ("one", "two"):  # a file has one writer at a time
        with duckdb.connect(str(tmp_path / f"{name}.duckdb")) as db:
            db.execute("create table customers as select i::int as id from range(1, 4) numbers(i)")
    with Busy.running() as crm:
        connections = {
            "one": {"conn_type": "duckdb", "host": str(tmp_path / "one.duckdb")},
            "two": {"conn_type": "duckdb", "host": str(tmp_path / "two.duckdb")},
            "crm": {"conn_type": "reverse_etl_http", "host": f"http://127.0.0.1:{crm.server_port}"},
        }
        with Airflow.running(tmp_path, connections=connections) as airflow:
            airflow.until("one waits for the other", lambda: "deferred" in airflow.states("waiting"))
            crm.both.set()
            airflow.until("both wait", lambda: airflow.states("waiting") == ["deferred"] * 2)
            airflow.until("both end", lambda: airflow.states("waiting") == ["success"] * 2)
            reports = [airflow.xcoms("waiting", name)[0] for name in ("one", "two")]
    assert sorted(crm.rows) == [1, 2, 3]
    assert sorted(report["accepted"] for report in reports) == [0, 3]
    assert [report["retryable"] for report in reports] == [0, 0]
