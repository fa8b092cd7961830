"""Accounts to Salesforce, as jobs of Bulk API 2.0 and 200 a call.

``python -m tests.benchmarks.bench_salesforce [rows]``. The server answers at once, so the figures are the package's own
work, and the calls. A real organization takes minutes for a job, and has most calls of Collections cost half a second.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from tests.benchmarks.contenders import BUILD, ROOT
from tests.servers.threads import in_thread
from tests.servers.vendors.salesforce import Salesforce

ROWS = 1_000_000
_FIELD = {"createable": True, "updateable": True, "nillable": True, "defaultedOnCreate": False, "type": "string"}


class Organization(Salesforce):
    """Checks no contract: that takes longer than the answer."""

    contract = None


async def send(task: dict[str, Any], folder: Path) -> float:
    """Run a sync from the query to the committed snapshot; returns the seconds."""
    from airflow_reverse_etl.destinations.registry import create
    from airflow_reverse_etl.destinations.salesforce import Salesforce as SalesforceType
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.sync.clock import SystemClock
    from airflow_reverse_etl.sync.context import RunContext, SourceModel
    from airflow_reverse_etl.sync.ports import ConnectionInfo
    from airflow_reverse_etl.sync.run import run_sync
    from airflow_reverse_etl.testing import RecordingObserver
    from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

    SalesforceType.poll_seconds = 0.1
    destination = {"type": "salesforce", "connection": "salesforce", "object": "Account", "match_on": "Key__c"}
    sync = Sync.load(
        {
            "name": "bench",
            "model": {"table": "accounts"},
            "source": "warehouse",
            "primary_key": "id",
            "mapping": {"Key__c": "key", "Name": "name"},
            "destination": {**destination, "bulk_from_rows": task["bulk_from_rows"]},
        }
    )
    connection = ConnectionInfo("salesforce", "salesforce", extra=task["extra"])
    warehouse = DuckDBWarehouse(duckdb.connect(task["database"], read_only=True))
    model = SourceModel("select * from accounts", ("id",), warehouse)
    context = RunContext("bench", LakeStore(str(folder)), observer=RecordingObserver(), clock=SystemClock())
    started = time.perf_counter()
    report = await run_sync(sync, model, create(sync, connection=connection), context)
    seconds = time.perf_counter() - started
    assert report.accepted == task["rows"], report
    return seconds


def measure(rows: int, database: str, bulk_from_rows: int | None) -> dict[str, Any]:
    """Send accounts to an organization of their own."""
    fields = [{**_FIELD, "name": "Key__c", "externalId": True, "unique": True}, {**_FIELD, "name": "Name"}]
    with in_thread(Organization(fields=fields, page=100_000)) as server:
        task = {"rows": rows, "database": database, "bulk_from_rows": bulk_from_rows}
        task["extra"] = dict(server.connection().extra)
        command = [sys.executable, "-m", "tests.benchmarks.bench_salesforce", json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(server.records.held) == rows
    return {**json.loads(done.stdout.splitlines()[-1]), "requests": len(server.requests)}


def main(rows: int = ROWS) -> list[dict[str, Any]]:
    """Rows a second, requests and memory of jobs, against Collections."""
    BUILD.mkdir(parents=True, exist_ok=True)
    database = str(BUILD / "salesforce.duckdb")
    with duckdb.connect(database) as connection:
        connection.execute(
            "create or replace table accounts as select i as id, 'A-' || i as key, 'Account ' || (i % 1000) as name"
            f" from range({rows}) numbers(i)"
        )
    bulk = measure(rows, database, 1)
    collections = measure(rows, database, None)
    for name, found in (("Bulk", bulk), ("Collections", collections)):
        print(
            f"{name:<12} {rows:>9,} rows {found['seconds']:>8.1f} s {found['requests']:>6,} requests"
            f" {found['megabytes']:>6.0f} MB",
            flush=True,
        )
    records = []
    for unit, one, other, ratio in (
        ("rows/s", rows / bulk["seconds"], rows / collections["seconds"], collections["seconds"] / bulk["seconds"]),
        ("requests", bulk["requests"], collections["requests"], collections["requests"] / bulk["requests"]),
        ("MB", bulk["megabytes"], collections["megabytes"], collections["megabytes"] / bulk["megabytes"]),
    ):
        name = f"accounts to Salesforce by Bulk, {unit}"
        records.append(
            {"name": name, "value": one, "unit": unit, "peer": "Collections", "peer_value": other, "ratio": ratio}
        )
    return records


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        with tempfile.TemporaryDirectory() as place:
            took = asyncio.run(send(json.loads(sys.argv[1]), Path(place)))
        # Not ru_maxrss, see tests/peak.py.
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
        print(json.dumps({"seconds": took, "megabytes": int(line.split()[1]) / 1024}))
    else:
        main(*map(int, sys.argv[1:]))
