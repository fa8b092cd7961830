"""A task with nothing to send, in a process as fresh as a worker's: ``python -m tests.benchmarks.idle_task``.

Prints one JSON object: CPU seconds of the process after Airflow's task SDK was imported, and the imported modules. With
``--empty`` the task does nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SYNC = {
    "name": "contacts",
    "model": {"table": "customers"},
    "source": "warehouse",
    "primary_key": "id",
    "mapping": {"email": "email", "score": "score"},
}


def cpu() -> float:
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def sync(folder: Path, kind: str) -> dict[str, Any]:
    """Build the sync, to a destination of a type that needs no server while nothing is sent."""
    if kind == "file":
        return {**SYNC, "destination": {"type": "file", "url": str(folder / "out"), "match_on": "email"}}
    destination = {"type": "http", "connection": "crm", "path": "/contacts", "match_on": "email"}
    return {**SYNC, "destination": destination}


class OutletEvents:
    """Events of a task's outlets. An asset of Airflow 3.1 cannot be the key of a dictionary."""

    def __getitem__(self, _: object) -> SimpleNamespace:
        return SimpleNamespace(extra={})


def run(values: dict[str, Any], *, reset: bool) -> dict[str, Any]:
    """Execute the operator for a task instance, as a worker does; return its XCom."""
    from airflow_reverse_etl.operators import ReverseEtlOperator

    ti = SimpleNamespace(
        dag_id="dag", run_id=str(reset), task_id="contacts", map_index=-1, try_number=1, xcom_push=lambda **_: None
    )
    operator = ReverseEtlOperator(task_id="contacts", sync=values, reset=reset)
    context: Any = {"ti": ti, "dag_run": SimpleNamespace(conf={}), "outlet_events": OutletEvents()}
    report: dict[str, Any] = operator.execute(context)
    return report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--destination", default="http")
    parser.add_argument("--reset", action="store_true", help="record every row as delivered")
    args = parser.parse_args()

    import_module("airflow.sdk")
    logging.disable(logging.INFO)
    start = cpu()
    planned = {}
    if not args.empty:
        planned = run(sync(args.folder, args.destination), reset=args.reset)["planned"]
    print(json.dumps({"planned": planned, "cpu": cpu() - start, "base": start, "modules": sorted(sys.modules)}))


if __name__ == "__main__":
    main()
