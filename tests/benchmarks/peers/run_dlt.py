"""Contender: dlt with a custom destination (``@dlt.destination``), from DuckDB as Arrow, which is its quickest way in.

The function posts each batch over one kept-alive session per thread. dlt runs one thread per file of its load
package, so the rows are cut into as many files as there are connections.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from importlib import import_module
from typing import Any


def settings(task: dict[str, Any]) -> dict[str, str]:
    """dlt's own options for this task, as environment variables."""
    return {
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
        "LOAD__WORKERS": str(task["concurrency"]),
        "LOAD__LOADER_PARALLELISM_STRATEGY": "parallel",
        "DATA_WRITER__FILE_MAX_ITEMS": str(-(-task["rows"] // task["concurrency"])),
    }


def run(task: dict[str, Any], folder: str) -> float:
    """Seconds that the pipeline took, from extraction to the finished load."""
    import duckdb
    import requests

    dlt: Any = import_module("dlt")
    local = threading.local()
    chunk = -(-task["rows"] // task["concurrency"])

    def customers() -> Any:
        with duckdb.connect(task["database"], read_only=True) as connection:
            yield from connection.sql(f"select * from customers limit {task['rows']}").to_arrow_reader(
                min(chunk, 65536)
            )

    def sink(items: Any, table: Any) -> None:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        rows = items.to_pylist() if hasattr(items, "to_pylist") else items
        body = dlt.common.json.dumpb({"records": rows} if task["batch"] > 1 else rows[0])
        local.session.post(task["url"], data=body).raise_for_status()

    options = {"batch_size": task["batch"], "loader_file_format": "parquet", "skip_dlt_columns_and_tables": True}
    pipeline = dlt.pipeline("bench", destination=dlt.destination(sink, name="sink", **options), pipelines_dir=folder)
    started = time.perf_counter()
    pipeline.run(dlt.resource(customers, name="customers"))
    return time.perf_counter() - started


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    os.environ.update(settings(arguments))
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home
        print(json.dumps({"seconds": run(arguments, home)}))
