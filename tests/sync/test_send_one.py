"""A run of one row: it is a run like any other, and the next run sends the others."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reverse_etl.errors import ConfigurationError, FailurePolicyError, GuardError
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.context import RunOptions
from airflow_reverse_etl.sync.run import run_sync, send_one
from airflow_reverse_etl.testing import Dials
from airflow_reverse_etl.testing.model_rows import name_of_record
from tests.stores.every import EVERY_STORE
from tests.sync.world import World, on_every_store, rows


async def sent_one(world: World, key: str, run_id: str = "one") -> RunReport:
    return await send_one(world.sync(), world.source, world.destination, world.context(run_id), key=key)


@on_every_store
@pytest.mark.parametrize("key", ["a", "b", "c", "d"])
async def test_one_row_of_any_kind_is_sent_and_the_next_run_sends_the_rest(world: World, key: str) -> None:
    world.values = {"mode": "mirror", "guards": {"max_removed": "100%"}}
    await world.run(rows(a=1, b=1))
    world.sent()
    world.build(rows(b=2, c=1, d=1))  # a is removed
    report = await sent_one(world, key)
    assert (report.planned.total, report.accepted, report.retryable) == (4, 1, 3)
    assert world.sent() == [key]
    assert not world.store.unfinished("contacts")
    rest = await world.run()
    assert rest.accepted == 3
    assert world.held == {"b": 2, "c": 1, "d": 1}


async def test_a_row_that_is_not_in_the_plan_leaves_no_plan_behind(world: World) -> None:
    world.build(rows(a=1))
    with pytest.raises(ConfigurationError, match="does not send a row with this key"):
        await sent_one(world, "b")
    assert not world.store.unfinished("contacts")
    assert (await world.run()).accepted == 1


async def test_the_guards_are_those_of_the_whole_plan(world: World) -> None:
    world.values = {"guards": {"max_changes": 1}}
    world.build(rows(a=1, b=1))
    with pytest.raises(GuardError):
        await sent_one(world, "a")
    assert world.sent() == []


async def test_a_rejected_row_fails_and_is_among_the_rejections(world: World) -> None:
    world.values = {"failure": {"max_rejected": 0}}
    world.destination.dials = Dials(reject={"a"})
    world.build(rows(a=1, b=1))
    with pytest.raises(FailurePolicyError) as caught:
        await sent_one(world, "a")
    assert caught.value.report is not None
    assert (caught.value.report.rejected, caught.value.report.retryable) == (1, 1)
    world.revived()
    assert (await world.run()).accepted == 2


@pytest.mark.parametrize("values", [{"mode": "append"}, {"track": "none"}])
async def test_a_sync_without_a_record_would_lose_the_other_rows(world: World, values: dict[str, str]) -> None:
    world.values = dict(values)
    world.build(rows(a=1, b=1))
    with pytest.raises(ConfigurationError, match="keeps no record"):
        await sent_one(world, "a")
    assert world.sent() == []


async def sent_some(world: World, *keys: str, run_id: str = "some") -> RunReport:
    options = RunOptions(records=frozenset(map(name_of_record, keys)))
    return await run_sync(world.sync(), world.source, world.destination, world.context(run_id), options)


@on_every_store
async def test_a_run_limited_to_records_sends_them_and_the_next_run_the_rest(world: World) -> None:
    world.build(rows(a=1, b=1, c=1, d=1))
    report = await sent_some(world, "d", "b")
    assert (report.planned.total, report.accepted, report.retryable) == (4, 2, 2)
    assert world.sent() == ["b", "d"]
    assert not world.store.unfinished("contacts")
    again = await sent_some(world, "d", "b")  # a task that is tried again after its commit
    assert (again.accepted, world.sent()) == (0, [])
    assert (await world.run()).accepted == 2
    assert world.held == {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.mark.parametrize("store", EVERY_STORE[1:], indirect=True)
async def test_the_list_of_rejected_rows_has_the_names(world: World) -> None:
    world.destination.dials = Dials(reject={"b"})
    await world.run(rows(a=1, b=1, c=1))
    world.revived()
    store: Any = world.store
    assert [row.record for row in store.rejections("contacts")] == [name_of_record("b")]
    world.build(rows(b=1, c=2))
    assert (await sent_some(world, "b")).accepted == 1
    assert world.sent() == ["b"]


async def test_one_unknown_record_stops_the_run_before_anything_is_sent(world: World) -> None:
    world.build(rows(a=1, b=1))
    with pytest.raises(ConfigurationError, match="does not send 1 of the 2 records") as caught:
        await sent_some(world, "a", "z")
    assert name_of_record("z") in str(caught.value)
    assert world.sent() == []
    assert not world.store.unfinished("contacts")


async def test_records_of_a_sync_without_a_record_are_refused(world: World) -> None:
    world.values = {"mode": "append"}
    world.build(rows(a=1))
    with pytest.raises(ConfigurationError, match="keeps no record"):
        await sent_some(world, "a")
