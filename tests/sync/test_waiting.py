"""A wait of more than a minute: the step saves, gives the lease back, and the same call later resumes the run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_reverse_etl.errors import IncompleteLoadError, RunConflictError
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.context import LONGEST_WAIT, Wait
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.run import REMOVAL
from airflow_reverse_etl.testing import FakeDestination
from tests.sync.world import NOT_IDEMPOTENT, World, on_every_store, rows

HOURS = 6 * 3600.0
ONE_BY_ONE = {"rate": {"batch_size": 1, "concurrency": 1}}


class Metered(FakeDestination):
    """Destination that takes ``left`` more requests, and asks to wait for hours before any other."""

    left = 1

    async def send(self, batch: Batch) -> Receipts:
        if self.left <= 0:
            return Receipts(Receipt(Outcome.RETRYABLE, "429", "too many requests"), retry_after=HOURS)
        self.left -= 1
        return await super().send(batch)


def metered(world: World, **more: Any) -> World:
    world.destination = Metered(**more)
    world.values = {**ONE_BY_ONE}
    return world


def a_new_day(world: World) -> None:
    """Let the time pass that the destination asked for, and forget what was sent before."""
    world.clock.advance(HOURS)
    world.sent()
    assert isinstance(world.destination, Metered)
    world.destination.left = 1000


async def waiting(world: World, model: list[dict[str, Any]], run_id: str) -> Wait:
    wait = await world.attempt(model, run_id=run_id)
    assert isinstance(wait, Wait)
    return wait


@on_every_store
async def test_a_pause_of_hours_ends_the_step_and_the_same_call_sends_the_rest(world: World) -> None:
    metered(world)
    before = world.clock.now()
    wait = await waiting(world, rows(a=1, b=1, c=1), "r")
    assert before < wait.until - timedelta(seconds=HOURS) <= world.clock.now()
    assert (wait.reason, wait.planned) == ("the destination asks to wait 21,600 seconds", True)
    assert world.destination.opened == world.destination.closed
    a_new_day(world)
    report = await world.attempt(rows(changed_meanwhile=1), run_id="r", planned=True)
    assert isinstance(report, RunReport)
    assert (report.planned.added, report.accepted, report.retryable) == (3, 3, 0), "the same plan is resumed"
    assert world.sent() == ["b", "c"]


async def test_a_pause_of_hours_leaves_no_row_in_doubt(world: World) -> None:
    metered(world, capabilities=NOT_IDEMPOTENT)
    world.values |= {"mode": "insert", "failure": {"on_unknown": "fail"}}
    await waiting(world, rows(a=1, b=1, c=1), "r")
    a_new_day(world)
    report = await world.attempt(run_id="r", planned=True)
    assert isinstance(report, RunReport)
    assert (report.accepted, report.unknown) == (3, 0)
    assert not world.destination.table.repeated()


async def test_a_run_in_one_process_waits_by_itself(world: World) -> None:
    metered(world)
    sleep = world.clock.sleep

    async def and_a_new_day(seconds: float) -> None:
        await sleep(seconds)
        if seconds > LONGEST_WAIT:
            a_new_day(world)

    world.clock.sleep = and_a_new_day  # type: ignore[method-assign]
    assert (await world.run(rows(a=1, b=1), run_id="r")).accepted == 2
    assert world.clock.monotonic() > HOURS
    assert world.sent() == ["b"]


async def test_a_minute_is_waited_for_in_mid_load(world: World) -> None:
    world.destination.dials.throttle = 1
    world.destination.dials.retry_after = LONGEST_WAIT
    report = await world.attempt(rows(a=1), run_id="r")
    assert isinstance(report, RunReport)
    assert world.clock.monotonic() >= LONGEST_WAIT


async def test_a_destination_that_asks_to_wait_after_the_last_row_is_not_waited_for(world: World) -> None:
    class Polite(FakeDestination):
        async def send(self, batch: Batch) -> Receipts:
            await super().send(batch)
            return Receipts(retry_after=HOURS)

    world.destination = Polite()
    assert isinstance(await world.attempt(rows(a=1), run_id="r"), RunReport)


@on_every_store
async def test_a_run_that_another_one_took_over_ends_with_the_report_of_that_commit(world: World) -> None:
    metered(world)
    await waiting(world, rows(a=1, b=1, c=1), "first")
    a_new_day(world)
    second = await world.run(run_id="second")
    assert (second.planned.added, second.accepted) == (2, 2)
    assert world.sent() == ["b", "c"]

    first = await world.attempt(rows(only_now=1), run_id="first", planned=True)
    assert isinstance(first, RunReport)
    assert (first.run_id, first.planned.added, first.accepted, first.retryable) == ("first", 3, 1, 2)
    assert world.sent() == [], "it does not plan again"


async def test_in_append_the_run_that_takes_over_sends_the_rest_itself(world: World) -> None:
    metered(world)
    world.values |= {"mode": "append"}
    await waiting(world, rows(a=1, b=1), "first")

    earlier = await waiting(world, rows(c=1), "second")
    assert not earlier.planned, "it waits to send the rows of the first run"
    a_new_day(world)
    assert isinstance(await world.attempt(rows(c=1), run_id="second", planned=earlier.planned), RunReport)
    assert world.sent() == ["b#2", "c#1"]
    first = await world.attempt(run_id="first", planned=True)
    assert isinstance(first, RunReport)
    assert (first.accepted, first.retryable) == (2, 0)
    assert world.sent() == []


async def test_in_append_rows_that_nobody_sends_any_more_are_an_error(world: World) -> None:
    """The sync was changed meanwhile, and its next run has given them up."""
    metered(world)
    world.values |= {"mode": "append"}
    await waiting(world, rows(a=1, b=1), "first")
    a_new_day(world)
    world.values |= {"mapping": {"id": "id"}}
    await world.run(rows(), run_id="second")
    with pytest.raises(RunConflictError, match="1 row of this run not sent"):
        await world.attempt(run_id="first", planned=True)


async def test_a_plan_that_is_gone_without_a_report_is_an_error(world: World) -> None:
    with pytest.raises(RunConflictError, match="the plan of this run does not exist any more"):
        await world.attempt(rows(a=1), run_id="r", planned=True)
    assert world.sent() == []


async def test_a_run_whose_sync_was_changed_meanwhile_plans_again(world: World) -> None:
    metered(world)
    await waiting(world, rows(a=1, b=1), "r")
    a_new_day(world)
    world.values |= {"mapping": {"id": "id"}}
    report = await world.attempt(run_id="r", planned=True)
    assert isinstance(report, RunReport)
    assert set(world.destination.rows) == {"a", "b"}
    assert report.retryable == 0


async def test_a_destination_that_is_down_is_not_waited_for(world: World) -> None:
    world.values = {**ONE_BY_ONE}
    world.destination.dials.unsent = range(1, 1000)
    with pytest.raises(IncompleteLoadError):
        await world.attempt(rows(a=1, b=1, c=1), run_id="r")


async def test_removed_rows_and_shares_wait_in_the_same_way(world: World) -> None:
    metered(world)
    world.values |= {"mode": "mirror", "guards": {"min_rows": 0, "max_removed": "100%"}}
    assert isinstance(world.destination, Metered)
    world.destination.left = 2
    await world.run(rows(a=1, b=1))
    plan = await world.planned(rows(c=1), "r")
    steps = world.steps("r")
    for resumed in (False, True):
        async with steps.lease():
            removed = await steps.remove(plan, world.destination)
        assert (removed.left, bool(removed.waiting)) == ((0, False) if resumed else (2, True))
        a_new_day(world)
    assert REMOVAL in world.store.checkpoints(plan)

    world.destination.left = 0
    async with steps.lease():
        found = await steps.plan_or_report()
        assert isinstance(found, Plan)
        assert (await steps.load(found, world.destination)).waiting
