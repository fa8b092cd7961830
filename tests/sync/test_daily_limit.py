"""Runs whose destination, or whose sync, allows so many requests a day."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.errors import IncompleteLoadError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.rate_budget import FileBudget
from airflow_reverse_etl.sync.load.daily_limit import DailyLimit
from airflow_reverse_etl.sync.ports import Capabilities, ConnectionInfo, DailyLimitError, Support, usual
from airflow_reverse_etl.testing import FrozenClock
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
    assert report.to_json()["attention"] == ["daily_limit"]
    report = await world.run(FIVE, rate=TWO_A_DAY)
    assert (report.accepted, report.retryable) == (2, 1)
    report = await world.run(FIVE, rate=TWO_A_DAY)
    assert (report.accepted, report.attention) == (1, ())
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


@pytest.mark.parametrize("type_", ["table", "file"])
async def test_a_table_and_files_may_have_a_daily_limit_too(world: World, tmp_path: Path, type_: str) -> None:
    """They let the limiter's error pass: the load leaves the rows, as with any other destination."""
    database = tmp_path / "crm.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("create table contacts (id text primary key, n int)")
    destination = {
        "table": {"type": "table", "connection": "crm", "object": "contacts", "match_on": "id"},
        "file": {"type": "file", "url": tmp_path.as_uri(), "format": "jsonl"},
    }
    world.values = {"destination": destination[type_], "rate": TWO_A_DAY}
    crm = ConnectionInfo("crm", "sqlite") if type_ == "table" else None
    world.killed = lambda: False  # type: ignore[method-assign]
    made: Any = create(world.sync(), connection=crm, connect=lambda: sqlite3.connect(database))
    world.destination = made
    report = await world.run(FIVE)
    assert (report.accepted, report.retryable, report.unknown) == (2, 3, 0)
    assert report.attention == ("daily_limit",)
    assert (await world.run(FIVE)).accepted == 2


async def test_a_new_content_is_not_shown_on_a_day_that_is_used_up(world: World) -> None:
    world.values = {"mode": "replace", "guards": {"min_rows": 0, "max_removed": "100%"}, "failure": {}}
    await world.run(rows(old=1))
    with pytest.raises(IncompleteLoadError, match="daily limit"):
        await world.run(FIVE, rate={"batch_size": 5, "requests_per_day": 1})
    assert sorted(world.destination.rows) == ["old"]


def limited(**limits: Any) -> Capabilities:
    """Return the powers of a destination with a daily limit of its own."""
    return replace(Capabilities(usual(1)), concurrency=1, **limits)


async def test_a_destination_has_a_daily_limit_of_its_own(world: World) -> None:
    world.destination.capabilities = limited(requests_per_day=3)
    own = {"batch_size": 1, "concurrency": 1}
    assert (await world.run(FIVE, rate=own)).accepted == 3
    assert (await world.run(FIVE, rate={**own, "requests_per_day": 1})).accepted == 1


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("now", "midnight"),
    [
        ("2026-01-15T20:00:00+00:00", "2026-01-16T08:00:00+00:00"),
        # The clocks of Los Angeles are put forward on 8 March at 10:00 UTC, and back on 1 November at 9:00 UTC.
        ("2026-03-08T09:00:00+00:00", "2026-03-09T07:00:00+00:00"),
        ("2026-11-01T08:00:00+00:00", "2026-11-02T08:00:00+00:00"),
    ],
)
async def test_a_day_may_begin_at_midnight_of_a_time_zone(
    now: str, midnight: str, shared: bool, tmp_path: Path
) -> None:
    clock = FrozenClock(datetime.fromisoformat(now))
    budget = FileBudget(StateFiles(str(tmp_path))) if shared else None

    def load() -> DailyLimit:
        return DailyLimit(2, clock, budget, "crm", reset="America/Los_Angeles")

    today = load()
    for _ in range(2):
        await today.take()
    with pytest.raises(DailyLimitError) as caught:
        await today.take()
    assert caught.value.until == datetime.fromisoformat(midnight)
    # A minute before midnight another load gets none, a minute later it gets all.
    if shared:
        await clock.sleep((caught.value.until - clock.now()).total_seconds() - 60)
        with pytest.raises(DailyLimitError):
            await load().take()
        await clock.sleep(120)
    tomorrow = load()
    for _ in range(2):
        await tomorrow.take()
