"""The report says how much the destination's answers are worth."""

from __future__ import annotations

from dataclasses import replace

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Receipts
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.ports import Capabilities, StateStore, Support
from airflow_reverse_etl.testing import FakeDestination
from tests.sync.world import World, many, on_every_store, rows


class Queue(FakeDestination):
    """An API that takes upserts for later processing, and answers with status 202."""

    async def send(self, batch: Batch) -> Receipts:
        receipts = await super().send(batch)
        return replace(receipts, taken=batch.operation is Operation.UPSERT)


async def test_the_report_has_the_worth_of_each_operation_of_the_mode() -> None:
    promises = {
        Operation.UPSERT: Support(idempotent=True, answers="batch", max_rows=100),
        Operation.DELETE: Support(idempotent=True, answers="taken", max_rows=100),
        Operation.INSERT: Support(idempotent=False, answers="row", max_rows=100),
    }
    world = World(FakeDestination(capabilities=Capabilities(promises)))
    assert (await world.run(rows(a=1), mode="mirror")).answers == {"upsert": "batch", "delete": "taken"}
    assert (await world.run(rows(a=1), mode="insert")).answers == {"insert": "row"}


@on_every_store
async def test_rows_that_were_only_taken_say_so_in_the_report(store: StateStore) -> None:
    """Also when the last request of the run was answered otherwise, and in the stored report."""
    world = World(Queue(), store, values={"mode": "mirror"})
    report = await world.run(many(5))
    assert report.answers == {"upsert": "taken", "delete": "row"}
    assert report.accepted == 5
    stored = world.store.last_report("contacts", "run-1")
    assert stored is not None
    assert stored.answers == report.answers
    assert RunReport.from_json(report.to_json()) == report
