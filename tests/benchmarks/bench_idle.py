"""CPU of a task with nothing to send, beside a task that does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import duckdb

from tests.fresh import REPOSITORY

ROWS = 1000
REPETITIONS = 5


def idle_task(folder: Path, *options: str) -> dict[str, Any]:
    """Run a task in a process of its own, with its warehouse, state and connections in a folder; return its output."""
    environment = {
        **os.environ,
        # Installed packages are compiled.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__REVERSE_ETL__STATE_URL": str(folder / "state"),
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "duckdb", "host": str(folder / "warehouse.duckdb")}),
        "AIRFLOW_CONN_CRM": json.dumps({"conn_type": "http", "host": "https://api.crm.example.com"}),
    }
    command = [sys.executable, "-m", "tests.benchmarks.idle_task", "--folder", str(folder), *options]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prepare(folder: Path, destination: str) -> None:
    """Make a warehouse and a state that has all of its rows as delivered."""
    with duckdb.connect(folder / "warehouse.duckdb") as connection:
        connection.execute(
            "CREATE TABLE customers AS SELECT i AS id, 'user' || i || '@example.com' AS email, (i % 100)::INT AS score"
            f" FROM range({ROWS}) AS numbers(i)"
        )
    idle_task(folder, "--destination", destination, "--reset")


def main() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, "http")
        empty = median(idle_task(folder, "--empty")["base"] for _ in range(REPETITIONS))
        runs = [idle_task(folder) for _ in range(REPETITIONS)]
    assert all(not any(run["planned"].values()) for run in runs)
    ours = median(run["base"] + run["cpu"] for run in runs)
    yield {
        "name": "CPU of a run with nothing to send",
        "value": ours,
        "unit": "s",
        "peer": "an empty task",
        "peer_value": empty,
        "ratio": empty / ours,
    }
