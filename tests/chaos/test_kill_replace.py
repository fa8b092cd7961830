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
KILLS = int(os.environ.get("REVERSE_ETL_KILLS", "24")) // 3


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


@pytest.mark.long
def test_a_table_is_the_old_one_or_the_new_one_whenever_its_load_is_killed(tmp_path: Path, postgres: str) -> None:
    database = dict(new_database(postgres))
    connection = psycopg2.connect(**database)
    connection.autocommit = True
    connection.cursor().execute("CREATE TABLE people (id int PRIMARY KEY, version int)")
    connection.close()
    chance = random.Random(int(os.environ.get("REVERSE_ETL_SEED", "0")))

    # Runs that nobody kills, to know how long one takes; the first also starts the server of the forks.
    version = 0
    length = 0.0
    for number in (1, 2):
        version += 1
        build(tmp_path, version)
        started = time.monotonic()
        whole = FORKS.Process(target=run_in_process, args=(tmp_path, database, f"run-{number}"))
        whole.start()
        whole.join(60)
        length = time.monotonic() - started
        assert seen(database) == {version}

    killed = 0
    for number in range(3, 3 + KILLS):
        version += 1
        build(tmp_path, version)
        process = FORKS.Process(target=run_in_process, args=(tmp_path, database, f"run-{number}"))
        process.start()
        process.join(chance.uniform(0.2, 1.0) * length + (LEASE if killed else 0))
        killed += process.is_alive()
        process.kill()
        process.join()
        assert len(seen(database)) == 1
    assert killed >= KILLS // 3

    last = FORKS.Process(target=run_in_process, args=(tmp_path, database, "last"))
    last.start()
    last.join(60)
    assert last.exitcode == 0
    assert seen(database) == {version}
