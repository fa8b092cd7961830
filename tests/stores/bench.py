"""Runs of one sync, without a load, over a store under test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.receipts import Outcome, Receipt
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.planning import with_model_columns
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, StateStore
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

REJECTED = Receipt(Outcome.REJECTED, "bad_email", "is not an address")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MAPPING = {"id": "id", "email": "email", "score": "score"}
THREE = [(1, "a", 1), (2, "b", 2), (3, "c", 3)]


def sync_of(mode: str = "upsert", *, match_on: Sequence[str] = ("email",), **more: Any) -> Sync:
    values: dict[str, Any] = {"mapping": {"email": "email", "score": "score"}, **more}
    match_on = [name for name in match_on if name in values["mapping"]]
    values = {"name": "s", "model": "m", "source": "w", **values}
    return Sync(mode=mode, destination={"type": "file", "match_on": match_on}, **values)


def keyed(mode: str = "upsert", *, match_on: tuple[str, ...] = ("email",), **more: Any) -> Sync:
    """Build a sync that maps its key too."""
    destination = {"type": "file", "match_on": match_on}
    values: dict[str, Any] = {"name": "s", "model": "m", "source": "w", "mapping": MAPPING, **more}
    return Sync(mode=mode, destination=destination, **values)


def at(hour: float) -> datetime:
    return datetime(2026, 1, 1) + timedelta(hours=hour)  # noqa: DTZ001 - a column without a zone


AT = {"cursor": "at"}


class Bench:
    """A store, a model to change, and the runs of one sync over them. A day passes between runs."""

    def __init__(self, store: StateStore, sync: Sync, primary_key: tuple[str, ...] = ("id",)) -> None:
        self.store, self.sync, self.primary_key = store, sync, primary_key
        self.now = NOW
        self.database = duckdb.connect()
        self.warehouse = DuckDBWarehouse(self.database)
        self.runs = 0
        self.model([])

    def model(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Replace the model by rows of (id, email, score)."""
        self.database.execute("CREATE OR REPLACE TABLE m (id BIGINT, email VARCHAR, score INT)")
        if values := list(rows):
            self.database.executemany("INSERT INTO m VALUES (?, ?, ?)", values)

    def timed(self, rows: Iterable[tuple[Any, ...]], kind: str = "TIMESTAMP") -> None:
        """Replace the model by rows of (id, email, at)."""
        self.database.execute(f'CREATE OR REPLACE TABLE m (id BIGINT, email VARCHAR, "at" {kind})')
        if values := list(rows):
            self.database.executemany("INSERT INTO m VALUES (?, ?, ?)", values)

    def plan(self, **options: Any) -> Plan:
        self.runs += 1
        self.now += timedelta(days=1)
        sync = with_model_columns(self.sync, "SELECT * FROM m", self.warehouse)
        request = PlanRequest(sync, "SELECT * FROM m", self.primary_key, f"run{self.runs}", self.now, **options)
        return self.store.plan(request, self.warehouse)

    def rows(self, plan: Plan, **part: int) -> list[dict[str, Any]]:
        rows = [row for batch in self.store.changes(plan, **part) for row in batch.to_pylist()]
        return [{**row, "identifiers": row["identifiers"] and json.loads(row["identifiers"])} for row in rows]

    def keys(self, plan: Plan) -> dict[str, str]:
        return {row["key"]: row["change"] for row in self.rows(plan)}

    def commit(self, plan: Plan, refused: Mapping[str, Receipt] | None = None, *, upto: int | None = None) -> RunReport:
        """Settle rows up to a number, with the given outcomes by key, and commit."""
        checkpoint = Checkpoint()
        last = plan.total if upto is None else upto
        if last:
            checkpoint.settled.add(1, last)
        for row in self.rows(plan):
            if refused and row["key"] in refused and row["seq"] <= last:
                checkpoint.fail(row["seq"], refused[row["key"]])
        report = RunReport(plan.run_id, plan.planned, last, 0, 0, 0, 0, 1, 0.5, ({"code": "x", "count": 1},))
        self.store.commit(plan, checkpoint, report, self.sync)
        return report

    def run(self, refused: Mapping[str, Receipt] | None = None, **options: bool) -> dict[str, str]:
        """Plan and commit a run; return what was planned, key → change."""
        plan = self.plan(**options)
        keys = self.keys(plan)
        self.commit(plan, refused)
        return keys
