"""Rows that were rejected too often or for too long: counted, reported in every run, and limited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_reverse_etl.errors import FailurePolicyError
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.guards import check_failure_policy
from tests.sync.world import NOT_IDEMPOTENT, World, on_every_store, rows

if TYPE_CHECKING:
    from collections.abc import Mapping

LENIENT = {"max_rejected": "100%", "max_given_up": "100%"}


def warnings_of(world: World) -> list[str]:
    return [str(facts["text"]) for facts in world.observer.named("warning")]


async def given_up(world: World, **more: Any) -> None:
    """Reject two of three rows until they are given up."""
    world.values = {"retry": {"max_attempts": 1}, "failure": LENIENT, **more}
    world.destination.dials.reject = {"a", "b", "a#1", "b#2"}
    await world.run(rows(a=1, b=1, c=1))
    world.observer.events.clear()


async def test_each_run_reports_their_number_their_codes_and_the_way_out(world: World) -> None:
    await given_up(world)
    for _ in range(2):
        report = await world.run()
        assert (report.given_up, report.skipped, report.planned.total) == (2, 2, 0)
        [reason] = report.reasons
        assert (reason["code"], reason["count"]) == ("given_up", 2)
    assert len(warnings_of(world)) == 2
    for part in ("2 rows", "rejected (2)", "change it", "full_resync"):
        assert part in warnings_of(world)[0]


async def test_more_than_the_limit_turn_the_run_red_every_time(world: World) -> None:
    await given_up(world)
    for _ in range(2):
        with pytest.raises(FailurePolicyError, match="2 rows given up of 3 in the model, more than 1% of 3") as error:
            await world.run(failure={"max_rejected": "100%"})
        assert error.value.report is not None
        assert error.value.report.given_up == 2
    assert (await world.run(failure={"max_given_up": 2})).given_up == 2


async def test_both_ways_out_work(world: World) -> None:
    await given_up(world)
    world.sent()
    report = await world.run(rows(a=2, b=1, c=1))
    assert (world.sent(), report.given_up) == (["a"], 1), "a row with other values is tried at once"
    world.destination.dials.reject = ()
    assert (await world.run(full_resync=True)).given_up == 0
    assert (await world.run()).given_up == 0
    assert world.held == {"a": 2, "b": 1, "c": 1}


async def test_removals_count(world: World) -> None:
    world.values = {"mode": "mirror", "retry": {"max_attempts": 1}, "failure": LENIENT}
    await world.run(rows(a=1, b=1))
    world.destination.dials.reject = {"a"}
    await world.run(rows(b=1))
    assert (await world.run()).given_up == 1


@pytest.mark.parametrize("values", [{"mode": "append"}, {"track": "none"}])
async def test_a_sync_without_a_record_has_no_such_rows(world: World, values: Mapping[str, Any]) -> None:
    await given_up(world, **values)
    report = await world.run()
    assert (report.given_up, report.rejected) == (0, 2)


@on_every_store
async def test_rows_in_doubt_are_skipped_and_not_given_up(world: World) -> None:
    world.values = {"mode": "insert", "failure": {**LENIENT, "on_unknown": "fail"}}
    world.destination.capabilities = NOT_IDEMPOTENT
    world.destination.dials.lose_answer = {1}
    with pytest.raises(FailurePolicyError):
        await world.run(rows(a=1))
    report = await world.run()
    assert (report.skipped, report.given_up) == (1, 0)


async def test_the_share_is_of_all_rows_that_are_known_where_a_cursor_reads_a_part(world: World) -> None:
    world.values = {"retry": {"max_attempts": 1}, "failure": LENIENT, "track": {"cursor": "n"}}
    world.destination.dials.reject = {"z"}
    await world.run([{"id": f"k{at}", "n": at} for at in range(200)] + rows(z=999))
    await world.run()
    report = await world.run(failure={})
    assert (report.given_up, report.model_rows) == (1, 200)


async def test_invalid_rows_are_reported_by_cause(world: World) -> None:
    model = [{"id": None, "n": 1}, {"id": " ", "n": 1}, {"id": "a", "n": 1}, {"id": "a", "n": 2}]
    with pytest.raises(FailurePolicyError) as error:
        await world.run(model, failure={"max_rejected": 0})
    causes = {"null_key": 1, "duplicate_key": 2, "no_identifier": 1}
    report = error.value.report
    assert report is not None
    assert report.invalid == causes
    assert {reason["code"]: reason["count"] for reason in report.reasons} == causes
    for text in (*warnings_of(world), str(error.value)):
        assert "null_key (1), duplicate_key (2), no_identifier (1)" in text


def test_a_report_stored_before_passes() -> None:
    counts = dict.fromkeys(("accepted", "rejected", "retryable", "unknown", "skipped", "requests"), 0)
    report = RunReport.from_json({"run_id": "r", "planned": {"added": 1}, **counts, "seconds": 0.5, "reasons": []})
    assert (report.given_up, report.model_rows, report.invalid) == (0, 0, {})
    check_failure_policy(World().sync(failure={}), report)
