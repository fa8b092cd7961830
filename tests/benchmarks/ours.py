"""Contender: this package, from the source query to the committed snapshot, without Airflow around it.

First run of a sync, so every row is new: the plan compares with an empty snapshot, all rows are sent, and the
snapshot of all of them is committed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp  # noqa: F401 - these load when they are first needed, and imports are not to be measured
import deltalake  # noqa: F401
import duckdb
import orjson  # noqa: F401
import pyarrow.compute  # noqa: F401
import sqlglot.dialects.duckdb
import sqlglot.optimizer  # noqa: F401

from airflow_reverse_etl.destinations import json_api  # noqa: F401
from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.clock import SystemClock
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse


class Timeline:
    """Prints when each step of the run was done, to stderr."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def event(self, name: str, **facts: Any) -> None:
        print(f"{time.perf_counter() - self._started:7.2f} s  {name}", file=sys.stderr)


def sync(task: dict[str, Any]) -> Sync:
    body = {"records": "records"} if task["batch"] > 1 else {"rows": "single"}
    return Sync.load(
        {
            "name": "bench",
            "model": {"table": "customers"},
            "source": "warehouse",
            "primary_key": "id",
            "destination": {"type": "http", "connection": "sink", "path": "/v1/contacts", **body},
            "mapping": {name: name for name in ("id", "email", "first_name", "score")},
            "rate": {"batch_size": task["batch"], "concurrency": task["concurrency"]},
        }
    )


async def send(task: dict[str, Any], state: str) -> None:
    spec = sync(task)
    warehouse = DuckDBWarehouse(duckdb.connect(task["database"], read_only=True))
    report = await run_sync(
        spec,
        SourceModel(f"select * from customers limit {task['rows']}", ("id",), warehouse),
        create(spec, connection=ConnectionInfo("sink", host=task["url"].removesuffix("/v1/contacts"))),
        RunContext("bench", LakeStore(state), observer=Timeline(), clock=SystemClock()),
    )
    assert report.accepted == task["rows"], report


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="bench", dir=Path.cwd() / "build") as folder:
        started = time.perf_counter()
        asyncio.run(send(json.loads(sys.argv[1]), folder))
        print(json.dumps({"seconds": time.perf_counter() - started}))
