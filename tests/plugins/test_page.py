"""The page in Airflow: its modules, their addresses, and what a browser shows of a running Airflow."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.standalone import Airflow, free_port

pytestmark = pytest.mark.airflow

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
NODE = shutil.which("node")


async def answer(path: str) -> tuple[int, bytes]:
    """Ask the plugin's application for a path below its prefix."""
    from airflow_reverse_etl.plugins.page import StaticModules

    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()  # the client stays
        return waiting.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": [], "query_string": b""}
    await StaticModules()(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body


async def test_the_modules_are_served_under_the_version_and_nothing_else_is() -> None:
    from airflow_reverse_etl import __version__

    status, body = await answer(f"/static/{__version__}/page.js")
    assert status == 200
    assert b'globalThis["Reverse ETL"]' in body
    for path in ("/static/0.0.0/page.js", f"/static/{__version__}/../page.py", "/", "/page.js"):
        assert (await answer(path))[0] == 404


def test_the_address_of_the_page_has_the_prefix_of_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_reverse_etl import __version__
    from airflow_reverse_etl.plugins import page

    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.com/air/")
    assert page._bundle_url() == f"/air/reverse-etl/page/static/{__version__}/page.js"
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://localhost:8080")
    assert page._bundle_url() == f"/reverse-etl/page/static/{__version__}/page.js"


def test_the_pure_functions_of_the_page() -> None:
    if NODE is None:
        pytest.skip("needs node")
    tests = Path(__file__).with_name("page.test.mjs")
    done = subprocess.run([NODE, "--test", str(tests)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


DAGS = """
from airflow.sdk import DAG

from airflow_reverse_etl import reverse_etl
from airflow_reverse_etl.operators import ReverseEtlOperator


def sync(name, table="customers", **more):
    return {{
        "name": name,
        "model": {{"table": table}},
        "source": "warehouse",
        "primary_key": "id",
        "mapping": {{"id": "id", "email": "email", "score": "score"}},
        "destination": {{"type": "file", "url": "{folder}/out", "format": "jsonl", "object": name}},
        **more,
    }}


with DAG("people", schedule=None):
    reverse_etl(sync("people_to_files", failure={{"max_rejected": "100%"}}))
with DAG("broken", schedule=None):
    ReverseEtlOperator(task_id="broken", sync=sync("broken_sync", table="missing"))
with DAG("never", schedule=None):
    ReverseEtlOperator(task_id="never", sync=sync("never_ran"))
"""


def shown(url: str) -> str:
    """Return what a browser makes of an address, as HTML."""
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    return subprocess.run([BROWSER, *options, url], capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "/air"])
def test_a_browser_shows_the_syncs_of_a_running_airflow(tmp_path: Path, prefix: str) -> None:
    """Health, counts and reasons, of a sync that works, one that fails and one that has never run."""
    if BROWSER is None:
        pytest.skip("needs Chromium")
    warehouse = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "CREATE TABLE customers AS SELECT i AS id, 'p' || i || '@x.org' AS email,"
            " CASE WHEN i = 7 THEN 'nan'::DOUBLE ELSE i END AS score FROM range(1, 10) t(i)"
        )
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "syncs.py").write_text(DAGS.format(folder=tmp_path))
    port = free_port()
    base = f"http://localhost:{port}{prefix}"
    settings = {
        "AIRFLOW__API__BASE_URL": base,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    }
    connections = {"warehouse": {"conn_type": "duckdb", "host": str(warehouse)}}
    with Airflow.running(tmp_path, connections=connections, environment=settings, port=port) as airflow:
        airflow.until("the DAGs are read", lambda: len(airflow.query("select 1 from dag")) == 3)
        for dag in ("people", "broken"):
            airflow.command("dags", "trigger", dag)
        airflow.until("they ran", _all_in(airflow, people={"success"}, broken={"failed"}))

        page = shown(f"{base}/plugin/reverse-etl")
        for text in ("3 of 3 syncs", "people_to_files", "attention", "failing", "never run"):
            assert text in page
        one = shown(f"{base}/plugin/reverse-etl/syncs/people_to_files")
        for text in ("8 rows accepted, 1 rejected, 0 invalid.", "NaN or Infinity has no JSON form", "Run now", "<rect"):
            assert text in one
        assert "failed, without a report." in shown(f"{base}/plugin/reverse-etl/syncs/broken_sync")
        assert "No DAG has a sync named nothing" in shown(f"{base}/plugin/reverse-etl/syncs/nothing")


def _all_in(airflow: Airflow, **expected: set[str]) -> Callable[[], bool]:
    def done() -> bool:
        found = {dag: set(airflow.states(dag)) for dag in expected}
        return found == expected

    return done
