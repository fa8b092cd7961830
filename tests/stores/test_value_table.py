"""The tables of docs/reference/values.md, value by value, with each warehouse that can be run and both planners."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.load.records import RecordBuilder
from airflow_reverse_etl.sync.ports import PlanRequest, StateStore, Warehouse
from tests.stores.warehouses import snowflake_place


def record_of(store: StateStore, warehouse: Warehouse, values: list[str], **options: Any) -> dict[str, Any]:
    """Return the record of a model's only row, whose columns are the values c0, c1 …"""
    names = [f"c{at}" for at in range(len(values))]
    query = f"SELECT 1 AS id, {', '.join(f'{sql} AS {name}' for sql, name in zip(values, names, strict=True))}"
    mapping = {"id": "id", **{name: name for name in names}}
    sync = Sync(name="s", model="m", source="w", destination={"type": "file"}, mapping=mapping)
    plan = store.plan(PlanRequest(sync, query, ("id",), "run", datetime(2026, 1, 1, tzinfo=UTC)), warehouse)
    [batch] = store.changes(plan)
    [record], failures = RecordBuilder(sync, **options).build(batch)
    store.discard(plan)
    assert failures == {}
    return record


def test_a_warehouse_that_writes_names_in_upper_case_is_planned_locally(tmp_path: Path) -> None:
    store = LakeStore(str(tmp_path), memory_limit="500MB", threads=1)
    record = record_of(store, snowflake_place().open_warehouse(), ["parse_json('{\"a\": [1]}')", "'text'"])
    assert record == {"id": 1, "c0": {"a": [1]}, "c1": "text"}
