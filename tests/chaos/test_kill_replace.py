"""Mode replace in real processes that are killed: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING, SystemClock
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import RecordingObserver
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse
from tests.chaos.life import new_database
from tests.chaos.loads import FORKS

ROWS = 600
#: Seconds for which the next run waits for one that was killed.
LEASE = 2.0
KILLS = int(os.environ.get("REVERSE_ETL_KILLS", "24")) // 6


def run_in_process(folder: Path, database: dict[str, Any], run_id: str) -> None:
    """Run the sync once, as a task does."""
    sync = Sync.load(
        {
            "name": "people",
            "model": "people",
            "source": "warehouse",
            "primary_key": "id",
            "mode": "replace",
            "mapping": {"id": "id", "version": "version"},
            "rate": {"batch_size": 10},
            "destination": {"type": "table", "connection": "db", "object": "people"},
        }
    )
    warehouse = DuckDBWarehouse(duckdb.connect(str(folder / "model.duckdb"), read_only=True))
    destination = create(
        sync, connection=ConnectionInfo("db", "postgres"), connect=lambda: psycopg2.connect(**database)
    )
    store = LakeStore(str(folder / "state"), memory_limit="500MB", threads=1)
    timing = replace(DEFAULT_TIMING, lease=LEASE)
    context = RunContext(run_id, store, observer=RecordingObserver(), clock=SystemClock(), timing=timing)
    asyncio.run(run_sync(sync, SourceModel("SELECT * FROM people", ("id",), warehouse), destination, context))


def build(folder: Path, version: int) -> None:
    with duckdb.connect(str(folder / "model.duckdb")) as connection:
        connection.execute(
            f"CREATE OR REPLACE TABLE people AS SELECT range AS id, {version} AS version FROM range({ROWS})"
        )


def seen(database: dict[str, Any]) -> set[int]:
    """Return the versions that a reader sees, after a check that each row is there once."""
    connection = psycopg2.connect(**database)
    cursor = connection.cursor()
    cursor.execute("SELECT version, count(*) FROM people GROUP BY version")
    found = dict(cursor.fetchall())
    connection.close()
    assert sum(found.values()) in (0, ROWS)
    return set(found)


def staged(connection: Any) -> int:
    """Return the number of rows that the new content has until now."""
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT count(*) FROM people__replacement")
    except psycopg2.errors.UndefinedTable:
        return -1
    return int(cursor.fetchone()[0])


@pytest.mark.long
def test_a_table_is_the_old_one_or_the_new_one_whenever_its_load_is_killed(tmp_path: Path, postgres: str) -> None:
    database = dict(new_database(postgres))
    connection = psycopg2.connect(**database)
    connection.autocommit = True
    connection.cursor().execute("CREATE TABLE people (id int PRIMARY KEY, version int)")
    chance = random.Random(int(os.environ.get("REVERSE_ETL_SEED", "0")))

    killed = 0
    for version in range(1, 1 + KILLS):
        build(tmp_path, version)
        before = seen(database)
        connection.cursor().execute("DROP TABLE IF EXISTS people__replacement")
        process = FORKS.Process(target=run_in_process, args=(tmp_path, database, f"run-{version}"))
        process.start()
        # Wait until some rows of the new content are there, of which the last may be followed by its end.
        wanted = chance.randint(0, ROWS)
        while process.is_alive() and staged(connection) < wanted:
            time.sleep(0.002)
        time.sleep(chance.choice([0.0, 0.01, 0.05]))
        killed += process.is_alive()
        process.kill()
        process.join()
        assert seen(database) in (before, {version})
    assert killed >= KILLS // 3

    last = FORKS.Process(target=run_in_process, args=(tmp_path, database, "last"))
    last.start()
    last.join(120)
    assert last.exitcode == 0
    assert seen(database) == {KILLS}
    connection.close()
