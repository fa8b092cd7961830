"""What runs in a process that is made to be killed: one try of a run, in a fork of a server with everything imported.

The server makes no thread and opens no database, so a fork of it is as good as a new process and costs milliseconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp  # noqa: F401 - these load when they are first needed, and would load in every fork
import deltalake  # noqa: F401
import duckdb
import orjson  # noqa: F401
import psycopg2  # type: ignore[import-untyped]
import pyarrow.compute  # noqa: F401
import sqlglot.optimizer  # noqa: F401

from airflow_reverse_etl.destinations import json_api  # noqa: F401
from airflow_reverse_etl.destinations.registry import create, registered
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.stores.lake import commit, planner  # noqa: F401
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.stores.warehouse.store import WarehouseStore
from airflow_reverse_etl.sync.clock import RunTiming, SystemClock
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import ConnectionInfo, Plan, PlanRequest, StateStore, Warehouse
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import RecordingObserver
from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse
from tests.bulk_api import Bulk

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a run, and how patient it is.

    :param sync: as ``Sync.load`` takes it.
    :param state: folder of the state.
    :param database: DuckDB file with the model.
    :param postgres: how to connect to the database that has the model and keeps the state instead, if one does.
    :param table: the model's.
    :param lease: seconds that its lease lasts.
    """

    sync: Mapping[str, Any]
    state: Path
    database: Path
    postgres: Mapping[str, str] | None
    table: str
    api: ConnectionInfo
    run_id: str
    lease: float


class Marked:
    """A store that tells the parent in which step the run is."""

    def __init__(self, store: StateStore, marks: Connection) -> None:
        self._store, self._marks = store, marks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        self._marks.send(("plan", None))
        return self._store.plan(request, warehouse)

    def begin_try(self, plan: Plan, *, partition: int = 0) -> int:
        self._marks.send(("load", None))
        return self._store.begin_try(plan, partition=partition)

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: RunReport, sync: Sync) -> None:
        self._marks.send(("commit", (plan, report)))
        self._store.commit(plan, checkpoint, report, sync)
        self._marks.send(("committed", None))


def _parts(attempt: Try) -> tuple[Warehouse, StateStore]:
    """The warehouse with the model, and the store."""
    if attempt.postgres:

        def connect() -> Any:
            return psycopg2.connect(**attempt.postgres)

        def open_warehouse() -> Warehouse:
            return DbApiWarehouse(connect, dialect="postgres", conn_id="warehouse")

        return open_warehouse(), WarehouseStore(connect, open_warehouse, dialect="postgres", change_log=True)
    database = duckdb.connect(str(attempt.database), read_only=True, config={"threads": 1})
    scratch = attempt.state.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    store = LakeStore(str(attempt.state), memory_limit="200MB", threads=1, scratch=scratch, change_log=True)
    return DuckDBWarehouse(database), store


def _timing(attempt: Try) -> RunTiming:
    return RunTiming(
        lease=attempt.lease,
        renewal=attempt.lease / 4,
        waiting=0.02,
        checkpoint=0.01,
        confirmation=0.05,
        collection=0.05,
    )


def work(attempt: Try, marks: Connection) -> None:
    """Make the try; the last mark is ``done`` with its report, or ``failed`` with the error's class and text."""
    marks.send(("start", os.getpid()))
    sync = Sync.load(attempt.sync)
    warehouse, store = _parts(attempt)
    marked: Any = Marked(store, marks)
    primary_key = () if sync.mode == "append" else ("id",)
    try:
        with registered("bulk", Bulk):
            destination = create(sync, connection=attempt.api)
        report = asyncio.run(
            run_sync(
                sync,
                SourceModel(f"select * from {attempt.table}", primary_key, warehouse),
                destination,
                RunContext(
                    attempt.run_id,
                    marked,
                    observer=RecordingObserver(),
                    clock=SystemClock(),
                    timing=_timing(attempt),
                ),
            )
        )
    except Exception as error:  # noqa: BLE001 - the parent decides which errors are right
        marks.send(("failed", (type(error).__name__, str(error))))
    else:
        marks.send(("done", report))
