"""Runs whose destination, or whose sync, allows so many requests a day."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.ports import Capabilities, Support
from tests.sync.world import World, rows

FIVE = rows(a=1, b=1, c=1, d=1, e=1)
TWO_A_DAY = {"requests_per_day": 2, "batch_size": 1, "concurrency": 1}


def unsafe() -> Capabilities:
    """Return the powers of a destination whose inserts must not be sent twice."""
    return Capabilities({operation: Support(idempotent=False, answers="row", max_rows=100) for operation in Operation})


async def test_a_run_that_has_used_up_the_day_succeeds_and_the_next_one_sends_the_rest(world: World) -> None:
    report = await world.run(FIVE, rate=TWO_A_DAY)
    assert (report.accepted, report.retryable) == (2, 3)
    assert [(reason["code"], reason["count"]) for reason in report.reasons] == [("daily_limit", 3)]
    report = await world.run(FIVE, rate=TWO_A_DAY)
    assert (report.accepted, report.retryable) == (2, 1)
    assert (await world.run(FIVE, rate=TWO_A_DAY)).accepted == 1
    assert sorted(world.destination.rows) == ["a", "b", "c", "d", "e"]
    assert not list(world.destination.table.repeated())


@pytest.mark.parametrize("values", [{"mode": "append"}, {"mode": "insert"}], ids=str)
async def test_a_plan_whose_rows_must_not_be_planned_again_stays_open(world: World, values: dict[str, Any]) -> None:
    world.destination.capabilities = unsafe()
    world.values = {**values, "rate": TWO_A_DAY}
    first = await world.run(FIVE, run_id="1")
    assert (first.accepted, first.retryable) == (2, 3)
    # The next run sends rows of the first one until its own day is used up, and plans nothing.
    second = await world.run(rows(z=1), run_id="2")
    assert (second.run_id, second.accepted, second.retryable) == ("1", 4, 1)
    third = await world.run(rows(z=1), run_id="3")
    assert (third.run_id, third.accepted, third.retryable) == ("3", 1, 0)
    # In mode append, a key names its run's row, too.
    assert sorted(key[0] for key in world.destination.rows) == ["a", "b", "c", "d", "e", "z"]
    assert not list(world.destination.table.repeated())


async def test_the_destination_may_say_that_the_day_is_used_up(world: World) -> None:
    world.destination.dials.left_today = 2
    report = await world.run(FIVE, rate={"batch_size": 1, "concurrency": 1})
    assert (report.accepted, report.retryable) == (2, 3)
    assert [reason["code"] for reason in report.reasons] == ["daily_limit"]
