"""A reply that the sync cannot read: it stops the load and costs one batch; no row is lost or sent twice."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, IncompleteLoadError
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.testing import Dials, FakeDestination
from tests.sync.world import NOT_IDEMPOTENT, World, on_every_store, rows

#: A ``destination:`` that differs from the world's, for the same destination.
CORRECTED = {"type": "fake", "match_on": "id", "results": {"list": "errors"}}


@pytest.fixture
def world(store: StateStore) -> World:
    return World(FakeDestination(Dials(unread={1}), capabilities=NOT_IDEMPOTENT), store, values={"mode": "insert"})


async def stopped(world: World, **more: object) -> RunReport:
    """Run until the unreadable reply; returns the counts of the error's report."""
    with pytest.raises(ConfigurationError, match="reports per-row results") as caught:
        await world.run(rows(a=1, b=1, c=1, d=1, e=1, f=1), **more)
    assert caught.value.report is not None
    return caught.value.report


async def test_it_costs_one_batch_however_many_may_be_in_flight(world: World) -> None:
    report = await stopped(world, rate={"batch_size": 2, "concurrency": 8})
    assert len(world.destination.batches) == 1
    assert (report.accepted, report.unknown, report.retryable, report.requests) == (0, 2, 4, 1)
    assert [(reason["code"], reason["count"]) for reason in report.reasons] == [("reply_not_read", 2)]


@pytest.mark.parametrize("on_unknown", ["resend", "accept", "fail"])
async def test_rows_that_may_not_be_sent_twice_are_left_out_whatever_the_sync_says(
    world: World, on_unknown: str
) -> None:
    failure = {"max_rejected": "100%", "on_unknown": on_unknown}
    await stopped(world, failure=failure)
    for _ in range(2):
        report = await world.run(failure=failure)
    assert sorted(world.held) == ["a", "b", "c", "d", "e", "f"]
    assert not world.destination.table.repeated()
    assert report.skipped == 2, "nobody knows whether they were written: they are not delivered either"


async def test_a_task_that_is_cleared_without_a_correction_does_not_send_them_again(world: World) -> None:
    await stopped(world)
    await world.run(run_id="run-1")
    assert not world.destination.table.repeated()


async def test_a_correction_holds_when_the_first_run_with_it_is_interrupted(world: World) -> None:
    await stopped(world)
    world.clock.advance(60)
    world.destination.dials = Dials(lose_request=range(100), unsent=range(100))
    with pytest.raises(IncompleteLoadError):
        await world.run(destination=CORRECTED)
    world.clock.advance(60)
    world.destination.dials = Dials()
    report = await world.run(destination=CORRECTED)
    assert (report.accepted, report.skipped) == (6, 0)


async def test_rows_of_a_later_reply_that_cannot_be_read_are_left_out_again(world: World) -> None:
    await stopped(world)
    world.clock.advance(60)
    world.destination.dials = Dials(unread={2})
    with pytest.raises(ConfigurationError):
        await world.run(destination=CORRECTED)
    world.clock.advance(60)
    world.destination.dials = Dials()
    report = await world.run(destination=CORRECTED)
    assert report.skipped == 2
    world.clock.advance(60)
    assert (await world.run(destination={**CORRECTED, "reply": "text"})).accepted == 2


@on_every_store
async def test_once_the_destination_is_corrected_the_sync_decides(world: World) -> None:
    await stopped(world)
    world.clock.advance(60)
    await world.run()
    world.clock.advance(60)
    report = await world.run(destination=CORRECTED)
    assert (report.planned.added, report.accepted, report.skipped) == (2, 2, 0), "on_unknown: resend"
    assert len(list(world.destination.table.repeated())) == 2, "sent twice, which it reported"
    assert (await world.run(destination=CORRECTED)).planned.total == 0


async def test_once_the_destination_is_corrected_rows_stay_out_where_the_sync_says_so(world: World) -> None:
    failure = {"max_rejected": "100%", "on_unknown": "fail"}
    await stopped(world, failure=failure)
    world.clock.advance(60)
    report = await world.run(destination=CORRECTED, failure=failure)
    assert (report.skipped, list(world.destination.table.repeated())) == (2, [])


async def test_rows_that_may_be_sent_twice_are_sent_again_by_the_next_run() -> None:
    world = World(FakeDestination(Dials(unread={1})))
    report = await stopped(world)
    assert (report.unknown, report.retryable) == (0, 6)
    assert (await world.run()).accepted == 6
    assert (await world.run()).planned.total == 0


async def test_each_operation_has_a_first_batch_that_goes_alone() -> None:
    world = World(FakeDestination(), values={"mode": "mirror", "guards": {"max_removed": "100%", "min_rows": 0}})
    await world.run(rows(a=1, b=1, c=1, d=1, e=1, f=1))
    sent = len(world.destination.batches)
    world.destination.dials = Dials(unread={sent + 1})
    with pytest.raises(ConfigurationError):
        await world.run([], rate={"batch_size": 1, "concurrency": 8})
    assert len(world.destination.batches) == sent + 1


async def test_the_reasons_why_rows_are_left_are_in_the_error_and_in_its_report() -> None:
    world = World(FakeDestination(Dials(lose_request=range(100))))
    with pytest.raises(
        IncompleteLoadError, match=r"4 of 4 rows could not be sent yet: timeout \(4 rows\): no answer"
    ) as caught:
        await world.run(rows(a=1, b=1, c=1, d=1))
    assert caught.value.report is not None
    assert [(reason["code"], reason["count"]) for reason in caught.value.report.reasons] == [("timeout", 4)]


async def test_the_reasons_of_an_earlier_try_are_gone_once_its_rows_are_sent() -> None:
    world = World(FakeDestination(Dials(lose_request=range(100))))
    with pytest.raises(IncompleteLoadError):
        await world.run(rows(a=1), run_id="run-1")
    world.destination.dials = Dials()
    report = await world.run(run_id="run-1")
    assert (report.accepted, report.reasons) == (1, ())


async def test_what_stops_a_load_is_among_the_reasons() -> None:
    error = CredentialsError("the destination answered 401", todo="check the token", host="api.example.com")
    world = World(FakeDestination())
    world.destination.send = Mock(side_effect=error)  # type: ignore[method-assign]
    with pytest.raises(CredentialsError) as caught:
        await world.run(rows(a=1, b=1))
    assert caught.value.report is not None
    [reason] = caught.value.report.reasons
    assert (reason["code"], reason["count"], reason["host"]) == ("CredentialsError", 2, "api.example.com")
