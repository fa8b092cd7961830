"""Removed rows: a task of their own sends them before the shares of the other rows, and none is sent a day later."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from airflow_reverse_etl.errors import AttentionError, ConfigurationError, IncompleteLoadError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Outcome
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING
from airflow_reverse_etl.sync.load.share import Share
from airflow_reverse_etl.sync.ports import EARLIER_KINDS, Plan
from airflow_reverse_etl.sync.progress import Checkpoint
from tests.sync.world import World, many, on_every_store, rows

DAY = DEFAULT_TIMING.removal_age.total_seconds()


@pytest.fixture
def mirror(world: World) -> World:
    world.values = {"mode": "mirror", "guards": {"min_rows": 0, "max_removed": "100%"}}
    return world


async def removed(world: World, plan: Plan) -> Checkpoint:
    steps = world.steps(plan.run_id)
    async with steps.lease():
        return (await steps.remove(plan, world.destination)).checkpoint


async def committed(world: World, plan: Plan) -> int:
    """Commit a plan; return its number of retryable rows."""
    steps = world.steps(plan.run_id)
    async with steps.lease():
        await steps.check_removed(plan)
        return (await steps.commit(plan, world.destination)).retryable


async def loaded_after_the_removed_rows(world: World, plan: Plan, partitions: int) -> None:
    for partition in range(partitions):
        steps = world.steps(plan.run_id)
        async with steps.lease():
            share = Share.of(plan, partition, partitions, after=plan.removed_first)
            await steps.load(plan, world.destination, share)


@on_every_store
async def test_removed_rows_are_a_share_of_their_own_before_the_others(mirror: World) -> None:
    await mirror.run(rows(a=1, b=1, c=1))
    mirror.destination.batches.clear()
    plan = await mirror.planned(rows(c=2, d=1, e=1), "mapped")
    assert (await removed(mirror, plan)).count(Outcome.ACCEPTED) == 2
    assert mirror.held == {"c": 1}
    await loaded_after_the_removed_rows(mirror, plan, 2)
    assert await committed(mirror, plan) == 0
    assert [batch.operation for batch in mirror.destination.batches] == [
        Operation.DELETE,
        *[Operation.UPSERT] * (len(mirror.destination.batches) - 1),
    ]
    assert mirror.held == {"c": 2, "d": 1, "e": 1}
    assert (await mirror.run()).planned.total == 0


async def test_a_delete_that_gets_no_answer_holds_back_nobody_and_is_planned_again(mirror: World) -> None:
    await mirror.run(rows(a=1, b=1))
    mirror.sent()
    plan = await mirror.planned(rows(b=1, c=1), "mapped")
    mirror.destination.dials.unsent = range(1, 6)
    assert (await removed(mirror, plan)).counted_reasons()[0]["code"] == "not_connected"
    assert mirror.sent() == ["a"] * 5
    mirror.destination.dials.unsent = ()
    await loaded_after_the_removed_rows(mirror, plan, 1)
    assert mirror.sent() == ["c"]
    assert await committed(mirror, plan) == 1
    assert (await mirror.run()).planned.removed == 1
    assert mirror.held == {"b": 1, "c": 1}


async def test_removed_rows_that_were_not_tried_are_not_answered(mirror: World) -> None:
    """The destination is down: the task fails, and its next try sends all of them."""
    await mirror.run(many(20))
    mirror.sent()
    plan = await mirror.planned([], "mapped")
    mirror.destination.dials.unsent = range(1, 1000)
    with pytest.raises(IncompleteLoadError, match="20 of 20 rows could not be sent yet"):
        await removed(mirror, plan)
    assert len(set(mirror.sent())) < 20
    mirror.revived()
    assert (await removed(mirror, plan)).count(Outcome.ACCEPTED) == 20


async def test_other_rows_wait_for_a_task_that_removes(mirror: World) -> None:
    await mirror.run(rows(a=1))
    plan = await mirror.planned(rows(b=1), "mapped")
    with pytest.raises(ConfigurationError, match="no task has sent the 1 removed rows"):
        await committed(mirror, plan)
    await removed(mirror, plan)
    assert await committed(mirror, plan) == 1


async def test_a_plan_of_an_earlier_version_has_no_removed_rows_of_their_own(mirror: World) -> None:
    await mirror.run(rows(a=1))
    mirror.sent()
    plan = replace(await mirror.planned(rows(b=1, c=1), "mapped"), kinds=EARLIER_KINDS)
    assert plan.removed_first == 0
    await removed(mirror, plan)
    assert mirror.sent() == []
    assert [Share.of(plan, at, 2, after=plan.removed_first) for at in (0, 1)] == [Share(0, 0, 1), Share(1, 1, 3)]


@pytest.mark.parametrize(("partitions", "after"), [(1, 0), (3, 0), (3, 4), (7, 4), (2, 10)])
async def test_shares_cover_each_row_after_the_first_once(world: World, partitions: int, after: int) -> None:
    plan = await world.planned(many(10), "A")
    shares = [Share.of(plan, at, partitions, after=after) for at in range(partitions)]
    assert [row for share in shares for row in range(share.after + 1, share.until + 1)] == [*range(after + 1, 11)]


async def test_a_task_removes_nothing_of_a_plan_older_than_a_day(mirror: World) -> None:
    await mirror.run(rows(a=1))
    mirror.sent()
    plan = await mirror.planned([], "mapped")
    mirror.clock.advance(DAY + 1)
    with pytest.raises(AttentionError, match="the plan is older than a day, and would remove 1 row") as error:
        await removed(mirror, plan)
    assert error.value.todo == "clear the group to plan again"
    assert not error.value.retry
    assert mirror.sent() == []


@on_every_store
@pytest.mark.parametrize(
    ("age", "run_id", "sent"),
    [(DAY, "A", ["a"]), (DAY + 1, "A", []), (DAY + 1, "B", [])],
    ids=["of today", "own", "of another run"],
)
async def test_a_plan_older_than_a_day_removes_nothing_that_came_back(
    mirror: World, age: float, run_id: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror.clock, "sleep", asyncio.sleep)  # the lease's own sleeps do not move the clock
    await mirror.run(rows(a=1))
    mirror.sent()
    await mirror.planned([], "A")
    mirror.clock.advance(age)
    await mirror.run(rows(a=1), run_id=run_id)
    assert mirror.sent() == sent
    assert not mirror.store.unfinished("contacts")


async def test_what_was_sent_of_a_plan_older_than_a_day_is_kept(mirror: World) -> None:
    mirror.values["rate"] = {"batch_size": 1, "concurrency": 1}
    await mirror.run(rows(a=1, b=1, c=1))
    mirror.sent()
    mirror.destination.dials.unsent = range(2, 1000)
    with pytest.raises(IncompleteLoadError):
        await mirror.run(rows(c=1), run_id="A")
    mirror.revived()
    mirror.clock.advance(DAY + 1)
    report = await mirror.run(rows(b=1, c=1), run_id="A")
    assert (report.planned.total, mirror.sent()) == (0, [])
    assert mirror.held == {"b": 1, "c": 1}


async def test_a_plan_without_removals_is_resumed_at_any_age(world: World) -> None:
    plan = await world.planned(rows(a=1), "A")
    world.clock.advance(10 * DAY)
    await world.run(rows(a=2), run_id="A")
    assert (plan.planned.removed, world.held) == (0, {"a": 1})
