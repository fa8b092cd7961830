"""The rules for records, one by one, in every state store."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from airflow_reverse_etl.errors import FailurePolicyError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.receipts import Outcome, Receipt
from airflow_reverse_etl.spec.report import Planned
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import USUAL, Capabilities, Plan, PlanRequest
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import FrozenClock, MemoryStateStore, MemoryWarehouse, RecordingObserver
from tests.stores.bench import AT, REJECTED, Bench, at, keyed, sync_of
from tests.stores.histories import PairOfStores, Remote, Row, as_earlier_version

#: What the first run delivers. The names of the rules are those of the records.
FIRST = [(5, "moves", 1), (6, "stays", 1), (7, "other key", 1), (8, "changes", 1), (9, "leaves", 1)]
FIRST += [(12, "loses its name", 1), (13, "is shared", 1)]
SECOND = [(4, "new", 1), (5, "moved", 1), (6, "stays", 1), (77, "other key", 1), (8, "changes", 2), (12, "", 1)]
SECOND += [(13, "is shared", 1), (14, "is shared", 1)]

#: Mode → (change, e-mail) of the rows that the second run sends; the number of held records, and of moved rows.
EXPECTED: Mapping[str, tuple[set[tuple[str, str]], int, int]] = {
    "upsert": ({("added", "new"), ("added", "moved"), ("changed", "changes")}, 0, 1),
    "insert": ({("added", "new")}, 0, 0),
    "update": ({("added", "new"), ("added", "moved"), ("changed", "changes")}, 0, 1),
    "mirror": ({("removed", "leaves"), ("added", "new"), ("added", "moved"), ("changed", "changes")}, 2, 1),
    "delete": ({("added", "new"), ("added", "moved")}, 0, 1),
}

#: Mode → number of records that the state knows after the second run. ``delete`` forgets what left the model.
KNOWN = {"upsert": 9, "insert": 8, "update": 9, "mirror": 8, "delete": 7}


def sent(b: Bench, plan: Plan) -> set[tuple[str, str]]:
    """Return the change and the e-mail of each row of a plan."""
    found = set()
    for row in b.rows(plan):
        email = row["identifiers"]["email"] if row["change"] == "removed" else row["f0"]
        found.add((row["change"], email))
    return found


@pytest.mark.parametrize("mode", EXPECTED)
def test_a_mode_does_with_each_row_what_the_rules_say(bench: Callable[..., Bench], mode: str) -> None:
    b = bench(sync_of(mode))
    b.model(FIRST)
    b.run()
    b.model(SECOND)
    plan = b.plan()
    expected, held, moved = EXPECTED[mode]
    assert (sent(b, plan), plan.held, plan.moved) == (expected, held, moved)
    causes = {"no_identifier": 1, "duplicate_identifier": 2}
    if mode == "delete":  # one of several rows that name a record is enough to delete it
        causes = {"no_identifier": 1}
    assert (plan.recorded, plan.causes) == (1, causes)
    b.commit(plan)
    plan = b.plan()
    assert plan.snapshot_rows == KNOWN[mode]
    if (
        mode == "mirror"
    ):  # the new record is there now, and a row without a name holds its record as long as it is there
        assert (sent(b, plan), plan.held) == ({("removed", "moves")}, 1)
    else:
        assert plan.total == 0


def test_a_row_whose_key_is_recorded_anew_is_not_taken_for_the_one_before(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of("insert"))
    b.model([(1, "a", 1)])
    b.run()
    b.model([(2, "a", 1)])
    assert b.run() == {}
    b.model([(2, "a", 1), (1, "b", 1)])
    assert b.run() == {"1": "added"}
    b.model([(2, "c", 1), (1, "b", 1)])
    assert b.run() == {}, "key 2 has been inserted as another record"


def test_a_destination_with_unique_columns_gets_deletions_first(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of("mirror"))
    removes_first = Capabilities(USUAL, removes_first=True)
    b.model(FIRST)
    b.run()
    b.model(SECOND)
    now = b.now + timedelta(days=1)
    request = PlanRequest(b.sync, "SELECT * FROM m", ("id",), "now", now, capabilities=removes_first)
    plan = b.store.plan(request, b.warehouse)
    removed = {email for change, email in sent(b, plan) if change == "removed"}
    assert (removed, plan.held) == ({"moves", "leaves"}, 1)


@pytest.mark.parametrize("mode", ["upsert", "insert", "update", "mirror", "delete"])
def test_a_row_without_a_key_moves_no_record(bench: Callable[..., Bench], mode: str) -> None:
    b = bench(sync_of(mode))
    b.model([(1, "a", 1)])
    b.run()
    b.model([(None, "a", 2)])
    plan = b.plan()
    assert (plan.planned, plan.causes, plan.held) == (Planned(invalid=1), {"null_key": 1}, 0)
    b.commit(plan)
    assert b.plan().snapshot_rows == 1


def test_letters_and_blanks_name_the_same_record_as_the_destination_compares(
    bench: Callable[..., Bench],
) -> None:
    exact = bench(sync_of("mirror"))
    exact.model([(1, "A@x", 1), (2, "a@x", 1)])
    assert len(exact.run()) == 2
    exact.model([(1, "A@x\u00a0\t", 1)])
    assert exact.run() == {"1": "changed", "2": "removed"}
    destination = {"type": "file", "match_on": "email", "compare": "ignore_case"}
    folding = bench(Sync.load({**exact.sync.model_dump(), "name": "folding", "destination": destination}))
    folding.model([(1, "A@x", 1), (2, "\r\na@x", 1), (3, "ß@x", 1)])
    plan = folding.plan()
    assert (plan.planned, plan.causes) == (Planned(added=1, invalid=2), {"duplicate_identifier": 2})


@pytest.mark.parametrize("initial", ["send", "baseline"])
def test_of_rows_that_delete_one_record_the_first_valid_one_is_sent(
    bench: Callable[..., Bench],
    initial: str,
) -> None:
    b = bench(sync_of("delete", initial=initial))
    b.model([(1, "a", 1), (1, "b", 1), (3, "a", 1), (2, "a", 1)])
    plan = b.plan()
    assert plan.causes == {"duplicate_key": 2}
    assert b.keys(plan) == ({"2": "added"} if initial == "send" else {})
    assert plan.recorded == (0 if initial == "send" else 1)
    b.commit(plan)
    plan = b.plan()
    assert (plan.total, plan.snapshot_rows) == (0, 1)


def test_append_sends_every_row_that_has_an_identifier(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of("append"))
    b.model([(1, "a", 1), (1, "a", 1), (None, "a", 1), (2, None, 1)])
    assert b.plan().planned == Planned(added=3, invalid=1)


def test_with_a_cursor_a_record_of_another_row_is_sent_and_counted(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of(mapping={"email": "email"}, track=AT))
    b.timed([(1, "a", at(1)), (2, "b", at(2))])
    b.run()
    b.timed([(3, "a", at(3)), (2, "c", at(3))])
    plan = b.plan()
    assert (b.keys(plan), plan.moved) == ({"3": "changed", "2": "added"}, 2)
    b.commit(plan)
    assert b.plan().total == 0


class TestRejections:
    """Rejections belong to a record with its values."""

    SYNC = staticmethod(lambda mode="upsert": sync_of(mode, retry={"max_attempts": 2}))

    @pytest.mark.parametrize("other", [(2, "a", 5), (1, "b", 5), (None, "a", 5)])
    def test_invalid_rows_do_not_age_one(self, bench: Callable[..., Bench], other: tuple[Any, ...]) -> None:
        b = bench(self.SYNC())
        b.model([(1, "a", 1)])
        b.run({"1": REJECTED})
        b.model([(1, "a", 1), other])
        for _ in range(3):
            assert b.run() == {}
        b.model([(1, "a", 1)])
        assert b.run({"1": REJECTED}) == {"1": "added"}
        assert b.plan().given_up == 1

    def test_another_record_and_other_values_are_tried_at_once(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC())
        b.model([(1, "a", 1)])
        b.run({"1": REJECTED})
        b.run({"1": REJECTED})
        assert b.plan().given_up == 1
        b.model([(1, "b", 1)])
        assert b.run({"1": REJECTED}) == {"1": "added"}
        b.model([(1, "a", 1)])
        assert b.run() == {"1": "added"}, "the record left the model, and begins from scratch"

    def test_a_rejected_deletion_is_dropped_once_a_row_names_the_record(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC("mirror"))
        b.model([(1, "a", 1)])
        b.run()
        for row in ((1, "a", 1), (2, "a", 2), (None, "a", 3)):
            b.model([])
            b.run({"1": REJECTED, "2": REJECTED})
            b.run({"1": REJECTED, "2": REJECTED})
            assert b.plan().given_up == 1
            b.model([row])
            b.run()
        b.model([])
        assert len(b.run()) == 1

    def test_also_if_that_row_is_not_answered(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC("mirror"))
        b.model([(1, "a", 1)])
        b.run()
        b.model([])
        b.run({"1": REJECTED})
        b.model([(1, "a", 2)])
        b.commit(b.plan(), upto=0)
        b.model([])
        b.run({"1": REJECTED})
        assert b.run() == {"1": "removed"}, "one attempt was counted"

    def test_what_the_destination_lacks_is_remembered_for_a_while_and_only_for_updates(
        self,
        bench: Callable[..., Bench],
    ) -> None:
        missing = {"1": Receipt(Outcome.SKIPPED, "not_found", "no such record")}
        b = bench(sync_of("update", retry={"missing": "2d"}))
        b.model([(1, "a", 1)])
        assert b.run(missing) == {"1": "added"}
        plan = b.plan()
        assert (plan.total, plan.skipped, plan.given_up) == (0, 1, 0)
        b.commit(plan)
        assert b.run(missing) == {"1": "added"}, "two days later"
        b.sync = sync_of("upsert", retry={"missing": "2d"})
        assert b.run() == {"1": "added"}


@pytest.mark.parametrize("option", ["reset", "full_resync"])
def test_the_state_of_a_record_is_one_after_a_run_with_options(bench: Callable[..., Bench], option: str) -> None:
    b = bench(sync_of("delete"))
    b.model([(1, "a", 1), (2, "a", 1)])
    b.commit(b.plan(**{option: True}))
    plan = b.plan()
    assert (plan.total, plan.snapshot_rows) == (0, 1)


def test_a_kept_mapping_is_recorded_in_every_mode_that_tracks(bench: Callable[..., Bench]) -> None:
    more = {"mapping": {"email": "email"}, "on_mapping_change": "keep"}
    b = bench(sync_of("insert"))
    b.model([(1, "a", 1)])
    b.run()
    b.sync = sync_of("insert", **more)
    plan = b.plan()
    assert (plan.total, plan.recorded) == (0, 1)
    b.commit(plan)
    b.sync = sync_of("upsert", **more)
    assert b.run() == {}, "the row counts as delivered under the new mapping"


@pytest.mark.parametrize("options", [{}, {"reset": True}, {"full_resync": True}])
def test_records_that_an_earlier_version_knew_by_key_are_not_deleted(
    bench: Callable[..., Bench],
    options: dict[str, bool],
) -> None:
    b = bench(keyed("mirror", match_on=()))
    b.model([(1, "a", 1), (2, "b", 1)])
    with as_earlier_version(b.store, "s"):
        b.run()
    b.sync = keyed("mirror")
    plan = b.plan(**options)
    assert plan.planned.removed == 0
    b.commit(plan)
    plan = b.plan()
    assert (plan.total, plan.snapshot_rows) == (0, 2)


async def test_deletions_of_records_of_one_row_are_answered_one_by_one() -> None:
    """A row that moved twice before its first record was deleted has several of them in one batch."""
    remote = Remote(random.Random(1), ignore_case=True, removes_first=False)
    sync = Sync.load({**keyed("mirror").model_dump(), "guards": {"max_removed": "100%", "min_rows": 0}})
    store = PairOfStores(MemoryStateStore(), remote, random.Random(1))
    warehouse = MemoryWarehouse({})
    for run, email in enumerate(("a", "b", "c", "c"), 1):
        row = {"id": 1, "email": email, "score": 1}
        store.rows = [Row("1", email, 1, run)]
        warehouse.set("m", [row])
        if run == 4:
            remote.refused = {"a"}
        context = RunContext(f"run-{run}", store, observer=RecordingObserver(), clock=FrozenClock())
        with contextlib.suppress(FailurePolicyError):
            await run_sync(sync, SourceModel("SELECT * FROM m", ("id",), warehouse), remote, context)
    assert set(remote.records) == {"a", "c"}
    last = store.last_report("s", "run-4")
    assert last is not None
    assert (last.accepted, last.rejected) == (1, 1)
