"""Contender: drt-core, its ``rest_api`` destination from its DuckDB source, called as its Airflow operator calls it.

drt sends one request at a time; it has no setting for more. Full mode, so that it compares nothing either.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

_PROFILE = "bench: {type: duckdb, database: %s}\n"
_PROJECT = "name: bench\nversion: '0.1'\nprofile: bench\n"
_BATCH = """
  body_mode: batch
  batch_template: '{"records": {{ rows | tojson_safe }}}'
  max_records_per_request: %d"""
_SYNC = """
name: contacts
model: select * from customers limit %d
destination:
  type: rest_api
  url: %s
  method: POST
  headers: {Content-Type: application/json}%s
sync:
  mode: full
  batch_size: %d
  rate_limit: {requests_per_second: 1000000}
"""


def project(folder: Path, task: dict[str, Any]) -> None:
    """A drt project for this task, with its profile in a home folder of its own."""
    os.environ["HOME"] = str(folder)
    os.environ["DRT_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "0"
    size = task["batch"]
    body = _BATCH % size if size > 1 else ""
    files = {
        ".drt/profiles.yml": _PROFILE % task["database"],
        "drt_project.yml": _PROJECT,
        "syncs/contacts.yml": _SYNC % (task["rows"], task["url"], body, 10_000),
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main() -> None:
    logging.disable(logging.WARNING)
    task = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        project(Path(folder), task)
        run_drt_sync = import_module("drt.integrations._runner").run_drt_sync

        started = time.perf_counter()
        result = run_drt_sync("contacts", folder)
        seconds = time.perf_counter() - started
    if result["status"] != "success":
        raise SystemExit(f"drt: {result}")
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
