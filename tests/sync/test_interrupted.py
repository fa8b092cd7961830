"""Interrupted steps that are repeated: no row is lost, wrongly counts as sent, or is sent twice without a report."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from airflow_reverse_etl.errors import AttentionError, FailurePolicyError, IncompleteLoadError, RunConflictError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.stores.warehouse.schema import prefix
from airflow_reverse_etl.sync import run as module
from airflow_reverse_etl.sync.ports import Capabilities, StateStore, Support
from airflow_reverse_etl.testing import CrashError, Dials, FakeDestination
from tests.stores.every import lose_snapshot
from tests.stores.warehouses import CopyingStore, copying_store
from tests.sync.world import NOT_IDEMPOTENT, World, many, on_every_store, rows

ONE = {"batch_size": 1, "concurrency": 1}


@pytest.fixture
def world(world: World) -> World:
    """Whose destination must not be sent a row twice."""
    world.destination = FakeDestination(capabilities=NOT_IDEMPOTENT)
    world.values = {"rate": ONE}
    return world


# -- rows in doubt --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", ["r", "next"], ids=["the next try", "the next run"])
@pytest.mark.parametrize("on_unknown", ["accept", "fail"])
async def test_a_row_that_was_refused_is_not_in_doubt_because_a_later_answer_was_lost(
    world: World, on_unknown: str, run_id: str
) -> None:
    world.values |= {"mode": "insert", "failure": {"on_unknown": on_unknown, "max_rejected": "100%"}}
    world.destination.dials = Dials(unsent=range(1, 6), lose_answer={6})  # no connection for a; then b's answer
    with pytest.raises(IncompleteLoadError) as caught:
        await world.run(rows(a=1, b=1), run_id="r")
    assert caught.value.report is not None
    assert (caught.value.report.retryable, caught.value.report.unknown) == (1, 1)
    world.revived()
    if on_unknown == "fail" and run_id == "r":
        with pytest.raises(FailurePolicyError):
            await world.run(run_id=run_id)
    else:
        await world.run(run_id=run_id)
    assert "a" in world.sent()


@pytest.mark.parametrize("on_unknown", ["accept", "fail", "resend"])
async def test_rows_of_a_share_that_never_began_are_not_in_doubt_because_of_another_share(
    world: World, on_unknown: str
) -> None:
    world.values |= {"mode": "append", "failure": {"on_unknown": on_unknown, "max_rejected": "100%"}}
    plan = await world.planned(many(10), "A")
    world.destination.dials.crash = {1}
    with pytest.raises(CrashError):
        await world.loaded(plan, 1, 2)
    world.revived()
    await world.run(rows(z=1), run_id="B")
    assert {f"k{at:02}#{at}" for at in range(1, 6)} <= set(world.held)
    assert world.report("A").unknown == 5


@pytest.mark.parametrize("on_unknown", ["accept", "fail"])
async def test_a_plan_that_the_next_try_partitions_differently_has_the_same_rows_in_doubt(
    world: World, on_unknown: str
) -> None:
    world.values |= {"mode": "insert", "failure": {"on_unknown": on_unknown, "max_rejected": "100%"}}
    plan = await world.planned(many(10), "A")
    world.destination.dials.crash = {1}
    with pytest.raises(CrashError):
        await world.loaded(plan, 1, 2)
    world.revived()
    await world.loaded(plan, 0, 1)
    assert world.sent() == [f"k{at:02}" for at in range(1, 6)]


@on_every_store
async def test_rows_below_those_that_another_share_announced_are_announced_as_well(world: World) -> None:
    world.values |= {"mode": "insert"}
    plan = await world.planned(many(10), "A")
    for partition, partitions, request in ((1, 2, 1), (0, 1, 3)):
        world.destination.dials.crash = {request}
        with pytest.raises(CrashError):
            await world.loaded(plan, partition, partitions)
        world.revived()
    await world.run(run_id="next")
    twice = {key for _, key in world.destination.table.repeated()}
    assert 0 < len(twice) <= world.report("A").unknown


@pytest.mark.parametrize("on_unknown", ["accept", "fail"])
async def test_upserts_that_may_not_be_repeated_are_not_announced_with_deletes_that_may(
    world: World, on_unknown: str
) -> None:
    promises = {
        operation: Support(idempotent=operation is Operation.DELETE, answers="row", max_rows=9)
        for operation in Operation
    }
    deletes = Capabilities(promises)
    world.destination = FakeDestination(capabilities=deletes)
    world.values |= {"mode": "mirror", "guards": {"max_removed": "100%"}}
    world.values |= {"failure": {"on_unknown": on_unknown, "max_rejected": "100%"}}
    await world.run(many(30))
    world.revived()
    world.destination.dials.crash = {1}
    with pytest.raises(CrashError):
        await world.run([{"id": "k01", "n": 2}], run_id="r")
    world.revived()
    assert (await world.run(run_id="r")).unknown == 0
    assert list(world.held) == ["k01"]


@pytest.mark.parametrize("on_unknown", ["accept", "fail", "resend"])
async def test_a_killed_load_that_is_marked_as_success_has_its_rows_in_doubt_reported(
    world: World, on_unknown: str
) -> None:
    world.values |= {"mode": "insert", "failure": {"on_unknown": on_unknown, "max_rejected": "100%"}}
    plan = await world.planned(rows(a=1), "A")
    world.destination.dials.crash = {1}
    with pytest.raises(CrashError):
        await world.loaded(plan, 0, 1)
    world.revived()
    steps = world.steps("A")
    async with steps.lease():
        report = await steps.commit(plan, world.destination)
    assert (report.unknown, report.retryable) == (1, 0)
    await world.run(run_id="next")
    assert len(world.sent()) == (on_unknown == "resend")


# -- repeated steps --------------------------------------------------------------------------------------------------


@on_every_store
@pytest.mark.parametrize(
    "values",
    [
        {"mode": "append", "failure": {"max_rejected": 0}},
        {"mode": "insert", "failure": {"max_rejected": "100%", "on_unknown": "fail"}},
        {"mode": "insert", "failure": {"max_rejected": 0}, "retry": {"max_attempts": 1}},
    ],
    ids=["append", "answer lost", "rejected"],
)
async def test_a_commit_that_is_repeated_has_the_same_end(
    world: World, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.values |= values
    if "on_unknown" in values["failure"]:
        world.destination.dials.lose_answer = {1}
    else:
        world.destination.dials.reject = {"a#1", "a"}
    await world.killed_in_commit(monkeypatch, lambda: world.run(rows(a=1, b=1), run_id="r"))
    world.revived()
    with pytest.raises(FailurePolicyError) as caught:
        await world.run(run_id="r")
    assert caught.value.report is not None
    assert (caught.value.report.accepted, world.sent()) == (1, [])


@pytest.mark.parametrize("values", [{"mode": "append"}, {"track": "none"}], ids=["append", "nothing tracked"])
async def test_rows_left_by_a_sync_without_tracking_fail_the_task(world: World, values: dict[str, Any]) -> None:
    """The sync is changed between two tries, so no try sends the remaining rows of the first."""
    world.values |= values
    world.destination.dials.unsent = range(2, 100)
    with pytest.raises(IncompleteLoadError):
        await world.run(rows(a=1, b=1, c=1), run_id="r")
    world.revived()
    with pytest.raises(RunConflictError, match="2 rows of this run not sent"):
        await world.run(run_id="r", mapping={"id": "id", "n": "n", "m": {"value": 1}})


@on_every_store
@pytest.mark.parametrize("cut_short", [True, False], ids=["during its commit", "after it"])
async def test_a_full_resync_is_not_repeated_where_that_is_not_safe(
    world: World, cut_short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.values |= {"mode": "insert"}
    await world.run(rows(a=1, b=1))
    world.sent()
    if cut_short:
        await world.killed_in_commit(monkeypatch, lambda: world.run(run_id="r", full_resync=True))
    else:
        await world.run(run_id="r", full_resync=True)
    assert world.sent() == ["a", "b"]
    await world.run(run_id="r", full_resync=True)
    assert world.sent() == []


async def test_a_plan_that_is_rejected_after_its_commit_was_interrupted_is_committed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.destination.dials.reject = {"c"}
    await world.killed_in_commit(monkeypatch, lambda: world.run(rows(a=1, b=1, c=1), run_id="r"))
    steps = world.steps("r")
    async with steps.lease():
        await steps.reject(world.destination)
    report = world.report("r")
    assert (report.accepted, report.rejected, report.retryable) == (2, 1, 0)


def without_snapshot(store: StateStore) -> StateStore:
    """Delete what the last commit left, as a person could; return the store as the next process opens it."""
    if not isinstance(store, CopyingStore):
        lose_snapshot(store, "contacts")
        return store
    for kind in ("snapshot", "state"):
        store.place.run(f"drop table reverse_etl.{prefix('contacts')}_{kind}")
    return copying_store(store.place)


# -- plans that no run resumes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["reset", "full_resync"])
async def test_a_killed_preview_is_discarded(world: World, option: str) -> None:
    world.values |= {"mode": "insert"}
    await world.run(rows(a=1))
    world.sent()
    steps, request = world.steps("look"), world.request(rows(a=1, b=1), "look", **{option: True})
    async with steps.lease():
        assert (await steps.preview(request, world.warehouse, world.destination)).run_id == "look"
    world.clock.advance(1)
    await world.run(run_id="next")
    assert world.sent() == ["b"]
    assert world.store.last_report("contacts", "look") is None


@pytest.mark.parametrize("store", ["lake", "tables in duckdb"], indirect=True)
async def test_a_run_whose_snapshot_is_lost_does_not_block_the_next(world: World) -> None:
    await world.run(rows(a=1), run_id="first")
    world.destination.dials.unsent = range(3, 100)
    with pytest.raises(IncompleteLoadError):
        await world.run(rows(a=1, b=1, c=1), run_id="second")
    world.revived()
    world.store = without_snapshot(world.store)
    world.clock.advance(86400)
    with pytest.raises(AttentionError, match="the record of what was delivered is lost"):
        await world.run(run_id="third")
    assert world.observer.named("discarded")
    await world.run(run_id="third", full_resync=True)
    assert world.sent() == ["a", "b", "c"]


async def test_a_lifted_guard_is_lifted_for_the_plan_of_that_run_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that an earlier run left unsent is not sent with it."""
    world.values |= {"mode": "append", "guards": {"max_changes": 5}}
    with monkeypatch.context() as patch:
        patch.setattr(module, "check_guards", Mock(side_effect=CrashError("killed")))
        with pytest.raises(CrashError):
            await world.run([{"id": f"x{at}", "n": 1} for at in range(10)], run_id="killed")
    world.revived()
    world.clock.advance(86400)
    await world.run(many(7), run_id="lifted", lift_guards=["max_changes"])
    assert {key.partition("#")[0] for key in world.sent()} == {row["id"] for row in many(7)}


async def test_an_unchecked_plan_is_checked_by_the_guards_of_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.values |= {"initial": "baseline", "guards": {"min_rows": 5}}
    with monkeypatch.context() as patch:
        patch.setattr(module, "check_guards", Mock(side_effect=CrashError("killed")))
        with pytest.raises(CrashError):
            await world.run(many(1), run_id="half a model")
    await world.run(many(10), run_id="next")
    assert world.sent() == []
