"""Whole runs of the engine: its promises when everything works, and when anything fails at any point."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.errors import (
    CredentialsError,
    FailurePolicyError,
    GuardError,
    IncompleteLoadError,
    UnreachableError,
)
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Receipts
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.stores.lake.delta import DeltaFile
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.load.share import Share
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.testing import (
    CrashError,
    Dials,
    FakeDestination,
    FrozenClock,
)
from tests.property import examples
from tests.sync.world import NOT_IDEMPOTENT, World, on_every_store, rows

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_reverse_etl.sync.progress import Checkpoint


async def test_only_what_changed_is_sent(world: World) -> None:
    first = await world.run(rows(a=1, b=1, c=1))
    assert (first.planned, first.accepted, first.requests) == (Planned(added=3), 3, 2)
    assert world.sent() == ["a", "b", "c"]
    second = await world.run(rows(a=1, b=2, d=1))
    assert (second.planned, second.accepted) == (Planned(added=1, changed=1), 2)
    assert world.sent() == ["b", "d"]
    third = await world.run()
    assert (third.planned.total, third.requests) == (0, 0)
    assert world.held == {"a": 1, "b": 2, "c": 1, "d": 1}


async def test_mirror_deletes_what_was_removed_and_nothing_that_it_did_not_send(world: World) -> None:
    world.values = {"mode": "mirror"}
    world.destination.rows["theirs"] = {"id": "theirs", "n": 7}
    await world.run(rows(a=1, b=1))
    report = await world.run(rows(a=1))
    assert report.planned == Planned(removed=1)
    assert world.destination.batches[-1].operation is Operation.DELETE
    assert world.destination.batches[-1].records == [{"id": "b"}]
    assert world.held == {"theirs": 7, "a": 1}


@pytest.mark.parametrize(
    ("mode", "second"),
    [("insert", ["c"]), ("update", ["b", "c"]), ("append", ["a", "b", "c"]), ("delete", ["c"])],
)
async def test_modes_send_their_part_of_the_change_set(world: World, mode: str, second: list[str]) -> None:
    world.values = {"mode": mode}
    world.destination.rows.update({key: {"id": key, "n": 0} for key in "abc"})
    await world.run(rows(a=1, b=1))
    world.sent()
    await world.run(rows(a=1, b=2, c=1))
    assert [key.partition("#")[0] for key in world.sent()] == second
    if mode == "delete":
        assert world.held == {}


async def test_null_and_duplicate_keys_are_counted_and_never_sent(world: World) -> None:
    model = [*rows(a=1, b=1), {"id": "b", "n": 2}, {"id": None, "n": 3}]
    report = await world.run(model)
    assert report.planned == Planned(added=1, invalid=3)
    assert world.sent() == ["a"]


async def test_a_rejected_row_is_retried_by_the_next_run_with_its_newest_value(world: World) -> None:
    await world.run(rows(a=1, b=1))
    world.destination.dials.reject = {"b"}
    report = await world.run(rows(a=2, b=2))
    assert (report.accepted, report.rejected) == (1, 1)
    reason = {"code": "rejected", "count": 1, "message": "the row is not acceptable", "host": "", "status": None}
    assert report.reasons == (reason,)
    world.sent()
    world.destination.dials.reject = ()
    report = await world.run(rows(a=2, b=3))
    assert (report.planned, world.sent(), world.held) == (Planned(changed=1), ["b"], {"a": 2, "b": 3})


async def test_a_row_that_goes_back_to_what_was_delivered_needs_no_sending(world: World) -> None:
    await world.run(rows(a=1))
    world.destination.dials.reject = {"a"}
    await world.run(rows(a=2))
    report = await world.run(rows(a=1))
    assert report.planned.total == 0


async def test_a_row_rejected_too_often_is_skipped_until_it_changes(world: World) -> None:
    world.values = {"retry": {"max_attempts": 2}}
    world.destination.dials.reject = {"a"}
    for expected in (["a"], ["a"], []):
        report = await world.run(rows(a=1))
        assert world.sent() == expected
    assert (report.planned.total, report.skipped) == (0, 1)
    await world.run(rows(a=2))
    assert world.sent() == ["a"]


async def test_a_row_rejected_for_too_long_is_skipped(world: World) -> None:
    world.values = {"retry": {"max_age": "2d", "max_attempts": 100}}
    world.destination.dials.reject = {"a"}
    await world.run(rows(a=1))
    world.clock.advance(86_400)
    assert (await world.run()).rejected == 1
    world.clock.advance(2 * 86_400)
    assert (await world.run()).skipped == 1


async def test_a_batch_refused_as_a_whole_is_split_until_the_bad_row_is_found(world: World) -> None:
    world.destination.dials.refuse = {"k13"}
    model = [{"id": f"k{at}", "n": at} for at in range(64)]
    report = await world.run(model, rate={"batch_size": 64})
    assert (report.accepted, report.rejected) == (63, 1)
    assert report.requests <= 2 * 6 + 1, "halving, not one by one"


async def test_a_throttled_destination_is_left_alone_for_as_long_as_it_asks(world: World) -> None:
    world.destination.dials.throttle = 7
    world.destination.dials.retry_after = 30.0
    report = await world.run(rows(a=1, b=1, c=1))
    assert report.accepted == 3
    assert world.clock.monotonic() >= 7 / 2 * 30 - 30, "throttled requests do not use up the attempts"


async def test_a_destination_that_does_not_say_how_long_is_left_alone_for_ten_seconds_or_more(world: World) -> None:
    world.destination.dials.throttle = 4
    world.destination.dials.retry_after = None
    report = await world.run(rows(a=1, b=1, c=1), rate={"batch_size": 1})
    assert report.accepted == 3
    assert report.requests == 7
    assert world.clock.monotonic() >= 10


@on_every_store
async def test_rows_that_could_not_be_sent_go_out_with_the_next_try_and_no_others(world: World) -> None:
    world.destination.dials.unsent = range(2, 1000)
    world.values = {"rate": {"batch_size": 1, "concurrency": 1}}
    with pytest.raises(IncompleteLoadError) as error:
        await world.run(rows(a=1, b=1, c=1, d=1, e=1, f=1, g=1), run_id="r")
    assert error.value.report is not None
    assert (error.value.report.accepted, error.value.report.retryable) == (1, 6)
    assert len(world.destination.batches) <= 1 + 3 * 5, "it stops when nothing gets through any more"
    world.sent()
    world.destination.dials.unsent = ()
    report = await world.run(rows(changed_meanwhile=1), run_id="r")
    assert (report.planned.added, report.accepted) == (7, 7), "the same plan is resumed"
    assert len(world.sent()) == 6


async def test_an_unfinished_run_is_folded_in_before_the_next_plan(world: World) -> None:
    world.destination.dials.unsent = range(2, 100)
    world.values = {"rate": {"batch_size": 1, "concurrency": 1}}
    with pytest.raises(IncompleteLoadError):
        await world.run(rows(a=1, b=1, c=1))
    world.destination.dials.unsent = ()
    world.sent()
    await world.run(rows(a=1, b=1, c=2))
    assert (world.sent(), world.held) == (["b", "c"], {"a": 1, "b": 1, "c": 2})


@on_every_store
@pytest.mark.parametrize("mode", ["upsert", "insert", "update", "mirror", "append", "delete"])
async def test_what_a_killed_load_left_is_sent_by_the_next_run(world: World, mode: str) -> None:
    world.values = {"mode": mode, "rate": {"batch_size": 1, "concurrency": 1}}
    world.destination.rows.update({key: {"id": key, "n": 0} for key in "abc"})
    world.destination.dials.crash = {2}
    with pytest.raises(CrashError):
        await world.run(rows(a=1, b=1, c=1))
    world.revived()
    await world.run()
    held = {key.partition("#")[0]: n for key, n in world.held.items()}
    assert held == ({} if mode == "delete" else {"a": 1, "b": 1, "c": 1})
    assert (await world.run()).planned.total == (3 if mode == "append" else 0)


@on_every_store
async def test_a_row_in_doubt_is_corrected_by_the_next_run_whatever_the_model_has_then(world: World) -> None:
    """It was sent, the process died, and the model went back: the destination may hold the outdated value."""
    world.values = {"mode": "mirror"}
    await world.run(rows(a=1))
    world.destination.dials.crash = {3}
    with pytest.raises(CrashError):
        await world.run(rows(a=2, b=1))
    assert world.held == {"a": 2, "b": 1}
    world.destination.dials.crash = ()
    await world.run(rows(a=1))
    assert world.held == {"a": 1}


async def test_an_interrupted_commit_is_completed_and_never_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run commits it and dies half-way: the next run, or its own retry, only completes that commit."""
    world = World(store=LakeStore(str(tmp_path)))
    world.values = {"mode": "insert", "rate": {"batch_size": 1, "concurrency": 1}}
    world.destination.dials.unsent = range(2, 1000)
    with pytest.raises(IncompleteLoadError):
        await world.run(rows(a=1, b=1, c=1), run_id="one")
    replace, tables = DeltaFile.replace, iter(range(100))

    def dying(self: DeltaFile, *args: Any, **kwargs: Any) -> None:
        if next(tables) == 1:
            raise CrashError("after the snapshot, before the history")
        replace(self, *args, **kwargs)

    monkeypatch.setattr(DeltaFile, "replace", dying)
    with pytest.raises(CrashError):
        await world.run(run_id="two")
    world.destination.dials.unsent = ()
    for run_id in ("one", "three"):
        await world.run(run_id=run_id)
    assert world.held == {"a": 1, "b": 1, "c": 1}
    assert not list(world.destination.table.repeated())


async def test_wrong_credentials_stop_the_load_and_lose_nothing(world: World) -> None:
    class Revoked(FakeDestination):
        async def send(self, batch: Batch) -> Receipts:
            if len(self.batches) == 1:
                raise CredentialsError("401 Unauthorized", connection="crm")
            return await super().send(batch)

    good, world.destination = world.destination, Revoked()
    with pytest.raises(CredentialsError):
        await world.run(rows(a=1, b=1, c=1, d=1, e=1), run_id="r")
    good.table = world.destination.table
    assert len(world.destination.rows) == 2
    world.destination = good
    assert (await world.run(run_id="r")).accepted == 5
    assert len(good.batches) == 2


async def test_a_checkpoint_that_cannot_be_saved_now_is_saved_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, failing = world.store.save_checkpoint, iter(range(2))

    def flaky(plan: Plan, checkpoint: Checkpoint, *, partition: int = 0, try_number: int = 0) -> None:
        if 0 < len(checkpoint.settled) < 50 and next(failing, None) is not None:
            raise UnreachableError("the storage is away", todo="wait")
        save(plan, checkpoint, partition=partition, try_number=try_number)

    monkeypatch.setattr(world.store, "save_checkpoint", flaky)
    world.destination.dials.latency = 0.02
    assert (await world.run([{"id": f"k{at}", "n": 1} for at in range(60)])).accepted == 60
    assert next(failing, None) is None


async def test_a_guard_stops_the_run_before_anything_is_sent(world: World) -> None:
    world.values = {"mode": "mirror", "guards": {"min_rows": 0, "max_removed": "10%"}}
    await world.run(rows(a=1, b=1))
    world.sent()
    with pytest.raises(GuardError):
        await world.run([], run_id="r")
    assert world.sent() == []
    report = await world.run(rows(a=1, b=2), run_id="r")
    assert report.accepted == 1, "the refused plan is forgotten"


async def test_a_mirror_whose_model_lost_most_of_its_rows_deletes_none(world: World) -> None:
    world.values = {"mode": "mirror"}
    model = [{"id": f"k{at}", "n": 1} for at in range(100)]
    await world.run(model)
    world.sent()
    with pytest.raises(GuardError, match="max_removed: 99 rows"):
        await world.run(model[:1])
    assert world.sent() == []
    assert len(world.held) == 100


async def test_a_guard_is_lifted_for_one_run(world: World) -> None:
    world.values = {"mode": "mirror"}
    model = [{"id": f"k{at}", "n": 1} for at in range(100)]
    await world.run(model)
    report = await world.run(model[:60], lift_guards=["max_removed"])
    assert (report.planned.removed, report.accepted) == (40, 40)
    with pytest.raises(GuardError, match="max_removed: 30 rows"):
        await world.run(model[:30])
    assert len(world.held) == 60


async def test_a_run_worse_than_its_policy_fails_but_is_committed(world: World) -> None:
    world.destination.dials.reject = {"b"}
    with pytest.raises(FailurePolicyError) as error:
        await world.run(rows(a=1, b=1), failure={"max_rejected": 0})
    assert error.value.report is not None
    assert error.value.report.accepted == 1
    world.sent()
    world.destination.dials.reject = ()
    await world.run()
    assert world.sent() == ["b"]


async def test_a_committed_append_is_not_repeated_by_a_retry(world: World) -> None:
    world.values = {"mode": "append"}
    first = await world.run(rows(a=1), run_id="r")
    assert await world.run(run_id="r") == first
    assert len(world.destination.table.writes) == 1
    await world.run(run_id="r2")
    assert len(world.destination.table.writes) == 2


async def test_rows_left_by_an_append_are_sent_by_the_next_run(world: World) -> None:
    world.values = {"mode": "append", "rate": {"batch_size": 1, "concurrency": 1}}
    world.destination.dials.unsent = range(2, 100)
    with pytest.raises(IncompleteLoadError):
        await world.run(rows(a=1, b=1))
    world.destination.dials.unsent = ()
    world.sent()
    await world.run(rows(z=1))
    assert world.sent() == ["b#2", "z#1"]


@pytest.mark.parametrize(
    ("on_unknown", "writes", "unknown", "again"), [("resend", 2, 1, 0), ("accept", 1, 1, 0), ("fail", 1, 1, 0)]
)
async def test_a_lost_answer_where_sending_twice_is_not_safe(
    on_unknown: str, writes: int, unknown: int, again: int
) -> None:
    world = World(FakeDestination(Dials(lose_answer={1}), capabilities=NOT_IDEMPOTENT))
    policy = {"max_rejected": "100%", "on_unknown": on_unknown}
    if on_unknown == "fail":
        with pytest.raises(FailurePolicyError, match="answer to 1 row was lost") as error:
            await world.run(rows(a=1), failure=policy)
        report = error.value.report
    else:
        report = await world.run(rows(a=1), failure=policy)
    assert report is not None
    assert (report.unknown, report.accepted) == (unknown, 0)
    assert len(world.destination.table.writes) == writes
    world.sent()
    await world.run(failure={**policy, "on_unknown": "resend"})
    assert len(world.sent()) == again, "it is not sent again by itself"


@pytest.mark.parametrize("cut_short", [False, True], ids=["at once", "by the run after that"])
@pytest.mark.parametrize(("on_unknown", "again"), [("resend", ["a", "b", "c"]), ("accept", []), ("fail", [])])
async def test_rows_in_doubt_of_a_run_that_is_not_resumed_are_reported(
    on_unknown: str, again: list[str], cut_short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent, or announced, and its process died; the next run commits it, or dies in that commit as well."""
    world = World(FakeDestination(capabilities=NOT_IDEMPOTENT))
    world.values = {"mode": "insert", "failure": {"max_rejected": "100%", "on_unknown": on_unknown}}
    world.destination.dials.crash = {1}
    with pytest.raises(CrashError):
        await world.run(rows(a=1, b=1, c=1), run_id="killed")
    world.destination.dials.crash = ()
    world.sent()
    if cut_short:
        with monkeypatch.context() as patch:
            patch.setattr(world.store, "commit", Mock(side_effect=CrashError("killed")))
            with pytest.raises(CrashError):
                await world.run(run_id="next")
    await world.run(run_id="last")
    assert world.sent() == again
    report = world.store.last_report("contacts", "killed")
    assert report is not None
    assert (report.unknown, report.accepted, report.retryable) == (3, 0, 0)


async def test_a_lost_answer_does_not_matter_where_sending_twice_is_safe(world: World) -> None:
    world.destination.dials.lose_answer = {1}
    report = await world.run(rows(a=1))
    assert (report.accepted, report.unknown) == (1, 0)


async def test_a_stopped_task_settles_the_requests_in_flight(world: World) -> None:
    world.destination.dials.latency = 0.05
    world.values = {"rate": {"batch_size": 1, "concurrency": 2}}
    task = asyncio.create_task(world.run([{"id": f"k{at}", "n": 1} for at in range(50)], run_id="r"))
    while len(world.destination.batches) < 2:  # noqa: ASYNC110 - the fake has no event to wait for
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    delivered = len(world.destination.rows)
    assert 0 < delivered < 50
    world.destination.dials.latency = 0.0
    world.sent()
    assert (await world.run(run_id="r")).accepted == 50
    assert len(world.sent()) == 50 - delivered


async def test_a_load_that_is_stopped_in_good_order_leaves_no_row_in_doubt() -> None:
    """Rows announced and not sent are not in doubt."""
    dials = Dials(latency=0.05)
    world = World(FakeDestination(dials, capabilities=NOT_IDEMPOTENT))
    world.values = {
        "mode": "insert",
        "rate": {"batch_size": 1, "concurrency": 2},
        "failure": {"on_unknown": "fail"},
    }
    task = asyncio.create_task(world.run([{"id": f"k{at}", "n": 1} for at in range(50)], run_id="r"))
    while not world.destination.batches:  # noqa: ASYNC110 - the fake has no event to wait for
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    dials.latency = 0.0
    report = await world.run(run_id="r")
    assert (report.accepted, report.unknown) == (50, 0)
    assert not world.destination.table.repeated()


async def test_each_answer_is_saved_while_a_stopped_load_waits_for_the_others() -> None:
    """It has ten seconds, and may be killed before. Answers since the last regular save are saved at once."""
    answered = {2: asyncio.Event(), 3: asyncio.Event()}

    class Slow(FakeDestination):
        async def send(self, batch: Batch) -> Receipts:
            receipts = await super().send(batch)
            if batch.seqs[0] in answered:
                await answered[batch.seqs[0]].wait()
            return receipts

    class NoRegularSave(FrozenClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.Event().wait()

    world = World(Slow())
    world.clock = NoRegularSave()
    world.values = {"rate": {"batch_size": 1, "concurrency": 2}}
    task = asyncio.create_task(world.run(rows(a=1, b=1, c=1), run_id="r"))
    while len(world.destination.batches) < 3:  # noqa: ASYNC110 - the fake has no event to wait for
        await asyncio.sleep(0.01)
    [plan] = world.store.unfinished("contacts")
    assert not world.store.load_checkpoint(plan).settled
    task.cancel()
    for settled in (1, 2):
        async with asyncio.timeout(5):
            while len(world.store.load_checkpoint(plan).settled) < settled:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert not task.done()
        answered[2].set()
    answered[3].set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.store.load_checkpoint(plan).settled) == 3


@on_every_store
async def test_a_plan_that_is_rejected_when_a_part_of_it_was_sent_keeps_what_was_delivered(world: World) -> None:
    """A person may be asked again, as when the task is cleared. Rows that were not sent are planned again."""
    world.values = {"rate": {"batch_size": 1, "concurrency": 1}}
    world.destination.dials.unsent = {2, 3, 4, 5, 6, 7, 8}
    with pytest.raises(IncompleteLoadError):
        await world.run(rows(a=1, b=1), run_id="r")
    steps = world.steps("r")
    async with steps.lease():
        await steps.reject(world.destination)
        await steps.reject(world.destination)
    assert not world.store.unfinished("contacts")
    world.destination.dials.unsent = ()
    world.sent()
    await world.run(run_id="next")
    assert world.sent() == ["b"]


@pytest.mark.parametrize("approval", [True, False])
async def test_in_mode_append_a_plan_that_may_not_be_approved_is_not_sent_by_the_next_run(approval: bool) -> None:
    world = World(FakeDestination(capabilities=NOT_IDEMPOTENT), values={"mode": "append"})
    world.destination.dials.crash = {1}
    with pytest.raises(CrashError):
        await world.run(rows(a=1), run_id="begun")  # as far as a person can tell, it was approved
    world.destination.dials.crash = ()
    world.sent()
    for run_id, seen in (("waits", ["a#1"]), ("next", [] if approval else ["a#1"])):
        steps = world.steps(run_id)
        request = steps.request(world.source)
        async with steps.lease():
            await steps.plan(request, world.warehouse, world.destination, approval=approval)
        assert world.sent() == seen


@pytest.mark.parametrize(("mode", "run_id"), [("append", "next"), ("insert", "mapped")])
async def test_what_mapped_loads_have_sent_is_not_sent_again_by_a_load_of_other_rows(mode: str, run_id: str) -> None:
    """The next run of a sync without tracking sends the rest, or the number of partitions was changed."""
    world = World(FakeDestination(capabilities=NOT_IDEMPOTENT), values={"mode": mode, "rate": {"batch_size": 1}})
    await world.run(rows(a=1), run_id="first")
    world.model = rows(a=1, b=1, c=1, d=1, e=1, f=1, g=1)
    world.warehouse.set("customers", world.model)
    world.sent()
    steps = world.steps("mapped")
    request = steps.request(world.source)
    async with steps.lease():
        plan = await steps.plan(request, world.warehouse, world.destination)
        assert isinstance(plan, Plan)
        await steps.load(plan, world.destination, Share.of(plan, 1, 3))
    report = await world.run(world.model, run_id=run_id)
    assert (report.retryable, report.unknown) == (0, 0)
    runs = 2 if mode == "append" else 1  # each run appends the whole model
    assert len(world.destination.table.writes) == 1 + runs * plan.total


async def test_concurrency_and_rate_are_kept() -> None:
    class Watching(FakeDestination):
        flying = most = 0

        async def send(self, batch: Batch) -> Receipts:
            self.flying += 1
            self.most = max(self.most, self.flying)
            receipts = await super().send(batch)
            self.flying -= 1
            return receipts

    world = World(Watching(Dials(latency=0.001)))
    model = [{"id": f"k{at}", "n": 1} for at in range(40)]
    await world.run(model, rate={"batch_size": 1, "concurrency": 4, "requests_per_second": 10})
    assert isinstance(world.destination, Watching)
    assert world.destination.most <= 4
    assert world.clock.monotonic() >= 39 / 10


KEYS = "abcdefgh"
model_states = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3), max_size=8)
numbers = st.sets(st.integers(1, 8), max_size=3)


@pytest.mark.long
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(
            model_states, st.sets(st.sampled_from(KEYS), max_size=2), numbers, numbers, numbers, st.integers(0, 2)
        ),
        min_size=1,
        max_size=5,
    ),
    mode=st.sampled_from(["upsert", "mirror"]),
)
def test_whatever_fails_the_destination_ends_equal_to_the_model(steps: list[Any], mode: str) -> None:
    """Random changes, rejections, lost requests, lost answers, crashes and throttling over many runs."""
    world = World(values={"mode": mode, "retry": {"max_attempts": 1000, "max_age": "500w"}})
    seen: set[str] = set()

    async def scenario() -> None:
        for model, reject, lose_request, lose_answer, crash, throttle in steps:
            world.destination.batches.clear()
            seen.update(model)
            world.destination.dials = Dials(
                reject=reject, lose_request=lose_request, lose_answer=lose_answer, crash=crash, throttle=throttle
            )
            try:
                report = await world.run(rows(**model))
            except (CrashError, IncompleteLoadError):
                continue
            total = report.accepted + report.rejected + report.retryable + report.unknown + report.skipped
            assert total == report.planned.total, "every planned row is counted once"
        world.destination.dials = Dials()
        await world.run()
        assert (await world.run()).planned.total == 0, "nothing is left to send"

    asyncio.run(scenario())
    last = steps[-1][0]
    if mode == "mirror":
        assert world.held == last
    else:
        assert {key: world.held[key] for key in last} == last
        assert set(world.held) <= seen


@pytest.mark.long
@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crashes=st.lists(numbers, max_size=4), lost=numbers, size=st.integers(1, 4), concurrency=st.integers(1, 3))
def test_nothing_is_appended_twice_without_being_reported_and_nothing_is_lost(
    crashes: list[set[int]], lost: set[int], size: int, concurrency: int
) -> None:
    world = World(FakeDestination(capabilities=NOT_IDEMPOTENT))
    world.values = {"mode": "append", "rate": {"batch_size": size, "concurrency": concurrency}}
    model = [{"id": f"k{at}", "n": at} for at in range(12)]

    async def scenario() -> RunReport:
        for crash in crashes:
            world.destination.batches.clear()
            world.destination.dials = Dials(crash=crash, lose_answer=lost)
            try:
                return await world.run(model, run_id="r")
            except (CrashError, IncompleteLoadError):
                continue
        world.destination.dials = Dials()
        return await world.run(model, run_id="r")

    report = asyncio.run(scenario())
    assert report.accepted + report.unknown == 12
    assert len(world.held) == 12, "nothing is lost"
    twice = {key for _, key in world.destination.table.repeated()}
    assert len(twice) <= report.unknown, "a row that may be there twice is reported"
