"""Mode replace: the whole content at once, the old one until then, and nothing if nothing differs."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reverse_etl.errors import FailurePolicyError, GuardError, IncompleteLoadError, SpecError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.run import send_one
from airflow_reverse_etl.testing import CrashError, Dials
from tests.sync.world import World, many, on_every_store, rows

THREE = rows(a=1, b=2, c=3)


@pytest.fixture
def replacing(world: World) -> World:
    world.values = {"mode": "replace", "guards": {"min_rows": 0, "max_removed": "100%"}, "failure": {}}
    return world


def content(world: World) -> dict[str, Any]:
    """Return what a reader sees."""
    return {key: record["n"] for key, record in world.destination.rows.items()}


@on_every_store
async def test_the_whole_content_is_sent_if_anything_differs_and_nothing_if_not(replacing: World) -> None:
    report = await replacing.run(THREE)
    assert (report.accepted, content(replacing)) == (3, {"a": 1, "b": 2, "c": 3})
    for model, sent in (
        (THREE, 0),
        (rows(a=1, b=9, c=3), 3),  # changed
        (rows(a=1, b=9, c=3, d=4), 4),  # added
        (rows(a=1, d=4), 2),  # removed only
        (rows(a=1, d=4), 0),
    ):
        report = await replacing.run(model)
        assert report.planned.total == report.accepted == sent
        assert content(replacing) == {row["id"]: row["n"] for row in model}


@on_every_store
async def test_the_last_row_may_leave_if_the_guards_allow_it(replacing: World) -> None:
    await replacing.run(THREE)
    await replacing.run([])
    assert content(replacing) == {}
    begun = replacing.destination.opened
    await replacing.run([])
    assert replacing.destination.opened == begun, "nothing differs"


async def test_guards_compare_with_the_rows_of_the_last_run(world: World) -> None:
    world.values = {"mode": "replace"}
    await world.run(many(40))
    with pytest.raises(GuardError, match="max_removed: 20 rows, more than the larger of 20% of 40 and 10"):
        await world.run(many(20))
    assert len(content(world)) == 40
    await world.run(many(20), lift_guards=["max_removed"])
    assert len(content(world)) == 20


async def test_invalid_rows_are_left_out_and_reported(replacing: World) -> None:
    replacing.values["failure"] = {"max_rejected": 9}
    report = await replacing.run([*THREE, {"id": None, "n": 1}, {"id": "x", "n": 1}, {"id": "x", "n": 2}])
    assert report.invalid == {"null_key": 1, "duplicate_key": 2}
    assert content(replacing) == {"a": 1, "b": 2, "c": 3}


@on_every_store
@pytest.mark.parametrize(
    "dials", [Dials(crash=[2]), Dials(crash_at_finish="before")], ids=["in a write", "before finish"]
)
async def test_killed_before_the_end_it_has_changed_nothing(replacing: World, dials: Dials) -> None:
    await replacing.run(THREE)
    replacing.destination.dials = dials
    replacing.destination.batches.clear()
    with pytest.raises(CrashError):
        await replacing.run(rows(a=9, b=9, d=9), run_id="killed")
    assert content(replacing) == {"a": 1, "b": 2, "c": 3}
    replacing.destination.dials = Dials()
    report = await replacing.run(rows(a=9, b=9, d=9), run_id="killed")
    assert (report.accepted, content(replacing)) == (3, {"a": 9, "b": 9, "d": 9})


@on_every_store
@pytest.mark.parametrize("run_id", ["killed", "another"])
async def test_killed_after_the_end_the_next_run_does_it_again(replacing: World, run_id: str) -> None:
    await replacing.run(THREE)
    replacing.destination.dials = Dials(crash_at_finish="after")
    with pytest.raises(CrashError):
        await replacing.run(rows(a=9), run_id="killed")
    assert content(replacing) == {"a": 9}
    replacing.destination.dials = Dials()
    await replacing.run(rows(a=9, b=8), run_id=run_id)
    assert content(replacing)["a"] == 9
    await replacing.run(rows(a=9, b=8))
    assert content(replacing) == {"a": 9, "b": 8}
    assert (await replacing.run(rows(a=9, b=8))).planned.total == 0


@on_every_store
async def test_killed_in_the_commit_nothing_is_lost(replacing: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await replacing.run(THREE)
    await replacing.killed_in_commit(monkeypatch, lambda: replacing.run(rows(a=9)))
    await replacing.run(rows(a=9))
    assert content(replacing) == {"a": 9}
    assert (await replacing.run(rows(a=9))).planned.total == 0


@pytest.mark.parametrize(
    "dials", [Dials(lose_answer=[2]), Dials(lose_request=[2]), Dials(unread=[2])], ids=["answer", "request", "reply"]
)
async def test_rows_whose_answer_is_lost_are_not_written_twice(replacing: World, dials: Dials) -> None:
    await replacing.run(THREE)
    replacing.destination.batches.clear()
    replacing.destination.dials = dials
    with pytest.raises(Exception, match=r"rows could not be sent yet|per-row results") as error:
        await replacing.run(rows(a=9, b=9, d=9), run_id="lost")
    assert error.type.__name__ in ("IncompleteLoadError", "ConfigurationError")
    assert content(replacing) == {"a": 1, "b": 2, "c": 3}
    replacing.destination.dials = Dials()
    await replacing.run(rows(a=9, b=9, d=9), run_id="lost")
    assert content(replacing) == {"a": 9, "b": 9, "d": 9}
    assert not replacing.destination.table.repeated()


async def test_rejected_rows_keep_the_old_content_unless_the_sync_allows_them(replacing: World) -> None:
    await replacing.run(THREE)
    replacing.destination.dials = Dials(reject={"b"})
    with pytest.raises(FailurePolicyError, match=r"1 of 2 rows rejected, more than 0") as error:
        await replacing.run(rows(a=9, b=9))
    assert error.value.report is not None
    assert error.value.report.reasons[0]["code"] == "rejected"
    assert content(replacing) == {"a": 1, "b": 2, "c": 3}
    replacing.values["failure"] = {"max_rejected": 1}
    report = await replacing.run(rows(a=9, b=9))
    assert (report.accepted, report.rejected, content(replacing)) == (1, 1, {"a": 9})


async def test_when_the_requests_of_the_day_are_used_up_the_old_content_stays(replacing: World) -> None:
    await replacing.run(THREE)
    replacing.destination.batches.clear()
    replacing.destination.dials = Dials(left_today=1)
    with pytest.raises(IncompleteLoadError):
        await replacing.run(many(10), run_id="today")
    assert content(replacing) == {"a": 1, "b": 2, "c": 3}


async def test_a_throttled_batch_is_sent_again(replacing: World) -> None:
    replacing.destination.dials = Dials(throttle=2)
    await replacing.run(THREE)
    assert content(replacing) == {"a": 1, "b": 2, "c": 3}


async def test_a_full_resync_sends_the_content_that_is_there(replacing: World) -> None:
    await replacing.run(THREE)
    replacing.destination.table.rows.clear()
    await replacing.run(THREE, full_resync=True)
    assert content(replacing) == {"a": 1, "b": 2, "c": 3}


@on_every_store
async def test_a_reset_sends_nothing_and_leaves_the_content_although_rows_are_gone(replacing: World) -> None:
    await replacing.run(THREE)
    begun = replacing.destination.opened
    await replacing.run(rows(a=1, b=9), reset=True)
    assert (replacing.destination.opened, content(replacing)) == (begun, {"a": 1, "b": 2, "c": 3})
    report = await replacing.run(rows(a=1, b=8))
    assert (report.accepted, content(replacing)) == (2, {"a": 1, "b": 8})


async def test_rows_that_are_recorded_after_another_match_on_leave_the_content(replacing: World) -> None:
    await replacing.run(THREE)
    replacing.values |= {"on_mapping_change": "keep", "destination": {"type": "fake", "match_on": "n"}}
    await replacing.run(rows(a=1, b=2))
    assert content(replacing) == {"a": 1, "b": 2, "c": 3}


@on_every_store
async def test_a_row_that_is_given_up_is_no_difference_and_stays_out_until_it_changes(replacing: World) -> None:
    replacing.values |= {"failure": {"max_rejected": 1, "max_given_up": 1}, "retry": {"max_attempts": 2}}
    replacing.destination.dials = Dials(reject={"b"})
    sent = [(await replacing.run(THREE)).planned.total for _ in range(3)]
    assert (sent, content(replacing)) == ([3, 3, 0], {"a": 1, "c": 3})
    replacing.destination.dials = Dials()
    await replacing.run(rows(a=7, b=2, c=3))
    assert content(replacing) == {"a": 7, "c": 3}
    await replacing.run(rows(a=7, b=9, c=3))
    assert content(replacing) == {"a": 7, "b": 9, "c": 3}


async def test_a_run_of_one_row_is_refused(replacing: World) -> None:
    replacing.build(THREE)
    with pytest.raises(Exception, match="mode replace sends the whole content"):
        await send_one(replacing.sync(), replacing.source, replacing.destination, replacing.context("r"), key="a")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"send": "changed", "track": {"fields": True}}, "no use for send: changed"),
        ({"track": "none"}, "mode replace needs track: rows"),
        ({"track": {"cursor": "n"}}, "mode replace needs track: rows"),
        ({"guards": {"max_changes": 3}}, "guards.max_removed instead of max_changes"),
    ],
)
def test_options_that_do_not_fit_are_refused(replacing: World, more: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replacing.sync(**more)


def test_a_destination_that_cannot_replace_is_named() -> None:
    from airflow_reverse_etl.destinations.registry import create
    from airflow_reverse_etl.sync.ports import ConnectionInfo

    sync = Sync.load(
        {
            "name": "s",
            "model": "m",
            "source": "w",
            "mode": "replace",
            "destination": {"type": "http", "connection": "c", "path": "/x"},
            "mapping": {"a": "a"},
        }
    )
    with pytest.raises(SpecError, match="cannot replace its whole content at once"):
        create(sync, connection=ConnectionInfo("c", "http", "x.org", None, "https"))
