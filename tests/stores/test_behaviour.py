"""The behaviour of every state store, whatever its storage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from airflow_reverse_etl.errors import AttentionError, ConfigurationError, RunConflictError, SpecError
from airflow_reverse_etl.spec.model import DestinationSpec
from airflow_reverse_etl.spec.receipts import Outcome, Receipt
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.sync.progress import Checkpoint
from tests.stores.bench import AT, REJECTED, THREE, Bench, at, sync_of
from tests.stores.every import lose_snapshot


class TestChanges:
    def test_first_run_adds_everything_and_the_next_one_nothing(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        assert b.run() == {"1": "added", "2": "added", "3": "added"}
        assert b.run() == {}

    def test_only_added_changed_and_in_a_mirror_removed_rows_are_planned(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model([(1, "a", 1), (2, "b", 9), (4, "d", 4)])
        plan = b.plan()
        assert plan.planned == Planned(added=1, changed=1, removed=1)
        assert (plan.total, plan.model_rows, plan.snapshot_rows) == (3, 3, 3)
        assert b.rows(plan) == [
            {"seq": 1, "change": "removed", "key": "3", "f0": None, "f1": None, "identifiers": {"email": "c"}},
            {"seq": 2, "change": "changed", "key": "2", "f0": "b", "f1": 9, "identifiers": None},
            {"seq": 3, "change": "added", "key": "4", "f0": "d", "f1": 4, "identifiers": None},
        ]

    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            ("upsert", {"4": "added", "2": "changed"}),
            ("insert", {"4": "added"}),
            ("update", {"4": "added", "2": "changed"}),
            ("mirror", {"4": "added", "2": "changed", "3": "removed"}),
            ("delete", {"4": "added"}),
            ("append", {"1": "added", "2": "added", "4": "added"}),
        ],
    )
    def test_modes(self, bench: Callable[..., Bench], mode: str, expected: dict[str, str]) -> None:
        b = bench(sync_of(mode))
        b.model(THREE)
        b.run()
        b.model([(1, "a", 1), (2, "b", 9), (4, "d", 4)])
        assert b.run() == expected

    def test_null_and_repeated_keys_are_invalid_and_never_removed(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        for repeated in ("a", "other"):  # equal to the snapshot, or not: both rows are invalid
            b.model([(1, "a", 1), (1, repeated, 1), (2, "b", 2), (3, "c", 3), (None, "x", 1), (7, "y", 1), (7, "z", 1)])
            plan = b.plan()
            assert plan.planned == Planned(invalid=5)
            b.commit(plan)
        b.model(THREE)
        assert b.run() == {}

    def test_a_row_repeated_once_is_sent_when_it_is_unique(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model([(1, "a", 1), (1, "b", 1)])
        assert b.run() == {}
        b.model([(1, "b", 1)])
        assert b.run() == {"1": "added"}

    def test_an_empty_model_removes_everything_from_a_mirror(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model([])
        assert b.run() == {"1": "removed", "2": "removed", "3": "removed"}
        assert b.plan().snapshot_rows == 0

    def test_a_mirror_that_was_something_else_for_a_while_still_deletes(self, bench: Callable[..., Bench]) -> None:
        """The store keeps what a delete needs, also for a row that was sent, or recorded, in between."""
        b = bench(sync_of("mirror"))
        b.model([(1, "a", 1), (2, "b", 1), (3, "c", 1)])
        b.commit(b.plan())
        b.sync = sync_of("upsert")
        b.model([(1, "a", 2), (2, "b", 1), (3, "c", 1)])
        b.commit(b.plan())
        b.commit(b.plan(reset=True))
        b.model([(3, "c", 1)])
        b.commit(b.plan())
        b.sync = sync_of("mirror")
        rows = {row["key"]: (row["change"], row["identifiers"]) for row in b.rows(b.plan())}
        assert rows["1"] == ("removed", {"email": "a"})
        assert rows["2"] == ("removed", {"email": "b"})

    @pytest.mark.parametrize("match_on", [("email",), ()])
    def test_a_sync_that_becomes_a_mirror_records_identifiers_and_sends_nothing(
        self, bench: Callable[..., Bench], match_on: tuple[str, ...]
    ) -> None:
        b = bench(sync_of(match_on=match_on, mapping={"id": "id", "email": "email"}))
        b.model(THREE)
        b.run()
        b.sync = sync_of("mirror", match_on=match_on, mapping={"id": "id", "email": "email"})
        b.model(THREE[:2])
        plan = b.plan()
        assert (plan.total, plan.recorded) == (0, 2), "the row that is gone is forgotten"
        b.commit(plan)
        b.model(THREE[:1])
        assert b.run() == {"2": "removed"}

    def test_a_key_that_leaves_a_list_of_deletions_and_comes_back_is_deleted_again(
        self, bench: Callable[..., Bench]
    ) -> None:
        b = bench(sync_of("delete"))
        b.model(THREE)
        b.run()
        b.model(THREE[:2])
        assert b.run() == {}
        b.model(THREE)
        assert b.run() == {"3": "added"}

    def test_append_needs_no_key_and_sends_every_row_every_time(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("append"), primary_key=())
        b.model([(1, "a", 1), (1, "a", 1), (None, "b", None)])
        for _ in range(2):
            plan = b.plan()
            assert plan.planned == Planned(added=3)
            assert len({row["key"] for row in b.rows(plan)}) == 3
            b.commit(plan)

    def test_composite_keys(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(), primary_key=("id", "email"))
        b.model([(1, "a", 1), (1, "b", 1), (1, None, 1)])
        assert b.run() == {'["1","a"]': "added", '["1","b"]': "added"}

    def test_the_change_set_holds_what_templates_read_and_nulls_for_what_is_not_a_column(
        self, bench: Callable[..., Bench]
    ) -> None:
        mapping = {"email": {"sql": "upper(email)"}, "c": {"value": 1}, "t": {"template": "{{ row.score }}"}}
        b = bench(sync_of(mapping=mapping))
        b.model([(1, "a", 7)])
        [row] = b.rows(b.plan())
        assert {name: row[name] for name in ("f0", "f1", "f2", "r0")} == {"f0": "A", "f1": None, "f2": None, "r0": 7}

    def test_any_part_of_the_change_set_can_be_read(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model((i, f"u{i}", 1) for i in range(50))
        b.run()
        b.model((i, f"u{i}", i % 2) for i in range(20, 70))
        plan = b.plan()
        whole = b.rows(plan)
        assert [row["seq"] for row in whole] == list(range(1, plan.total + 1))
        for after, until in [(0, 1), (5, 5), (19, 22), (plan.total - 1, plan.total), (plan.total, plan.total)]:
            assert b.rows(plan, after=after, until=until) == whole[after:until]
        assert b.rows(plan, after=30) == whole[30:]

    def test_columns_have_the_promised_types(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        batch = next(iter(b.store.changes(b.plan())))
        assert batch.schema.field("seq").type == pa.int64()
        for name in ("change", "key", "identifiers"):
            assert batch.schema.field(name).type == pa.string()


class TestRejections:
    def test_a_rejected_new_row_is_planned_again(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        b.run({"2": REJECTED})
        assert b.run() == {"2": "added"}
        assert b.run() == {}

    def test_a_rejected_change_keeps_its_old_state(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        b.run()
        b.model([(1, "a", 9), *THREE[1:]])
        assert b.run({"1": REJECTED}) == {"1": "changed"}
        assert b.run({"1": REJECTED}) == {"1": "changed"}
        b.model(THREE)
        assert b.run() == {}, "back to what the destination has"

    def test_a_rejected_removal_is_tried_again(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model(THREE[:2])
        assert b.run({"3": REJECTED}) == {"3": "removed"}
        assert b.run() == {"3": "removed"}
        assert b.run() == {}

    def test_after_enough_attempts_a_row_is_skipped_until_it_changes(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(retry={"max_attempts": 2}))
        b.model(THREE)
        b.run({"2": REJECTED})
        b.run({"2": REJECTED})
        for _ in range(2):  # being skipped is remembered
            plan = b.plan()
            assert (plan.total, plan.skipped) == (0, 1)
            b.commit(plan)
        b.model([(1, "a", 1), (2, "b", 99), (3, "c", 3)])
        assert b.run({"2": REJECTED}) == {"2": "added"}
        assert b.run() == {"2": "added"}, "new values have attempts of their own"

    def test_a_row_rejected_for_too_long_is_skipped(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(retry={"max_age": "3d", "max_attempts": 100}))
        b.model(THREE[:1])
        tried = [b.run({"1": REJECTED}) for _ in range(5)]
        assert tried == [{"1": "added"}] * 3 + [{}] * 2

    def test_a_rejected_row_that_vanished_starts_from_scratch(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(retry={"max_attempts": 1}))
        b.model(THREE)
        b.run({"2": REJECTED})
        b.model([THREE[0], THREE[2]])
        assert b.run() == {}
        b.model(THREE)
        assert b.run() == {"2": "added"}

    def test_a_row_that_the_destination_lacks_stays_out_without_being_a_rejection(
        self, bench: Callable[..., Bench]
    ) -> None:
        b = bench(sync_of("update", retry={"max_attempts": 1}))
        b.model(THREE)
        for _ in range(3):
            assert "2" in b.run({"2": Receipt(Outcome.SKIPPED)})

    def test_append_sends_rejected_rows_again_whatever_their_attempts(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("append", retry={"max_attempts": 1}))
        b.model(THREE[:1])
        assert [b.run({"1": REJECTED}) for _ in range(3)] == [{"1": "added"}] * 3


class TestRuns:
    def test_a_plan_can_be_found_again_until_it_is_committed(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        assert b.store.unfinished("s") == []
        plan = b.plan()
        assert list(b.store.unfinished("s")) == [plan]
        assert b.store.unfinished("other") == []
        b.commit(plan)
        assert list(b.store.unfinished("s")) == []

    def test_rows_that_were_not_settled_stay_as_they_were(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model([(1, "a", 9), (2, "b", 9), (4, "d", 1)])
        plan = b.plan()
        first, *rest = b.rows(plan)
        b.commit(plan, upto=1)
        assert b.keys(b.plan()) == {row["key"]: row["change"] for row in rest if row["key"] != first["key"]}

    def test_checkpoints_are_kept_by_partition(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        plan = b.plan()
        assert len(b.store.load_checkpoint(plan).settled) == 0
        assert not b.store.checkpoints(plan)
        for partition in (0, 3):
            checkpoint = Checkpoint(announced=3, requests=partition)
            checkpoint.settled.add(2, 3)
            checkpoint.fail(2, REJECTED)
            b.store.save_checkpoint(plan, checkpoint, partition=partition)
        loaded = b.store.load_checkpoint(plan, partition=3)
        assert loaded.to_json() == {**checkpoint.to_json(), "requests": 3}
        assert sorted(one.requests for one in b.store.checkpoints(plan).values()) == [0, 3]

    def test_committing_twice_changes_nothing(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(retry={"max_attempts": 2}))
        b.model(THREE)
        plan = b.plan()
        checkpoint = Checkpoint()
        checkpoint.settled.add(1, 3)
        checkpoint.fail(2, REJECTED)
        report = RunReport("run1", plan.planned, 2, 1, 0, 0, 0, 1, 0.5)
        for _ in range(3):
            b.store.commit(plan, checkpoint, report, b.sync)
        assert len(b.run()) == 1, "one attempt was counted, not three"

    def test_the_last_report_of_a_run_is_kept(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        assert b.store.last_report("s", "run1") is None
        b.model(THREE)
        report = b.commit(b.plan())
        b.run()
        assert b.store.last_report("s", "run1") == report
        assert b.store.last_report("s", "run9") is None
        assert b.store.last_report("other", "run1") is None

    def test_a_discarded_plan_leaves_no_trace(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        plan = b.plan()
        b.store.discard(plan)
        assert b.store.unfinished("s") == []
        assert len(b.run()) == 3
        with pytest.raises(RunConflictError):
            b.rows(plan)

    def test_of_two_plans_of_one_snapshot_only_the_first_is_committed(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        one, other = b.plan(), b.plan()
        b.commit(one)
        with pytest.raises(RunConflictError):
            b.commit(other)
        assert b.run() == {}

    def test_syncs_do_not_see_each_other(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        b.run()
        b.sync = b.sync.model_copy(update={"name": "t"})
        assert len(b.run()) == 3


UNKNOWN = Receipt(Outcome.UNKNOWN, "answer_lost", "sent, but the answer was lost")
SKIPPED = Receipt(Outcome.SKIPPED, "not_found", "no such row")


class TestWithoutRecord:
    def test_every_valid_row_goes_out_in_every_run(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(track="none", retry={"max_attempts": 1}))
        b.model([*THREE, (None, "x", 1), (7, "y", 1), (7, "z", 1)])
        for _ in range(3):
            plan = b.plan()
            assert (plan.planned, plan.skipped, plan.snapshot_rows) == (Planned(added=3, invalid=3), 0, 0)
            b.commit(plan, {"2": REJECTED})

    @pytest.mark.parametrize("mode", ["insert", "update", "delete"])
    def test_in_every_mode(self, bench: Callable[..., Bench], mode: str) -> None:
        b = bench(sync_of(mode, track="none"))
        b.model(THREE)
        for _ in range(2):
            assert b.run() == {"1": "added", "2": "added", "3": "added"}

    def test_what_was_recorded_before_is_not_trusted_after(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.sync = sync_of(track="none")
        b.model([(1, "a", 9), (2, "b", 2)])
        b.run()
        b.sync = sync_of("mirror")
        b.model([(1, "a", 1), (2, "b", 2)])
        plan = b.plan()
        assert plan.notes == ("snapshot_stale",)
        assert b.keys(plan) == {"1": "added", "2": "added"}, "the destination has 9, which no snapshot tells"
        b.commit(plan, {"2": REJECTED})
        assert b.run() == {"2": "changed", "3": "removed"}, "a refused row does not count as delivered"
        assert b.run() == {}


class TestCursor:
    SYNC = staticmethod(
        lambda mode="upsert", **more: sync_of(mode, mapping={"email": "email"}, track=AT, match_on=(), **more)
    )

    def test_only_rows_from_the_highest_cursor_on_are_read(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC())
        b.timed([(1, "a", at(1)), (2, "b", at(2)), (3, "c", at(3))])
        assert b.run() == {"1": "added", "2": "added", "3": "added"}
        b.timed([(1, "not seen", at(1)), (2, "b", at(2)), (3, "changed", at(3)), (4, "d", at(4)), (5, "e", None)])
        plan = b.plan()
        assert (plan.model_rows, plan.snapshot_rows) == (3, 3), "from the highest on, itself included, and NULL"
        assert b.keys(plan) == {"3": "changed", "4": "added", "5": "added"}
        b.commit(plan)
        assert b.run() == {}, "what is read again is compared as always"
        b.timed([])
        assert b.run() == {}, "rows that are not read are not gone"
        b.timed([(1, "not seen", at(1)), (6, "f", at(5))])
        assert b.run() == {"6": "added"}

    def test_rows_that_arrive_late_are_read_within_the_lag(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(mapping={"email": "email"}, track={**AT, "lag": "2h"}, match_on=()))
        b.timed([(1, "a", at(1)), (2, "b", at(2)), (5, "e", at(5))])
        b.run()
        late = [(3, "late", at(3)), (4, "too late", at(2.9)), (5, "e", at(5))]
        b.timed(late)
        plan = b.plan()
        assert (plan.model_rows, b.keys(plan)) == (2, {"3": "added"})
        b.commit(plan)
        for _ in range(3):
            b.timed([])
            assert b.run() == {}, "the bound does not move while nothing comes"
        b.timed([(6, "before", at(2.9)), (7, "after", at(3))])
        assert b.run() == {"7": "added"}

    def test_a_lag_of_days_and_one_of_numbers(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(mapping={"email": "email"}, track={**AT, "lag": "36h"}, match_on=()))
        b.timed([(1, "a", "2025-01-04")], "DATE")
        b.run()
        b.timed([(2, "b", "2025-01-02"), (3, "c", "2025-01-01")], "DATE")
        assert b.run() == {"2": "added"}
        b = bench(sync_of(mapping={"email": "email"}, track={**AT, "lag": "1h"}, match_on=(), name="numbers"))
        b.timed([(1, "a", 1)], "BIGINT")
        b.run()
        with pytest.raises(SpecError, match=r"track.lag is a time, and the cursor at has whole numbers"):
            b.plan()

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            ("BIGINT", (1, 2, 3)),
            ("DECIMAL(38,4)", ("0.1", "2.25", "1e30")),
            ("DATE", ("2025-01-01", "2025-01-02", "2025-01-03")),
            ("TIMESTAMP", ("2026-01-01 00:00:00.1", "2026-01-01 00:00:00.2", "2026-01-01 00:00:07.999999")),
            ("TIMESTAMPTZ", ("2026-01-01 00:00:00+02", "2026-01-01 00:00:00Z", "2026-01-01 00:00:09.5-03")),
        ],
    )
    def test_of_every_type_that_has_an_order_everywhere(
        self, bench: Callable[..., Bench], kind: str, values: tuple[Any, ...]
    ) -> None:
        b = bench(self.SYNC())
        b.timed([(at, "x", value) for at, value in enumerate(values)], kind)
        b.run()
        plan = b.plan()
        assert (plan.model_rows, plan.total) == (1, 0)

    @pytest.mark.parametrize("kind", ["VARCHAR", "DOUBLE", "BOOLEAN"])
    def test_of_other_types_is_refused(self, bench: Callable[..., Bench], kind: str) -> None:
        b = bench(self.SYNC())
        b.timed([(1, "a", "1")], kind)
        with pytest.raises(ConfigurationError, match="cannot be a cursor"):
            b.plan()

    @pytest.mark.parametrize("receipt", [REJECTED, UNKNOWN])
    def test_rows_that_failed_are_read_again_and_hold_the_rest_back(
        self, bench: Callable[..., Bench], receipt: Receipt
    ) -> None:
        b = bench(self.SYNC("insert", retry={"max_attempts": 2}))
        b.timed([(1, "a", at(1)), (2, "b", at(2)), (3, "c", at(3)), (4, "d", at(4))])
        b.run({"2": receipt})
        plan = b.plan()
        assert plan.model_rows == 3, "from the failed row on"
        assert b.keys(plan) == ({"2": "added"} if receipt is REJECTED else {}), "maybe written: not without a person"

    def test_a_quarantined_row_holds_nothing_back_and_is_not_forgotten(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC(retry={"max_attempts": 2}))
        b.timed([(1, "a", at(1)), (2, "b", at(2)), (3, "c", at(3))])
        b.run({"1": REJECTED})
        b.run({"1": REJECTED})
        plan = b.plan()
        assert (plan.model_rows, plan.skipped) == (3, 1)
        b.commit(plan)
        assert b.plan().model_rows == 1
        b.run()
        b.timed([(1, "a", at(9))])
        assert b.plan().skipped == 1
        b.timed([(1, "corrected", at(9))])
        assert b.run() == {"1": "added"}

    def test_a_row_that_the_destination_lacks_holds_nothing_back(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC("update"))
        b.timed([(1, "a", at(1)), (2, "b", at(2))])
        b.run({"1": SKIPPED})
        assert b.plan().model_rows == 1

    def test_rows_that_were_not_settled_are_read_again(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC())
        b.timed([(n, f"u{n}", at(n)) for n in range(1, 6)])
        plan = b.plan()
        b.commit(plan, upto=2)
        assert len(b.run()) == 3
        assert b.run() == {}

    def test_of_rows_with_one_key_the_one_that_stays_is_seen(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC())
        b.timed([(1, "old", at(1)), (1, "new", at(2)), (2, "b", at(3))])
        plan = b.plan()
        assert plan.planned == Planned(added=1, invalid=2)
        b.commit(plan)
        b.timed([(1, "old", at(1)), (2, "b", at(3))])
        assert b.run() == {"1": "added"}

    def test_a_time_in_the_future_hides_nothing(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC())
        b.timed([(1, "a", at(1)), (2, "b", datetime(9999, 12, 31))])  # noqa: DTZ001
        b.run()
        b.timed([(5, "e", at(2)), (2, "b", datetime(9999, 12, 31))])  # noqa: DTZ001
        assert b.run() == {"5": "added"}

    @pytest.mark.parametrize(
        "change",
        [
            {"mapping": {"email": "email", "c": {"value": 1}}},
            {"track": {"cursor": "id"}},
            {"model": "other"},
            {"track": "rows"},
        ],
    )
    def test_everything_is_read_when_the_window_may_mean_something_else(
        self, bench: Callable[..., Bench], change: dict[str, Any]
    ) -> None:
        b = bench(self.SYNC())
        b.timed([(1, "a", at(1)), (2, "b", at(2))])
        b.run()
        b.sync = b.sync.model_copy(
            update={name: getattr(sync_of(**change), name) for name in change if name != "model"}
        )
        if "model" in change:
            b.sync = b.sync.model_copy(update=change)
        assert b.plan().model_rows == 2

    def test_guards_that_refuse_a_plan_move_nothing(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC())
        b.timed([(1, "a", at(1)), (2, "b", at(2))])
        b.store.discard(b.plan())
        assert b.run() == {"1": "added", "2": "added"}

    def test_a_list_of_deletions_keeps_what_it_does_not_read(self, bench: Callable[..., Bench]) -> None:
        b = bench(self.SYNC("delete"))
        b.timed([(1, "a", at(1)), (2, "b", at(2))])
        b.run()
        b.run()
        assert b.plan().snapshot_rows == 2


class TestFirstRun:
    @pytest.mark.parametrize("mode", ["upsert", "insert", "update", "mirror", "delete"])
    def test_a_baseline_records_every_valid_row_and_sends_none(self, bench: Callable[..., Bench], mode: str) -> None:
        b = bench(sync_of(mode, initial="baseline"))
        b.model([*THREE, (None, "x", 1), (7, "y", 1), (7, "z", 1)])
        plan = b.plan()
        assert (plan.planned, plan.recorded, plan.notes) == (Planned(invalid=3), 3, ("baseline",))
        b.commit(plan)
        b.model([*THREE[:2], (4, "d", 4)])
        assert b.run() == {"4": "added", **({"3": "removed"} if mode == "mirror" else {})}

    def test_a_removed_row_of_the_baseline_has_what_a_delete_needs(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror", initial="baseline"))
        b.model(THREE)
        b.run()
        b.model(THREE[:2])
        assert [row["identifiers"] for row in b.rows(b.plan())] == [{"email": "c"}]

    def test_with_a_cursor_the_window_begins_after_it(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(mapping={"email": "email"}, track=AT, initial="baseline"))
        b.timed([(1, "a", at(1)), (2, "b", at(2))])
        b.run()
        assert b.plan().model_rows == 1

    def test_only_the_first_run_is_one(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        b.run(dict.fromkeys("123", REJECTED))
        b.sync = sync_of(initial="baseline")
        assert len(b.run()) == 3, "nothing is in the snapshot, but there was a run"


class TestChangedSpec:
    MORE: ClassVar = {"email": "email", "score": "score", "origin": {"value": "w"}}

    def test_a_changed_mapping_sends_every_row_again(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.sync = sync_of("mirror", mapping=self.MORE)
        b.model(THREE[:2])
        plan = b.plan()
        assert plan.notes == ("mapping_resync",)
        assert b.keys(plan) == {"1": "changed", "2": "changed", "3": "removed"}
        b.commit(plan)
        assert b.plan().notes == ()

    def test_or_records_those_that_were_delivered_and_sends_new_ones(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model([*THREE, (5, "e", 5)])
        b.run()
        b.model([*THREE[:2], (5, "e", 6)])
        b.run({"5": REJECTED, "3": REJECTED})
        b.sync = sync_of("mirror", mapping=self.MORE, on_mapping_change="keep")
        b.model([*THREE[:2], (4, "d", 4), (5, "e", 6)])
        plan = b.plan()
        assert (plan.recorded, plan.notes) == (2, ("mapping_keep",))
        expected = {"4": "added", "3": "removed", "5": "changed"}
        assert b.keys(plan) == expected, "a refused row is not delivered, and removals continue"
        b.commit(plan)
        assert b.run() == {}
        b.model([(1, "a", 7), THREE[1], (4, "d", 4), (5, "e", 6)])
        assert b.run() == {"1": "changed"}

    def test_a_row_in_doubt_is_sent_even_then(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        b.run()
        b.model([(1, "a", 9), *THREE[1:]])
        plan = b.plan()
        b.store.commit(plan, Checkpoint(announced=1), RunReport("r", plan.planned, 0, 0, 1, 0, 0, 1, 0.5, ()), b.sync)
        b.sync = sync_of(mapping=self.MORE, on_mapping_change="keep")
        assert b.run() == {"1": "changed"}

    def test_the_order_of_the_mapping_changes_nothing(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(on_mapping_change="keep"))
        b.model(THREE)
        b.run()
        b.sync = sync_of(mapping={"score": "score", "email": "email"}, on_mapping_change="keep")
        b.model([(1, "a", 9), *THREE[1:]])
        plan = b.plan()
        assert (b.keys(plan), plan.notes) == ({"1": "changed"}, ())

    @pytest.mark.parametrize("keep", [False, True])
    def test_a_changed_key_never_deletes(self, bench: Callable[..., Bench], keep: bool) -> None:
        more = {"on_mapping_change": "keep"} if keep else {}
        b = bench(sync_of("mirror", match_on=(), retry={"max_attempts": 1}, **more))
        b.model([*THREE, (4, "x", 4)])
        b.run({"2": REJECTED})
        b.model(THREE)
        b.primary_key = ("email", "id")
        plan = b.plan()
        assert plan.notes == ("key_keep" if keep else "key_resync",)
        assert (plan.planned, plan.recorded) == ((Planned(), 3) if keep else (Planned(added=3), 0))
        b.commit(plan)
        plan = b.plan()
        assert (plan.total, plan.snapshot_rows, plan.notes) == (0, 3, ()), "the old key's record is dropped"
        b.model(THREE[:2])
        [gone] = b.rows(b.plan())
        assert (gone["key"], gone["change"], gone["identifiers"]) == ('["c","3"]', "removed", {"email": "c"})

    def test_a_changed_key_is_recorded_where_match_on_identifies_records(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.primary_key = ("email", "id")
        plan = b.plan()
        assert (plan.total, plan.recorded, plan.notes) == (0, 3, ())
        b.commit(plan)
        assert b.plan().recorded == 0
        b.model(THREE[:2])
        assert b.run() == {'["c","3"]': "removed"}

    @pytest.mark.parametrize("change", [{"match_on": ("score",)}, {"mapping": {"email": "id", "score": "score"}}])
    def test_other_identifiers_never_delete(self, bench: Callable[..., Bench], change: dict[str, Any]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.sync = sync_of("mirror", **change)
        b.model(THREE[:2])
        plan = b.plan()
        assert (plan.notes, plan.planned) == (("key_resync",), Planned(added=2))
        b.commit(plan)
        assert b.run() == {}
        b.model(THREE[:1])
        assert b.run() == {"2": "removed"}

    def test_inserts_by_other_identifiers_stop(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("insert"))
        b.model(THREE)
        b.run()
        b.sync = sync_of("insert", match_on=("score",))
        with pytest.raises(AttentionError, match="other fields than before"):
            b.plan()
        plan = b.plan(reset=True)
        assert (plan.total, plan.recorded) == (0, 3)
        b.commit(plan)
        assert b.run() == {}


class TestRecords:
    """Two rows and one record; one row and two records."""

    def test_rebuilt_surrogate_keys_send_nothing(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model([(11, "a", 1), (12, "b", 9), (13, "c", 3)])
        plan = b.plan()
        assert (b.keys(plan), plan.recorded) == ({"12": "changed"}, 2)
        b.commit(plan)
        assert b.plan().recorded == 0

    def test_rows_that_share_a_record_are_invalid_and_it_stays(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror", mapping={"email": "email"}))
        b.model([(1, "a", 1), (2, "b", 2)])
        b.run()
        b.model([(1, "a", 1), (3, "a ", 3)])
        plan = b.plan()
        assert (plan.planned, plan.causes) == (Planned(removed=1, invalid=2), {"duplicate_identifier": 2})
        b.commit(plan)
        b.model([(3, "a ", 3)])
        plan = b.plan()
        assert b.keys(plan) == {"3": "changed"}, "its text differs from what was sent"
        b.commit(plan)

    def test_case_counts_unless_the_sync_or_its_destination_says_so(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model([(1, "a", 1), (2, "A", 2)])
        assert b.plan().planned == Planned(added=2)
        destination = {"type": "file", "match_on": ["email"], "compare": "ignore_case"}
        b.sync = b.sync.model_copy(update={"destination": DestinationSpec(**destination)})
        assert b.plan().planned == Planned(invalid=2)

    def test_the_old_record_of_a_row_is_deleted_once_the_new_one_is_delivered(
        self, bench: Callable[..., Bench]
    ) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model([(1, "new", 1), *THREE[1:]])
        plan = b.plan()
        assert (b.keys(plan), plan.moved, plan.held) == ({"1": "added"}, 1, 1)
        b.commit(plan, {"1": REJECTED})
        plan = b.plan()
        assert (b.keys(plan), plan.held) == ({"1": "added"}, 1), "not delivered yet"
        b.commit(plan)
        plan = b.plan()
        [gone] = b.rows(plan)
        assert (gone["change"], gone["identifiers"], plan.held) == ("removed", {"email": "a"}, 0)

    def test_it_is_held_while_the_row_is_invalid(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model([(1, "", 1), *THREE[1:]])
        plan = b.plan()
        assert (plan.planned, plan.held, plan.skipped) == (Planned(invalid=1), 1, 0)
        b.commit(plan)
        b.model(THREE[1:])
        assert b.run() == {"1": "removed"}

    @pytest.mark.parametrize("mode", ["upsert", "update"])
    def test_other_modes_keep_the_old_record(self, bench: Callable[..., Bench], mode: str) -> None:
        b = bench(sync_of(mode))
        b.model(THREE)
        b.run()
        b.model([(1, "new", 1), *THREE[1:]])
        plan = b.plan()
        assert (b.keys(plan), plan.moved, plan.held) == ({"1": "added"}, 1, 0)
        b.commit(plan)
        b.model(THREE)
        assert b.plan().recorded + b.plan().total == 0, "the old record is still known"

    def test_an_insert_knows_the_row_under_its_old_record(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("insert"))
        b.model(THREE)
        b.run()
        b.model([(1, "new", 1), *THREE[1:], (4, "d", 4)])
        assert b.run() == {"4": "added"}

    def test_one_of_the_rows_is_enough_to_delete_a_record(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("delete"))
        b.model([(1, "a", 1), (2, "a", 1), (3, "c", 3)])
        assert b.run() == {"1": "added", "3": "added"}
        assert b.run() == {}

    def test_an_equal_row_with_a_known_primary_key_is_a_duplicate(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model([*THREE, (1, "other", 9)])
        plan = b.plan()
        assert (plan.planned, plan.causes) == (Planned(invalid=2), {"duplicate_key": 2})

    def test_records_that_the_destination_lacks_are_asked_for_once_a_day(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("update", retry={"missing": "36h"}))
        b.model(THREE)
        missing = Receipt(Outcome.SKIPPED, "not_found", "no such record")
        assert b.run({"2": missing}) == {"1": "added", "2": "added", "3": "added"}
        plan = b.plan()
        assert (plan.total, plan.skipped, plan.given_up) == (0, 1, 0)
        b.commit(plan)
        assert b.run({"2": missing}) == {"2": "added"}, "two days later"

    def test_a_mirror_refuses_identifiers_that_a_delete_cannot_repeat(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror", match_on=("at",), mapping={"email": "email", "at": "at"}))
        b.timed([(1, "a", at(1))])
        with pytest.raises(SpecError) as caught:
            b.plan()
        assert "destination.match_on: at is read as timestamp" in str(caught.value).replace("TIMESTAMP", "timestamp")


class TestPlaces:
    """State belongs to a place."""

    def test_another_place_stops_unless_told(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE)
        b.commit(b.plan(address="one"))
        b.model(THREE[:2])
        with pytest.raises(AttentionError, match="another place"):
            b.plan(address="two")
        kept = b.plan(address="two", on_destination_change="keep")
        assert (kept.notes, kept.planned) == (("destination_keep",), Planned(removed=1))
        plan = b.plan(address="two", on_destination_change="resync")
        assert (plan.notes, plan.planned) == (("destination_resync",), Planned(added=2)), "nothing is deleted there"
        b.commit(plan)
        assert b.plan(address="two").total == 0

    def test_state_without_a_place_takes_the_present_one(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        b.model(THREE)
        b.run()
        plan = b.plan(address="one")
        assert (plan.notes, plan.total) == (("destination_adopted",), 0)
        b.commit(plan)
        assert b.plan(address="one").notes == ()


class TestLostSnapshot:
    def test_it_is_reported_nothing_is_deleted_and_everything_is_sent_again(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror", initial="baseline", retry={"max_attempts": 1}))
        b.model(THREE)
        b.run()
        lose_snapshot(b.store, "s")
        b.model(THREE[:2])
        plan = b.plan()
        assert (plan.notes, plan.snapshot_rows) == (("snapshot_lost",), 0)
        assert b.keys(plan) == {"1": "added", "2": "added"}
        b.commit(plan)
        plan = b.plan()
        assert (plan.notes, plan.total, plan.snapshot_rows) == ((), 0, 2)

    def test_a_cursor_does_not_hide_rows_then(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(mapping={"email": "email"}, track=AT))
        b.timed([(1, "a", at(1)), (2, "b", at(2))])
        b.run()
        lose_snapshot(b.store, "s")
        assert b.run() == {"1": "added", "2": "added"}

    def test_a_snapshot_that_is_empty_rightly_is_not_lost(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror"))
        b.model(THREE[:1])
        b.run({"1": REJECTED})
        assert b.plan().notes == ()
        b.run()
        b.model([])
        assert b.run() == {"1": "removed"}
        assert b.plan().notes == ()


class TestRunOptions:
    @pytest.mark.parametrize("mode", ["upsert", "insert", "mirror", "delete"])
    def test_reset_counts_the_model_as_delivered(self, bench: Callable[..., Bench], mode: str) -> None:
        b = bench(sync_of(mode, retry={"max_attempts": 1}))
        b.model(THREE)
        b.run({"2": REJECTED})
        b.model([(1, "a", 9), THREE[1], (4, "d", 4)])
        plan = b.plan(reset=True)
        assert (plan.planned, plan.recorded, plan.skipped, plan.notes) == (Planned(), 3, 0, ("reset",))
        b.commit(plan)
        assert b.run() == {}
        b.model([(1, "a", 1), THREE[1], (4, "d", 4)])
        assert b.run() == ({"1": "changed"} if mode in ("upsert", "mirror") else {})

    def test_full_resync_sends_every_valid_row_and_leaves_removed_ones(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of("mirror", retry={"max_attempts": 1}))
        b.model([*THREE, (4, "d", 4)])
        b.run({"2": REJECTED})
        b.model([*THREE, (None, "x", 1)])
        plan = b.plan(full_resync=True)
        assert (plan.planned, plan.notes) == (Planned(added=3, invalid=1), ("full_resync",))
        assert b.keys(plan) == {"1": "added", "2": "added", "3": "added"}
        b.commit(plan)
        b.model(THREE)
        assert b.run() == {"4": "removed"}

    @pytest.mark.parametrize("mode", ["upsert", "insert", "delete"])
    def test_what_a_full_resync_did_not_deliver_is_sent_by_the_next_run(
        self, bench: Callable[..., Bench], mode: str
    ) -> None:
        b = bench(sync_of(mode))
        b.model(THREE)
        b.run()
        plan = b.plan(full_resync=True)
        first = b.rows(plan)[0]["key"]
        b.commit(plan, {first: REJECTED}, upto=2)
        assert len(b.run()) == 2
        assert b.run() == {}

    def test_options_that_contradict_are_refused(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of())
        with pytest.raises(ConfigurationError, match="cannot do both"):
            b.plan(reset=True, full_resync=True)
        b.sync = sync_of(track="none")
        with pytest.raises(ConfigurationError, match="keeps no record"):
            b.plan(reset=True)

    def test_a_full_read_follows_whatever_the_cursor_says(self, bench: Callable[..., Bench]) -> None:
        b = bench(sync_of(mapping={"email": "email"}, track=AT))
        b.timed([(1, "a", at(1)), (2, "b", at(2))])
        b.run()
        assert b.run(full_resync=True) == {"1": "added", "2": "added"}
        assert b.plan().model_rows == 1
