"""Sends contacts of a DuckDB file to a HubSpot at a URL, as this package or drt does; run in an environment of its own.

Prints ``{"seconds": …, "megabytes": …}`` without imports.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

_DRT = """
name: contacts
model: select email, first_name as firstname from customers limit %d
destination:
  type: hubspot
  object_type: contacts
  id_property: email
  auth: {type: bearer, token_env: HUBSPOT_TOKEN}
sync: {mode: full, batch_size: 10000}
"""


def drt(task: dict[str, Any], folder: Path) -> float:
    """Run drt's connector with the rate that it has by default."""
    os.environ.update(HOME=str(folder), HUBSPOT_TOKEN=task["token"], DRT_TELEMETRY="0", DO_NOT_TRACK="0")
    files = {
        ".drt/profiles.yml": f"bench: {{type: duckdb, database: {task['database']}}}\n",
        "drt_project.yml": "name: bench\nversion: '0.1'\nprofile: bench\n",
        "syncs/contacts.yml": _DRT % task["rows"],
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    import_module("drt.destinations.hubspot")._HUBSPOT_API = f"{task['url']}/crm/v3/objects"  # type: ignore[attr-defined]
    run = import_module("drt.integrations._runner").run_drt_sync
    started = time.perf_counter()
    result = run("contacts", str(folder))
    seconds = time.perf_counter() - started
    assert result["status"] == "success", result
    return seconds


async def ours(task: dict[str, Any], folder: Path) -> float:
    """Run this package, from the query to the committed snapshot."""
    import duckdb

    from airflow_reverse_etl.destinations.registry import create
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.sync.clock import SystemClock
    from airflow_reverse_etl.sync.context import RunContext, SourceModel
    from airflow_reverse_etl.sync.ports import ConnectionInfo
    from airflow_reverse_etl.sync.run import run_sync
    from airflow_reverse_etl.testing import RecordingObserver
    from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

    sync = Sync.load(
        {
            "name": "bench",
            "model": {"table": "customers"},
            "source": "warehouse",
            "primary_key": "id",
            "mapping": {"email": "email", "firstname": "first_name"},
            "destination": {"type": "hubspot", "connection": "hubspot", "object": "contacts", "match_on": "email"},
        }
    )
    connection = ConnectionInfo("hubspot", host=task["url"], password=task["token"])
    warehouse = DuckDBWarehouse(duckdb.connect(task["database"], read_only=True))
    model = SourceModel(f"select * from customers limit {task['rows']}", ("id",), warehouse)
    context = RunContext("bench", LakeStore(str(folder)), observer=RecordingObserver(), clock=SystemClock())
    started = time.perf_counter()
    report = await run_sync(sync, model, create(sync, connection=connection), context)
    seconds = time.perf_counter() - started
    assert report.accepted == task["rows"], report
    return seconds


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        took = drt(given, Path(name)) if given["tool"] == "drt" else asyncio.run(ours(given, Path(name)))
    # Not ru_maxrss, see tests/peak.py.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    peak = int(line.split()[1]) / 1024
    print(json.dumps({"seconds": took, "megabytes": peak}))
