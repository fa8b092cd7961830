"""Runs of a sync of type ``http`` against a test server: the real destination, the real engine, the store in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.errors import IncompleteLoadError, UnreachableError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import ConnectionInfo, RecordIds
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import MemoryStateStore, MemoryWarehouse, RecordingObserver
from airflow_reverse_etl.testing.record_rules import IN_DOUBT
from tests.servers.server import Server

#: Airflow's default pause before the next try of a task.
RETRY_SECONDS = 300.0


@dataclass
class Loads:
    """A sync whose runs go to one server.

    :param destination: options of ``destination:``.
    :param columns: columns of the model, all text; the first is the primary key.
    :param others: other keys of the sync.
    """

    server: Server
    destination: Mapping[str, Any]
    columns: Sequence[str] = ("id", "name")
    others: Mapping[str, Any] = field(default_factory=dict)
    password: str | None = None
    login: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    record_ids: RecordIds | None = None
    store: MemoryStateStore = field(default_factory=MemoryStateStore)
    warehouse: MemoryWarehouse = field(default_factory=lambda: MemoryWarehouse({}))
    runs: int = 0

    def sync(self) -> Sync:
        return Sync.load(
            {
                "name": "rows",
                "model": "rows",
                "source": "warehouse",
                "primary_key": self.columns[0],
                "mapping": {column: column for column in self.columns},
                "destination": {"type": "http", "connection": "server", **self.destination},
                "failure": {"max_rejected": "100%", "max_given_up": "100%"},
                "guards": {"min_rows": 0},
                **self.others,
            }
        )

    async def run(self, rows: Sequence[Sequence[str]], *, retries: int = 3) -> RunReport:
        """Build the model from these rows, and run the sync as a task with retries does."""
        table = [dict(zip(self.columns, row, strict=True)) for row in rows]
        schema = pa.schema([(column, pa.string()) for column in self.columns])
        self.warehouse.set("rows", pa.Table.from_pylist(table, schema))
        self.runs += 1
        for _ in range(retries):
            try:
                return await self._try()
            except (IncompleteLoadError, UnreachableError):
                await self.server.clock.sleep(RETRY_SECONDS)
        return await self._try()

    def _connection(self) -> ConnectionInfo:
        more = {"login": self.login} if self.login else {}
        return self.server.connection(password=self.password, extra=self.extra, **more)

    async def _try(self) -> RunReport:
        sync = self.sync()
        destination = create(sync, connection=self._connection())
        source = SourceModel("select * from rows", (self.columns[0],), self.warehouse)
        context = RunContext(
            f"run-{self.runs}",
            self.store,
            observer=RecordingObserver(),
            clock=self.server.clock,
            record_ids=self.record_ids,
        )
        return await run_sync(sync, source, destination, context)

    @property
    def delivered(self) -> set[str]:
        """The primary keys of rows that count as delivered; the store's snapshot has those in doubt, too."""
        found = self.store._state("rows").snapshot.values()
        return {row.key for row in found if row.fingerprint != IN_DOUBT}
