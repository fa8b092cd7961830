"""Runs, previews and what is known of them afterwards: as a process, on DuckDB, SQLite, HTTP and Postgres."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.stores.lake.store import LakeStore
from tests.cli.conftest import Desk
from tests.stores.warehouses import postgres_place

pytestmark = pytest.mark.airflow

SECRET = "s3cret-t0ken"


class Crm:
    """An API that accepts every row, and remembers its requests."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.seconds = 0.0
        self.asked = threading.Event()
        crm = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                crm.bodies.append(body)
                crm.asked.set()
                time.sleep(crm.seconds)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def crm() -> Iterator[Crm]:
    crm = Crm()
    thread = threading.Thread(target=crm.server.serve_forever, daemon=True)
    thread.start()
    yield crm
    crm.server.shutdown()
    crm.server.server_close()
    thread.join()


def to_crm(desk: Desk, host: str, **options: Any) -> None:
    """Let the sync send to an API, each row in a request of its own."""
    extra = {"headers": {"X-Key": SECRET}}
    connection = {"conn_type": "reverse_etl_http", "host": host, "password": SECRET, "extra": extra}
    desk.environment["AIRFLOW_CONN_CRM"] = json.dumps(connection)
    destination = {"type": "http", "connection": "crm", "method": "POST", "path": "/contacts", **options}
    desk.sync(destination=destination, rate={"batch_size": 1, "concurrency": 1})


def to_table(desk: Desk) -> Path:
    """Let the sync write to a table that refuses an address without @."""
    database = desk.folder / "app.db"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE contacts (id INTEGER PRIMARY KEY, email TEXT CHECK (email LIKE '%@%'), plan TEXT)")
    connection.close()
    desk.environment["AIRFLOW_CONN_APP"] = json.dumps({"conn_type": "sqlite", "host": str(database)})
    desk.sync(destination={"type": "table", "connection": "app", "object": "contacts", "match_on": "id"})
    return database


@pytest.mark.long
def test_a_run_sends_what_changed_and_is_known_afterwards(desk: Desk) -> None:
    done = desk.process.run("run", "contacts.yaml")
    assert done.returncode == 0, done.stderr
    assert "accepted  3" in done.stdout
    assert "contacts: of 3 rows, 3 added, 0 changed" in done.stderr
    assert len(desk.sent()) == 3
    desk.sql("UPDATE customers SET plan = 'pro' WHERE id = 1")
    second = desk.program.json("run", "contacts.yaml")
    assert (second["planned"]["changed"], second["accepted"]) == (1, 1)
    assert len(desk.sent()) == 4
    (state,) = desk.process.json("status")
    assert (state["sync"], state["status"], state["records"], state["report"]["accepted"]) == ("contacts", "ok", 3, 1)
    last, before = desk.program.json("history", "contacts")
    assert [last["accepted"], before["accepted"]] == [1, 3]
    assert last["run_id"] != before["run_id"]
    assert "contacts" in desk.program.run("status", "contacts.yaml").stdout


@pytest.mark.long
def test_it_is_the_state_of_the_operators(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_reverse_etl.operators import ReverseEtlOperator
    from tests.operators.tasks import context

    assert desk.program.run("run", "contacts.yaml").returncode == 0
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    task = ReverseEtlOperator(task_id="t", sync=str(desk.folder / "contacts.yaml"))
    assert task.execute(context())["planned"]["added"] == 0
    desk.sql("INSERT INTO customers VALUES (4, 'di@x.org', 'free')")
    assert desk.program.json("run", "contacts.yaml")["accepted"] == 1
    assert task.execute(context())["planned"]["added"] == 0


@pytest.mark.long
def test_it_waits_for_the_lease_of_another_run(desk: Desk) -> None:
    store = LakeStore(str(desk.folder / "state"))
    store.acquire("contacts", "other", now=datetime.now(UTC), seconds=12, label="DAG d, run r, task t")
    done = desk.program.run("run", "contacts.yaml")
    assert done.returncode == 0
    assert "waits for its lease: another run of this sync is at work: DAG d, run r, task t" in done.stderr


def test_a_plan_is_shown_and_nothing_is_sent_or_kept(desk: Desk) -> None:
    found = desk.program.json("plan", "contacts.yaml", "--sample", "2")
    assert (found["planned"]["added"], found["sample"]["added"]) == (3, ["1", "2"])
    done = desk.program.run("plan", "contacts.yaml")
    assert "**3 added**: keys `1`, `2`, `3`" in done.stdout
    assert "ada@x.org" not in done.stdout
    assert desk.sent() == []
    assert not LakeStore(str(desk.folder / "state")).has_state("contacts")


@pytest.mark.long
def test_the_values_of_a_plan_are_those_that_changed(desk: Desk) -> None:
    desk.sync(track={"fields": True})
    assert desk.program.run("run", "contacts.yaml").returncode == 0
    desk.sql("UPDATE customers SET plan = 'pro' WHERE id = 1")
    refused = desk.program.run("plan", "contacts.yaml", "--diff")
    assert refused.returncode == 2
    assert "--values" in refused.stderr
    (line,) = desk.program.json("plan", "contacts.yaml", "--diff", "--values")["values"]
    assert line == {"key": "1", "change": "changed", "field": "plan", "value": "pro"}
    code, printed = desk.process.on_terminal("plan", "contacts.yaml", "--diff")
    assert code == 0
    assert "pro" in printed


def test_a_guard_stops_a_run_until_it_is_lifted(desk: Desk) -> None:
    desk.sync(guards={"max_changes": 1})
    (rows, changes) = desk.program.json("guards", "contacts.yaml", code=1)
    assert (rows["guard"], rows["met"], changes["guard"], changes["met"]) == ("min_rows", True, "max_changes", False)
    assert desk.program.json("run", "contacts.yaml", code=1)["error"] == "GuardError"
    assert desk.sent() == []
    assert desk.program.json("run", "contacts.yaml", "--lift-guard", "max_changes")["accepted"] == 3
    assert (
        desk.program.json("run", "contacts.yaml", "--lift-guard", "max_chnges", code=2)["error"] == "ConfigurationError"
    )


@pytest.mark.long
def test_rejected_rows_are_found_dismissed_and_released(desk: Desk) -> None:
    to_table(desk)
    desk.sql("UPDATE customers SET email = 'nobody' WHERE id = 2")
    failed = desk.program.json("run", "contacts.yaml", code=1)
    assert failed["error"] == "FailurePolicyError"
    assert (failed["report"]["accepted"], failed["report"]["rejected"]) == (2, 1)
    assert desk.program.json("status")[0]["status"] == "rejected"
    (row,) = desk.program.json("rejected", "list", "contacts.yaml")
    assert (row["row_key"], row["outcome"], row["attempts"]) == ("2", "rejected", 1)
    assert "CHECK" in row["message"]
    assert "nobody" not in json.dumps(row)
    assert desk.program.json("rejected", "dismiss", "contacts", "--row", "2") == {"sync": "contacts", "dismissed": 1}
    assert desk.program.json("run", "contacts.yaml")["skipped"] == 1
    assert desk.program.json("rejected", "release", "contacts.yaml", "--identifier", "2")["released"] == 1
    assert (
        desk.program.json("rejected", "release", "contacts.yaml", "--row", "2", code=2)["error"] == "ConfigurationError"
    )
    assert desk.program.json("run", "contacts.yaml", code=1)["report"]["rejected"] == 1


@pytest.mark.long
def test_requests_are_shown_exactly_as_they_are_sent_without_credentials(desk: Desk, crm: Crm) -> None:
    to_crm(desk, crm.host, headers={"X-Source": "warehouse"})
    refused = desk.program.run("show", "contacts.yaml")
    assert refused.returncode == 2
    (found,) = desk.program.json("show", "contacts.yaml", "--values")
    assert found["line"] == f"POST {crm.host}/contacts"
    assert found["headers"] == {"X-Key": "…", "X-Source": "warehouse", "Content-Type": "application/json"}
    assert "the connection's credentials are added when it is sent" in found["notes"]
    assert SECRET not in json.dumps(found)
    assert crm.bodies == []
    assert desk.program.run("run", "contacts.yaml").returncode == 0
    assert found["body"] in crm.bodies
    assert desk.program.run("show", "contacts.yaml", "--values").stdout == "no rows to send\n"
    code, printed = desk.process.on_terminal("show", "contacts.yaml", "--full-resync", "--rows", "2")
    assert code == 0
    assert "ada@x.org" in printed


def test_statements_are_shown_with_their_parameters(desk: Desk) -> None:
    to_table(desk)
    (found,) = desk.program.json("show", "contacts.yaml", "--values", "--rows", "2")
    assert found["line"].startswith('INSERT INTO contacts ("id", "email", "plan") VALUES (?, ?, ?)')
    assert [json.loads(line) for line in found["body"].splitlines()] == [
        [1, "ada@x.org", "free"],
        [2, "bo@x.org", "pro"],
    ]


@pytest.mark.long
def test_one_row_is_sent_by_a_run_like_any_other(desk: Desk) -> None:
    unknown = desk.program.json("send-one", "contacts.yaml", "--row", "9", code=2)
    assert "does not send a row with this key" in unknown["message"]
    sent = desk.program.json("send-one", "contacts.yaml", "--row", "2")
    assert (sent["accepted"], sent["retryable"]) == (1, 2)
    assert [row["id"] for row in desk.sent()] == [2]
    rest = desk.program.json("run", "contacts.yaml")
    assert rest["accepted"] == 2
    assert sorted(row["id"] for row in desk.sent()) == [1, 2, 3]
    desk.sync(mode="append")
    assert "keeps no record" in desk.program.json("send-one", "contacts.yaml", "--row", "1", code=2)["message"]


@pytest.mark.long
def test_what_cannot_be_undone_is_confirmed(desk: Desk) -> None:
    for command in ("reset", "full-resync"):
        assert "--yes" in desk.program.json(command, "contacts.yaml", code=2)["todo"]
    assert desk.program.json("reset", "contacts.yaml", "--yes")["accepted"] == 0
    assert desk.sent() == []
    assert desk.program.json("run", "contacts.yaml")["planned"]["added"] == 0
    assert desk.program.json("full-resync", "contacts.yaml", "--yes")["accepted"] == 3


@pytest.mark.long
def test_a_destination_that_is_down_exits_with_4(desk: Desk, crm: Crm) -> None:
    to_crm(desk, "http://127.0.0.1:9")
    failed = desk.program.json("run", "contacts.yaml", code=4)
    assert failed["error"] == "IncompleteLoadError"
    assert failed["report"]["retryable"] == 3
    assert desk.program.json("status")[0]["status"] == "unfinished"
    to_crm(desk, crm.host)
    assert desk.program.json("run", "contacts.yaml", code=1)["error"] == "AttentionError"  # it is another place
    again = desk.program.json("run", "contacts.yaml", "--on-destination-change", "resync")
    assert again["accepted"] == 3


@pytest.mark.long
def test_a_signal_lets_a_run_record_what_was_answered(desk: Desk, crm: Crm) -> None:
    to_crm(desk, crm.host)
    crm.seconds = 1.5
    process = desk.process.start("run", "contacts.yaml")
    assert crm.asked.wait(60)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "delivered rows are recorded" in said
    crm.seconds = 0
    assert desk.program.json("run", "contacts.yaml")["accepted"] == 2
    assert len(crm.bodies) == 3


@pytest.mark.long
def test_state_in_postgres(desk: Desk, postgres: str) -> None:
    place = postgres_place(postgres)
    connection = place.connect()
    where = connection.get_dsn_parameters()
    connection.close()
    place.run(
        "CREATE TABLE customers (id int, email text, plan text)",
        "INSERT INTO customers VALUES (1, 'ada@x.org', 'free'), (2, 'bo@x.org', 'pro')",
        "CREATE TABLE contacts (id int PRIMARY KEY, email text CHECK (email LIKE 'ada%'), plan text)",
    )
    fields = {
        "conn_type": "postgres",
        "login": where["user"],
        "schema": where["dbname"],
        "extra": {"host": where["host"]},
    }
    desk.environment["AIRFLOW_CONN_PG"] = json.dumps(fields)
    program = desk.program
    destination = {"type": "table", "connection": "pg", "object": "contacts", "match_on": "id"}
    desk.sync(source="pg", planner="warehouse", destination=destination)
    (shown,) = program.json("show", "contacts.yaml", "--values", "--rows", "2")
    assert "ON CONFLICT" in shown["line"]
    assert program.json("run", "contacts.yaml", code=1)["report"]["accepted"] == 1
    assert place.run("SELECT email FROM contacts") == [("ada@x.org",)]
    for arguments in (["contacts.yaml"], ["contacts", "--connection", "pg"]):
        (row,) = program.json("rejected", "list", *arguments)
        assert row["row_key"] == "2"
        (last,) = program.json("history", *arguments)
        assert (last["accepted"], last["rejected"]) == (1, 1)
    assert program.json("status", "--connection", "pg")[0]["status"] == "rejected"
    assert {field["name"] for field in program.json("fields", "contacts.yaml")["fields"]} == {"id", "email", "plan"}
    assert program.json("connections", "test", "pg")[0]["ok"] is True


@pytest.mark.long
def test_a_table_fits_a_terminal_of_80_columns(desk: Desk) -> None:
    to_table(desk)
    desk.sql("UPDATE customers SET email = 'nobody' WHERE id = 2")
    code, _ = desk.process.on_terminal("run", "contacts.yaml")
    assert code == 1
    code, listed = desk.process.on_terminal("rejected", "list", "contacts.yaml")
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", listed)
    # Airflow 3.1 logs the set-up of Alembic, to standard error.
    lines = [line for line in plain.splitlines() if "setup plugin alembic" not in line]
    assert max(map(len, lines)) <= 80
