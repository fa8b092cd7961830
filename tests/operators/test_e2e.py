"""In a whole Airflow: a person approves a plan or rejects it; a load is killed, and another try goes on.

One Airflow for both, and about two minutes on two cores; ``make test-all``.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

import duckdb
import pytest

from dags_examples.demo.shop import Crm
from tests.standalone import Airflow, free_port

pytestmark = [pytest.mark.airflow, pytest.mark.e2e, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "dags_examples" / "audience_to_crm.py"
#: Rows of each of the two shares of the DAG whose load is killed.
SHARE = 20
KILLED = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_reverse_etl import reverse_etl

SYNC = {
    "name": "slow",
    "model": {"table": "marts.slow"},
    "source": "other_warehouse",
    "primary_key": "id",
    "destination": {
        "type": "http", "connection": "slow", "object": "rows", "match_on": "id", "path": "/rows", "rows": "single",
    },
    "mode": "insert",
    "mapping": {"id": "id"},
    "rate": {"batch_size": 1, "concurrency": 1},
    "failure": {"on_unknown": "fail"},
}

with DAG("killed", schedule=None):
    reverse_etl(SYNC, partitions=2)
"""


class Slow(ThreadingHTTPServer):
    """Takes a row per request, and needs 0.7 seconds for those of the second share."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _SlowHandler)
        self.begun: list[int] = []
        self.answered: list[int] = []

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Slow]:
        with cls() as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server
            server.shutdown()


class _SlowHandler(BaseHTTPRequestHandler):
    server: Slow

    def do_POST(self) -> None:
        row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.begun.append(row["id"])
        if row["id"] > SHARE:
            time.sleep(0.7)
        self.server.answered.append(row["id"])
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None: ...


class Person:
    """Somebody who uses Airflow's API, as its pages do."""

    def __init__(self, airflow: Airflow, url: str) -> None:
        self.airflow, self._url, self._token = airflow, url, ""

    def answers(self) -> bool:
        try:
            return bool(self._open("GET", f"{self._url}/api/v2/version"))
        except OSError:
            return False

    def run(self, dag_id: str) -> str:
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", logical_date=None)["dag_run_id"])

    def answer(self, dag_id: str, run: str, option: str) -> None:
        """When Airflow is ready for it: the scheduler fails a task that goes on before it knows that it waits."""
        known = f"task_id='reverse_etl.approve', run_id='{run}'"
        log = self.airflow.home / "standalone.log"
        self.airflow.until("the scheduler knows", lambda: known in log.read_text(errors="replace"))
        self.call("PATCH", self.of_approval(dag_id, run), chosen_options=[option], params_input={})

    def of_approval(self, dag_id: str, run: str) -> str:
        return f"/dags/{dag_id}/dagRuns/{quote(run)}/taskInstances/reverse_etl.approve/-1/hitlDetails"

    def call(self, method: str, path: str, **body: Any) -> Any:
        if not self._token:
            self._token = self._open("GET", f"{self._url}/auth/token")["access_token"]
        return self._open(method, f"{self._url}/api/v2{path}", body)

    def _open(self, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if method != "GET" else None
        request = Request(url, method=method, headers=headers, data=data)
        with build_opener(ProxyHandler({})).open(request) as reply:
            return json.load(reply)

    def state(self, dag_id: str, run: str) -> str:
        [(state,)] = self.airflow.query("select state from dag_run where dag_id = ? and run_id = ?", dag_id, run)
        return str(state)

    def tasks(self, dag_id: str, run: str) -> dict[str, str]:
        """Name → state; a mapped one as ``load[0]``."""
        rows = self.airflow.query(
            "select task_id, map_index, state from task_instance where dag_id = ? and run_id = ?", dag_id, run
        )
        names = ((task.removeprefix("reverse_etl."), index, state) for task, index, state in rows)
        return {task if index < 0 else f"{task}[{index}]": state for task, index, state in names}

    def until(self, dag_id: str, run: str, **expected: str) -> float:
        def there() -> bool:
            tasks = self.tasks(dag_id, run)
            return all(tasks.get(name) in state.split("|") for name, state in expected.items())

        return self.airflow.until(f"{dag_id}: {expected}", there)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    shutil.copy(EXAMPLE, home / "dags")
    (home / "dags" / "killed.py").write_text(KILLED)
    with duckdb.connect(str(home / "warehouse.duckdb")) as db:
        db.execute(
            "create schema marts; create table marts.audience as select i as customer_id,"
            " 'a' || i || '@example.com' as email, 'vip' as segment from range(1, 1201) numbers(i)"
        )
    with duckdb.connect(str(home / "other.duckdb")) as db:  # a file has one writer at a time
        db.execute(
            "create schema marts; create table marts.slow as"
            f" select i::int as id from range(1, {2 * SHARE + 1}) numbers(i)"
        )
    return home


@pytest.fixture(scope="module")
def crm(home: Path) -> Iterator[Crm]:
    with Crm.running(home / "crm.sqlite", home / "crm.log") as crm:
        yield crm


@pytest.fixture(scope="module")
def slow() -> Iterator[Slow]:
    with Slow.running() as server:
        yield server


@pytest.fixture(scope="module")
def person(home: Path, crm: Crm, slow: Slow) -> Iterator[Person]:
    port = free_port()
    connections = {
        "warehouse": {"conn_type": "duckdb", "host": str(home / "warehouse.duckdb")},
        "other_warehouse": {"conn_type": "duckdb", "host": str(home / "other.duckdb")},
        "crm": {"conn_type": "reverse_etl_http", "host": crm.url, "password": crm.token},
        "slow": {"conn_type": "reverse_etl_http", "host": f"http://127.0.0.1:{slow.server_port}"},
    }
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }
    with Airflow.running(home, connections=connections, environment=settings, port=port) as airflow:
        person = Person(airflow, f"http://localhost:{port}")
        airflow.until("the API answers", person.answers)
        airflow.until("DAGs are there", lambda: airflow.query("select count(*) from dag")[:1] == [(2,)])
        person.call("POST", "/pools", name="crm", slots=8)
        yield person


def test_a_person_rejects_then_approves_then_there_is_nothing_to_ask(person: Person, crm: Crm, home: Path) -> None:
    """Of the example, whose first run its schedule starts."""
    dag, waits = "audience_to_crm", "awaiting_input|deferred"  # the latter: before Airflow 3.3
    airflow = person.airflow
    airflow.until("a run", lambda: airflow.query("select run_id from dag_run where dag_id = ?", dag))
    [(first,)] = airflow.query("select run_id from dag_run where dag_id = ?", dag)
    person.until(dag, first, approve=waits)
    seen = person.call("GET", person.of_approval(dag, first))
    assert seen["subject"] == "Send 1,200 changes of audience_to_crm to crm?"
    for words in ("**1,200 added**: keys `1`, `2`", "min_rows: the model has 1,200 rows, at least 100", "16 requests"):
        assert words in seen["body"]
    person.answer(dag, first, "Reject")
    airflow.until("the end", lambda: person.state(dag, first) == "success")
    assert person.tasks(dag, first) == {
        "plan": "success",
        "approve": "success",
        "remove": "skipped",
        "load": "skipped",
        "commit": "skipped",
    }
    assert crm.counts()["requests"] == 0
    assert not list((home / "reverse_etl").rglob("changes")), "a rejected plan's rows are not kept"

    second = person.run(dag)
    person.until(dag, second, approve=waits)
    person.answer(dag, second, "Approve")
    airflow.until("the end", lambda: person.state(dag, second) == "success")
    assert set(person.tasks(dag, second).values()) == {"success"}
    assert len(crm.contacts()) == 1200
    assert crm.counts() == {"requests": 16, "throttled": 0, "rows": 1200, "rejected": 0}
    _check_xcoms(airflow, dag, second)

    third = person.run(dag)
    airflow.until("the end", lambda: person.state(dag, third) == "success")
    assert person.tasks(dag, third) == {
        "plan": "success",
        "approve": "skipped",
        "remove": "success",
        "load": "skipped",
        "commit": "success",
    }


def _check_xcoms(airflow: Airflow, dag: str, run: str) -> None:
    """From task to task go a run's id and a partition's number; for people, counts and some keys."""
    rows = airflow.query("select task_id, key, value from xcom where dag_id = ? and run_id = ?", dag, run)
    # Airflow keeps the link to the page of the sync as an XCom.
    rows = [row for row in rows if row[1] != "_link_SyncLink"]
    found = {(task.removeprefix("reverse_etl."), key): value for task, key, value in rows}
    assert set(found) == {
        ("plan", "return_value"), ("plan", "plan"), ("approve", "return_value"), ("remove", "return_value"),
        ("load", "return_value"), ("commit", "return_value"),
    }  # fmt: skip
    shares = json.loads(found["plan", "return_value"])
    shares = json.loads(shares) if isinstance(shares, str) else shares
    assert [sorted(share) for share in shares] == [["partition", "partitions", "run_id"]] * 8
    assert "example.com" not in str(found)
    assert "vip" not in str(found)


def test_a_load_that_is_killed_settles_what_is_in_flight_and_its_next_try_goes_on(person: Person, slow: Slow) -> None:
    """Marked as failed while it runs, then cleared. Nothing may be sent twice, and nothing is."""
    airflow, dag = person.airflow, "killed"
    run = person.run(dag)
    airflow.until("the second share is on its way", lambda: max(slow.answered, default=0) > SHARE + 1)
    person.until(dag, run, **{"load[0]": "success", "load[1]": "running"})
    path = f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances/reverse_etl.load/1"
    person.call("PATCH", path, new_state="failed")
    person.until(dag, run, commit="upstream_failed")
    [log] = airflow.home.glob("logs/dag_id=killed/*/task_id=reverse_etl.load/map_index=1/attempt=1.log")
    airflow.until("the run has ended", lambda: person.state(dag, run) == "failed")
    airflow.until("it leaves", lambda: "The task was stopped." in log.read_text(errors="replace"))
    before = len(slow.begun)
    assert before < 2 * SHARE, "it was stopped on its way"
    assert sorted(slow.begun) == sorted(slow.answered)

    clear = {"dry_run": False, "dag_run_id": run, "include_downstream": True, "only_failed": True}
    person.call("POST", f"/dags/{dag}/clearTaskInstances", task_ids=[["reverse_etl.load", 1]], **clear)
    airflow.until("the end", lambda: person.state(dag, run) in ("success", "failed"))
    assert person.tasks(dag, run) == dict.fromkeys(("plan", "load[0]", "load[1]", "commit"), "success")
    assert sorted(slow.begun) == list(range(1, 2 * SHARE + 1)), "each row once"
    tries = "select map_index, try_number from task_instance where dag_id = ? and task_id like '%load' order by 1"
    assert airflow.query(tries, dag) == [(0, 1), (1, 2)]

    everything = {"dry_run": False, "dag_run_id": run, "only_failed": False}
    person.call("POST", f"/dags/{dag}/clearTaskInstances", **everything)
    airflow.until("it begins again", lambda: person.state(dag, run) != "success")
    airflow.until("the end", lambda: person.state(dag, run) in ("success", "failed"))
    assert person.tasks(dag, run) == dict.fromkeys(("plan", "load[0]", "load[1]", "commit"), "success")
    assert len(slow.begun) == 2 * SHARE, "cleared after success, there is nothing to send"
