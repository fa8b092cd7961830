"""Model, store and destination that the engine's runs work on, and the stores that a scenario runs on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import Mock

import pytest

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.context import RunContext, RunOptions, SourceModel, Wait
from airflow_reverse_etl.sync.load.share import Share
from airflow_reverse_etl.sync.ports import Capabilities, Plan, PlanRequest, RateBudget, StateStore, Support
from airflow_reverse_etl.sync.run import Run, attempt_sync, run_sync
from airflow_reverse_etl.testing import (
    CrashError,
    Dials,
    FakeDestination,
    FrozenClock,
    MemoryStateStore,
    MemoryWarehouse,
    RecordingObserver,
)
from tests.stores.every import EVERY_STORE

#: An API without operations that are safe to send twice.
NOT_IDEMPOTENT = Capabilities(dict.fromkeys(Operation, Support(idempotent=False, answers="row", max_rows=100)))

#: Mark of a scenario that runs on every kind of store; others run on the one in memory. Each crosses what a store keeps
#: between two processes: checkpoints, plans, commits. What a store plans and records is asked in ``tests/stores``.
on_every_store = pytest.mark.parametrize("store", EVERY_STORE, indirect=True)


def rows(**values: Any) -> list[dict[str, Any]]:
    """``rows(a=1)`` is the row of key ``a`` with the value 1."""
    return [{"id": key, "n": value} for key, value in values.items()]


def many(count: int) -> list[dict[str, Any]]:
    """Make rows ``k01``, ``k02`` …, each with the value 1."""
    return [{"id": f"k{at:02}", "n": 1} for at in range(1, count + 1)]


@dataclass
class World:
    """Model, store and destination that outlive their runs."""

    destination: FakeDestination = field(default_factory=FakeDestination)
    store: StateStore = field(default_factory=MemoryStateStore)
    clock: FrozenClock = field(default_factory=FrozenClock)
    observer: RecordingObserver = field(default_factory=RecordingObserver)
    warehouse: MemoryWarehouse = field(default_factory=lambda: MemoryWarehouse({}))
    values: dict[str, Any] = field(default_factory=dict)
    model: list[dict[str, Any]] = field(default_factory=list)
    runs: int = 0
    budget: RateBudget | None = None

    def __post_init__(self) -> None:
        """Let the store die with its process, as after SIGKILL: no ``finally`` saves anything."""
        save = self.store.save_checkpoint

        def save_checkpoint(*arguments: Any, **more: Any) -> None:
            if self.killed():
                raise CrashError("killed")
            save(*arguments, **more)

        self.store.save_checkpoint = save_checkpoint  # type: ignore[method-assign]

    def killed(self) -> bool:
        """Return True if this process died during one of its requests."""
        return any(number <= len(self.destination.batches) for number in self.destination.dials.crash)

    def revived(self) -> list[str]:
        """Reset all dials; return the keys that were sent until now, sorted."""
        self.destination.dials = Dials()
        return self.sent()

    async def killed_in_commit(self, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Awaitable[Any]]) -> None:
        """Do something that dies when it commits."""
        with monkeypatch.context() as patch:
            patch.setattr(self.store, "commit", Mock(side_effect=CrashError("killed")))
            with pytest.raises(CrashError):
                await call()

    def sync(self, **more: Any) -> Sync:
        return Sync.load(
            {
                "name": "contacts",
                "model": "customers",
                "source": "warehouse",
                "primary_key": "id",
                "destination": {"type": "fake", "match_on": "id"},
                "mapping": {"id": "id", "n": "n"},
                "guards": {"min_rows": 0},
                "failure": {"max_rejected": "100%", "max_given_up": "100%"},
                "rate": {"batch_size": 2, "concurrency": 2},
                **self.values,
                **more,
            }
        )

    def build(self, model: list[dict[str, Any]] | None) -> None:
        """Build the model in the warehouse, from new rows if given."""
        import pyarrow as pa

        if model is not None:
            self.model = model
        schema = pa.schema([("id", pa.string()), ("n", pa.int64())])
        self.warehouse.set("customers", pa.Table.from_pylist(self.model, schema))

    async def run(
        self,
        model: list[dict[str, Any]] | None = None,
        *,
        run_id: str | None = None,
        full_resync: bool = False,
        reset: bool = False,
        lift_guards: Collection[str] = (),
        **more: Any,
    ) -> RunReport:
        self.build(model)
        if run_id is None:
            self.runs += 1
            run_id = f"run-{self.runs}"
        return await run_sync(
            self.sync(**more),
            self.source,
            self.destination,
            self.context(run_id),
            RunOptions(full_resync=full_resync, reset=reset, lift_guards=frozenset(lift_guards)),
        )

    async def attempt(
        self, model: list[dict[str, Any]] | None = None, *, run_id: str, planned: bool = False
    ) -> RunReport | Wait:
        """Run as a task that can wait without a worker."""
        self.build(model)
        context = replace(self.context(run_id), deferrable=True)
        return await attempt_sync(self.sync(), self.source, self.destination, context, planned=planned)

    # -- the steps of a run, one by one, as tasks have them --

    def steps(self, run_id: str) -> Run:
        return Run(self.sync(), self.context(run_id))

    def request(self, model: list[dict[str, Any]], run_id: str, **options: bool) -> PlanRequest:
        self.build(model)
        return self.steps(run_id).request(self.source, RunOptions(**options))

    async def planned(self, model: list[dict[str, Any]], run_id: str) -> Plan:
        steps, request = self.steps(run_id), self.request(model, run_id)
        async with steps.lease():
            plan = await steps.plan(request, self.warehouse, self.destination)
        assert isinstance(plan, Plan)
        return plan

    async def loaded(self, plan: Plan, partition: int, partitions: int) -> None:
        steps = self.steps(plan.run_id)
        async with steps.lease():
            await steps.load(plan, self.destination, Share.of(plan, partition, partitions))

    @property
    def source(self) -> SourceModel:
        return SourceModel("select * from customers", ("id",), self.warehouse)

    def context(self, run_id: str) -> RunContext:
        return RunContext(run_id, self.store, observer=self.observer, clock=self.clock, budget=self.budget)

    # -- what came of it --

    def report(self, run_id: str) -> RunReport:
        report = self.store.last_report("contacts", run_id)
        assert report is not None
        return report

    @property
    def held(self) -> dict[str, int]:
        return {key: record["n"] for key, record in self.destination.rows.items()}

    def sent(self) -> list[str]:
        """Return the keys sent since the last call, sorted."""
        keys = sorted(key for batch in self.destination.batches for key in batch.keys)
        self.destination.batches.clear()
        return keys
