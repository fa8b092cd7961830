"""Mode replace in a process that is killed, with real files and a real Postgres."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.destinations.replacing import Replacing, names, read
from tests.stores.warehouses import postgres_place

ROOT = Path(__file__).parents[2]
#: A process that is killed before or after one of the destination's methods.
PROGRAM = textwrap.dedent(
    """
    import asyncio, os, signal, sys
    from airflow_reverse_etl.destinations.file import FileDestination
    from airflow_reverse_etl.destinations.table import TableDestination
    from tests.destinations.replacing import Replacing
    from tests.stores.warehouses import Place

    kind, where, name, moment = sys.argv[1:]
    cls = TableDestination if kind == "table" else FileDestination
    method = getattr(cls, name)
    calls = 0

    async def killed(self, *arguments):
        global calls
        calls += 1
        if moment == "before" and calls == (2 if name == "send" else 1):
            os.kill(os.getpid(), signal.SIGKILL)
        result = await method(self, *arguments)
        if moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(cls, name, killed)
    place = None
    destination = {"type": "file", "url": where, "format": "csv"}
    if kind == "table":
        import psycopg2

        place = Place("postgres", lambda: psycopg2.connect(where), None)
        destination = {"type": "table", "connection": "db", "object": "people"}
    asyncio.run(Replacing(destination, place=place).run([(1, "a"), (2, "b"), (3, "c")]))
    """
)
MOMENTS = [("begin", "before"), ("send", "before"), ("finish", "before"), ("finish", "after")]
NEW = [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}, {"id": 3, "v": "c"}]


def kill(kind: str, where: str, name: str, moment: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, where, name, moment],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


async def check(replacing: Replacing, content: Callable[[], list[dict[str, Any]]], *, is_new: bool) -> None:
    """The old content is there until the end, and another run brings the new one."""
    assert content() == (NEW if is_new else [{"id": 7, "v": "old"}])
    await replacing.run([(1, "a"), (2, "b"), (3, "c")])
    assert content() == NEW


@pytest.mark.slow
@pytest.mark.parametrize(("name", "moment"), MOMENTS)
async def test_a_file(tmp_path: Path, name: str, moment: str) -> None:
    file = tmp_path / "people.csv"
    file.write_text('"id","v"\n7,"old"\n')
    kill("file", str(tmp_path), name, moment)
    replacing = Replacing({"type": "file", "url": str(tmp_path), "format": "csv"})
    await check(replacing, lambda: read(file), is_new=moment == "after")
    assert names(tmp_path) == [file.name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "moment"), MOMENTS)
async def test_a_table(postgres: str, name: str, moment: str) -> None:
    place = postgres_place(postgres)
    place.run("CREATE TABLE people (id int PRIMARY KEY, v text)", "INSERT INTO people VALUES (7, 'old')")
    connection = place.connect()
    kill("table", connection.dsn, name, moment)
    connection.close()
    replacing = Replacing({"type": "table", "connection": "db", "object": "people"}, place=place)

    def content() -> list[dict[str, Any]]:
        return [{"id": id_, "v": v} for id_, v in place.run("SELECT id, v FROM people ORDER BY id")]

    await check(replacing, content, is_new=moment == "after")
    assert place.run("SELECT to_regclass('people__replacement')") == [(None,)]
