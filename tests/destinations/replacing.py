"""A sync in mode replace with a real file or table, and its state in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import (
    FrozenClock,
    MemoryStateStore,
    MemoryWarehouse,
    RecordingObserver,
)
from tests.stores.warehouses import Place


class Replacing:
    """A sync in mode replace, its model and its state."""

    def __init__(self, destination: dict[str, Any], *, place: Place | None = None, **more: Any) -> None:
        self.place = place
        self.store = MemoryStateStore()
        self.warehouse = MemoryWarehouse({})
        self.runs = 0
        self.values = {
            "name": "people",
            "model": "people",
            "source": "warehouse",
            "primary_key": "id",
            "mode": "replace",
            "mapping": {"id": "id", "v": "v"},
            "guards": {"min_rows": 0, "max_removed": "100%"},
            "rate": {"batch_size": 2},
            "destination": destination,
            **more,
        }

    async def run(self, rows: list[tuple[Any, Any]], kind: pa.DataType | None = None) -> RunReport:
        self.runs += 1
        ids = pa.array([row[0] for row in rows], pa.int64())
        self.warehouse.set(
            "people", pa.table({"id": ids, "v": pa.array([row[1] for row in rows], kind or pa.string())})
        )
        sync = Sync.load(self.values)
        connect = self.place.connect if self.place else None
        connection = ConnectionInfo("db", self.place.dialect) if self.place else None
        destination = create(sync, connection=connection, connect=connect)
        context = RunContext(f"run-{self.runs}", self.store, observer=RecordingObserver(), clock=FrozenClock())
        return await run_sync(sync, SourceModel("SELECT * FROM people", ("id",), self.warehouse), destination, context)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pyarrow.parquet.read_table(path).to_pylist())
    if path.suffix == ".csv":
        return list(pyarrow.csv.read_csv(path).to_pylist())
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
