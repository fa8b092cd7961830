"""Rows that need a unique value of another record: they wait for it, and are rejected if it stays where it is."""

from __future__ import annotations

import pytest

from airflow_reverse_etl.errors import IncompleteLoadError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import UNIQUE_CYCLE, Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.load.loader import CONFLICT_ROUNDS, CYCLE_ROWS
from airflow_reverse_etl.testing import CrashError, Dials, FakeDestination
from tests.sync.world import NOT_IDEMPOTENT, World, many, on_every_store, rows


class Resolving(FakeDestination):
    """Fake that writes rows together, or finds that it cannot."""

    def __init__(self) -> None:
        super().__init__(Dials(unique="n"))
        self.together: list[Batch] = []
        self.can = True

    async def resolve(self, batch: Batch) -> Receipts:
        self.together.append(batch)
        if not self.can:
            return Receipts(Receipt(Outcome.REJECTED, UNIQUE_CYCLE, "n"))
        for key, record in zip(batch.keys, batch.records, strict=True):
            self.table.write(batch.operation, key, record)
        return Receipts()


def unique(world: World) -> None:
    world.destination.dials.unique = "n"


@on_every_store
async def test_a_chain_is_delivered_whatever_its_order(world: World) -> None:
    unique(world)
    await world.run(rows(a=1, b=2, c=3, d=4))
    report = await world.run(rows(a=2, b=3, c=4, d=5))
    assert (report.accepted, report.rejected) == (4, 0)
    assert world.held == {"a": 2, "b": 3, "c": 4, "d": 5}


async def test_a_value_of_another_record_rejects_the_row_after_it_was_tried_twice(world: World) -> None:
    unique(world)
    world.destination.rows["foreign"] = {"id": "foreign", "n": 7}
    report = await world.run(rows(a=7, b=2))
    assert (report.accepted, report.rejected) == (1, 1)
    assert world.sent() == ["a", "a", "b"]
    [reason] = report.reasons
    assert (reason["code"], reason["message"]) == ("conflict", "n: another record has this value")


async def test_such_rejections_count_attempts(world: World) -> None:
    unique(world)
    world.destination.rows["foreign"] = {"id": "foreign", "n": 7}
    world.values["retry"] = {"max_attempts": 2}
    reports = [await world.run(rows(a=7)) for _ in range(3)]
    assert [(report.rejected, report.given_up) for report in reports] == [(1, 0), (1, 0), (0, 1)]
    assert world.held == {"foreign": 7}


async def test_rows_are_tried_again_only_while_that_settles_some(world: World) -> None:
    unique(world)
    world.values["rate"] = {"batch_size": 1, "concurrency": 1}
    keys = [f"k{at:02}" for at in range(1, CONFLICT_ROUNDS + 5)]
    await world.run([{"id": key, "n": at} for at, key in enumerate(keys)])
    world.sent()
    # Each round settles the last row that waits.
    report = await world.run([{"id": key, "n": at + 1} for at, key in enumerate(keys)])
    assert report.accepted == 1 + CONFLICT_ROUNDS
    assert report.rejected == len(keys) - report.accepted
    assert world.sent().count(keys[0]) == 1 + CONFLICT_ROUNDS
    report = await world.run()
    assert world.held[keys[0]] == 1


async def test_only_so_many_rows_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    unique(world)
    monkeypatch.setattr("airflow_reverse_etl.sync.load.delivery.MOST_CONFLICTS", 1)
    world.values["rate"] = {"batch_size": 1, "concurrency": 1}
    await world.run(rows(a=1, b=2, c=3, d=4))
    report = await world.run(rows(a=3, b=4, c=5, d=6))
    assert (report.accepted, report.rejected) == (3, 1)
    assert [reason["code"] for reason in report.reasons] == ["conflict"]
    assert world.held == {"a": 3, "b": 2, "c": 5, "d": 6}


async def test_removed_rows_that_conflict_are_settled_before_the_rest(world: World) -> None:
    class Referenced(FakeDestination):
        """Fake that refuses to delete a record the first time."""

        async def send(self, batch: Batch) -> Receipts:
            refused = batch.operation is Operation.DELETE and not any(
                sent.operation is Operation.DELETE for sent in self.batches
            )
            if refused:
                self.batches.append(batch)
                return Receipts(Receipt(Outcome.CONFLICT, "used", "another record needs it"))
            return await super().send(batch)

    world.destination = Referenced()
    world.values |= {"mode": "mirror", "guards": {"min_rows": 0, "max_removed": "100%"}}
    await world.run(rows(a=1, b=2))
    world.destination.batches.clear()
    report = await world.run(rows(b=2, c=1))
    assert (report.accepted, report.rejected) == (2, 0)
    operations = [batch.operation for batch in world.destination.batches]
    assert operations == [Operation.DELETE, Operation.DELETE, Operation.UPSERT]


async def test_a_killed_load_leaves_waiting_rows_to_the_next_try(world: World) -> None:
    unique(world)
    await world.run(rows(a=1, b=2))
    first = len(world.destination.batches)
    world.values["rate"] = {"batch_size": 1, "concurrency": 1}
    world.destination.dials.crash = [first + 2]
    with pytest.raises(CrashError):
        await world.run(rows(a=2, b=3), run_id="killed")
    world.revived()
    unique(world)
    report = await world.run(run_id="killed")
    assert world.held == {"a": 2, "b": 3}
    assert (report.accepted, report.rejected, report.unknown) == (2, 0, 0)


async def test_a_conflict_of_an_insert_means_that_nothing_was_written(world: World) -> None:
    world.destination = FakeDestination(Dials(unique="n"), capabilities=NOT_IDEMPOTENT)
    world.values["mode"] = "insert"
    world.destination.rows["foreign"] = {"id": "foreign", "n": 7}
    report = await world.run(rows(a=7, b=2))
    assert (report.accepted, report.rejected, report.unknown) == (1, 1, 0)
    del world.destination.rows["foreign"]
    report = await world.run()
    assert (report.accepted, report.unknown) == (1, 0)
    assert not world.destination.table.repeated()


async def test_a_load_that_stops_leaves_waiting_rows(world: World) -> None:
    unique(world)
    await world.run(rows(a=1, b=2))
    first = len(world.destination.batches)
    world.values["rate"] = {"batch_size": 1, "concurrency": 1}
    dials = world.destination.dials
    dials.unsent = range(first + 3, first + 100)
    with pytest.raises(IncompleteLoadError) as caught:
        await world.run(rows(a=2, b=3), run_id="down")
    assert caught.value.report is not None
    assert (caught.value.report.accepted, caught.value.report.retryable) == (1, 1)
    dials.unsent = ()
    report = await world.run(run_id="down")
    assert (report.accepted, report.rejected) == (2, 0)
    assert world.held == {"a": 2, "b": 3}


async def test_a_chain_over_two_shares_may_need_the_next_run(world: World) -> None:
    unique(world)
    await world.run(rows(a=1, b=2))
    plan = await world.planned(rows(a=2, b=3), "shared")
    for share in range(2):
        await world.loaded(plan, share, 2)
    steps = world.steps("shared")
    async with steps.lease():
        report = await steps.commit(plan, world.destination)
    assert (report.accepted, report.rejected) == (1, 1)
    report = await world.run()
    assert (report.accepted, report.rejected) == (1, 0)
    assert world.held == {"a": 2, "b": 3}


# -- cycles ------------------------------------------------------------------------------------------------------------


async def test_a_swap_is_rejected_by_a_destination_that_cannot_write_rows_together(world: World) -> None:
    unique(world)
    await world.run(rows(a=1, b=2, c=3))
    report = await world.run(rows(a=2, b=1, c=4))
    assert (report.accepted, report.rejected) == (1, 2)
    assert [reason["code"] for reason in report.reasons] == ["conflict"]


@pytest.mark.parametrize("mode", ["upsert", "mirror", "update"])
async def test_a_swap_is_written_together(world: World, mode: str) -> None:
    world.destination = destination = Resolving()
    await world.run(rows(a=1, b=2, c=3))
    report = await world.run(rows(a=2, b=1, c=4), mode=mode)
    assert (report.accepted, report.rejected) == (3, 0)
    assert world.held == {"a": 2, "b": 1, "c": 4}
    [batch] = destination.together
    assert list(batch.keys) == ["a", "b"]


async def test_a_swap_that_cannot_be_written_has_a_code_of_its_own(world: World) -> None:
    world.destination = destination = Resolving()
    destination.can = False
    await world.run(rows(a=1, b=2))
    report = await world.run(rows(a=2, b=1))
    assert [(reason["code"], reason["count"]) for reason in report.reasons] == [("unique_cycle", 2)]


async def test_no_cycle_is_looked_for_among_many_rows_or_among_inserts(world: World) -> None:
    world.destination = destination = Resolving()
    destination.rows["foreign"] = {"id": "foreign", "n": 1}
    report = await world.run(many(CYCLE_ROWS + 1))
    assert report.rejected == CYCLE_ROWS + 1
    report = await world.run(rows(z=1), mode="insert", name="inserts")
    assert report.rejected == 1
    assert destination.together == []
