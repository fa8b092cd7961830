"""The page in Airflow: its modules and their addresses."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

NODE = shutil.which("node")


async def answer(path: str) -> tuple[int, bytes]:
    """Ask the plugin's application for a path below its prefix."""
    from airflow_reverse_etl.plugins.page import Page

    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()  # the client stays
        return waiting.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": [], "query_string": b""}
    await Page()(scope, receive, send)
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
