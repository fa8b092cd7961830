"""Conformance suite for state stores, as a pytest class to subclass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from airflow_reverse_etl.errors import ModelNotFoundError, RunConflictError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.receipts import Outcome, Receipt
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.sync.ports import FieldTracking, InvalidKeys, Plan, PlanRequest, StateStore
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.testing.conformance import needs
from airflow_reverse_etl.testing.fakes import MemoryWarehouse

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


class StateStoreConformance:
    """Suite to subclass: name the subclass ``Test…``, and give it a fixture ``store``.

    Every test plans, settles rows as a load does, commits, and plans again: the next plan shows whether the store keeps
    its promises. ``reopened`` returns the store as another process sees it.

    A test that needs an ability is skipped if the store does not have it: ``FieldTracking`` and ``InvalidKeys`` of
    ``airflow_reverse_etl.sync.ports``.

    :cvar strict: fail instead.
    """

    strict: ClassVar[bool] = False

    @pytest.fixture
    def store(self) -> StateStore:
        raise NotImplementedError("give the test class a fixture 'store'")

    @pytest.fixture(autouse=True)
    def _needed(self, request: pytest.FixtureRequest, store: StateStore) -> None:
        """Skip a test, or fail it, if the store does not have the ability that it needs."""
        needed = getattr(request.function, "needs", None)
        if needed and not isinstance(store, needed):
            (pytest.fail if self.strict else pytest.skip)(f"the store does not have the ability {needed.__name__}")

    def reopened(self, store: StateStore) -> StateStore:
        """Return the store. Override it to make a new store on the same state."""
        return store

    # -- one run -----------------------------------------------------------------------------------------------------

    def sync(self, mode: str = "upsert", **more: Any) -> Sync:
        """Build a sync of ``id`` and ``name``."""
        destination = {"type": "fake", "match_on": "id"}
        mapping = {"id": "id", "properties.name": "name"}
        values = {"name": "contacts", "model": "m", "source": "w", "destination": destination, "mapping": mapping}
        return Sync.load(values | {"mode": mode, "primary_key": "id"} | more)

    def plan(
        self,
        store: StateStore,
        names: Mapping[Any, Any] | Sequence[Mapping[str, Any]],
        *,
        sync: Sync | None = None,
        day: int = 0,
        run_id: str | None = None,
    ) -> Plan:
        """Make a plan for the rows ``id → name``."""
        import pyarrow as pa

        if isinstance(names, Mapping):
            rows = [{"id": key, "name": name} for key, name in names.items()]
        else:
            rows = [dict(row) for row in names]
        schema = pa.schema([("id", pa.string()), ("name", pa.string())])
        warehouse = MemoryWarehouse({"m": pa.Table.from_pylist(rows, schema=schema)})
        sync = sync or self.sync()
        request = PlanRequest(
            sync,
            "select * from m",
            sync.primary_key or (),
            run_id or f"run-{day}",
            _NOW + timedelta(days=day),
        )
        return store.plan(request, warehouse)

    def commit(
        self,
        store: StateStore,
        plan: Plan,
        *,
        sync: Sync | None = None,
        rejected: Sequence[str] = (),
        skipped: Sequence[str] = (),
        unsettled: Sequence[str] = (),
        announced: int | None = None,
    ) -> Checkpoint:
        """Settle every row, as accepted unless its key is listed, and commit."""
        checkpoint = Checkpoint(announced=plan.total if announced is None else announced)
        for seq, row in self.rows(store, plan).items():
            if row["key"] in unsettled:
                continue
            checkpoint.settled.add(seq, seq)
            if row["key"] in rejected:
                checkpoint.fail(seq, Receipt(Outcome.REJECTED, "INVALID", "no"))
            if row["key"] in skipped:
                checkpoint.fail(seq, Receipt(Outcome.SKIPPED, "NOT_FOUND", "no"))
        store.save_checkpoint(plan, checkpoint)
        store.commit(plan, checkpoint, self.report(plan, checkpoint), sync or self.sync())
        return checkpoint

    def deliver(
        self,
        store: StateStore,
        names: Mapping[Any, Any],
        *,
        sync: Sync | None = None,
        day: int = 0,
        **outcome: Any,
    ) -> None:
        """Make a plan for the rows ``id → name``, and commit it.

        :param outcome: arguments of ``commit``.
        """
        plan = self.plan(store, names, sync=sync, day=day)
        self.commit(store, plan, sync=sync, **outcome)

    @staticmethod
    def report(plan: Plan, checkpoint: Checkpoint) -> RunReport:
        """Build the report of a plan with this progress."""
        return RunReport(
            run_id=plan.run_id,
            planned=plan.planned,
            accepted=checkpoint.count(Outcome.ACCEPTED),
            rejected=checkpoint.count(Outcome.REJECTED),
            retryable=plan.total - len(checkpoint.settled),
            unknown=checkpoint.count(Outcome.UNKNOWN),
            skipped=checkpoint.count(Outcome.SKIPPED),
            requests=1,
            seconds=1.5,
            reasons=tuple(checkpoint.counted_reasons()),
        )

    @staticmethod
    def rows(store: StateStore, plan: Plan, **part: int) -> dict[int, dict[str, Any]]:
        """Read the change set: sequence number → row."""
        return {row["seq"]: row for batch in store.changes(plan, **part) for row in batch.to_pylist()}

    def planned(self, store: StateStore, plan: Plan) -> dict[str, set[str]]:
        """Return the keys of a plan by kind of change, and discard the plan."""
        found: dict[str, set[str]] = {}
        for row in self.rows(store, plan).values():
            found.setdefault(row["change"], set()).add(row["key"])
        store.discard(plan)
        return found

    # -- what is planned ---------------------------------------------------------------------------------------------

    def test_only_what_was_accepted_is_left_out_of_the_next_plan(self, store: StateStore) -> None:
        plan = self.plan(store, {"1": "Ada", "2": "Grace"})
        assert plan.planned == Planned(added=2)
        self.commit(store, plan)
        store = self.reopened(store)
        plan = self.plan(store, {"1": "Ada", "2": "Hopper", "3": "Joan"}, day=1)
        assert plan.total == 2
        assert plan.model_rows == 3
        assert plan.snapshot_rows == 2
        assert self.planned(store, plan) == {"changed": {"2"}, "added": {"3"}}

    def test_the_change_set_is_numbered_and_can_be_read_from_anywhere(self, store: StateStore) -> None:
        mirror = self.sync("mirror")
        self.deliver(store, {"1": "a", "2": "b", "3": "c"}, sync=mirror)
        plan = self.plan(store, {"1": "a", "2": "x", "4": None}, sync=mirror, day=1)
        rows = self.rows(store, plan)
        assert list(rows) == [1, 2, 3]
        removed, changed, added = rows.values()
        assert added["change"] == "added"
        assert (added["f0"], added["f1"]) == ("4", None)
        assert added["identifiers"] is None
        assert changed["change"] == "changed"
        assert (changed["f0"], changed["f1"]) == ("2", "x")
        assert changed["identifiers"] is None
        assert removed["change"] == "removed"
        assert removed["identifiers"] is not None
        assert list(self.rows(store, plan, after=1)) == [2, 3]
        assert list(self.rows(store, plan, after=1, until=2)) == [2]

    def test_null_and_repeated_keys_are_invalid_and_never_planned(self, store: StateStore) -> None:
        rows: list[dict[str, Any]] = [
            {"id": None, "name": "a"},
            {"id": "1", "name": "b"},
            {"id": "1", "name": "c"},
            {"id": "2", "name": "d"},
        ]
        plan = self.plan(store, rows)
        assert plan.planned == Planned(added=1, invalid=3)
        assert plan.model_rows == 4
        assert self.planned(store, plan) == {"added": {"2"}}

    def test_null_and_blank_identifiers_are_invalid_and_never_planned(self, store: StateStore) -> None:
        sync = self.sync("mirror", destination={"type": "fake", "match_on": "properties.name"})
        self.deliver(store, {"1": "a", "2": "b"}, sync=sync)
        plan = self.plan(store, {"1": None, "3": " \t", "4": "d"}, sync=sync, day=1)
        assert plan.planned == Planned(added=1, removed=1, invalid=2)
        assert plan.causes == {"no_identifier": 2}
        assert self.planned(store, plan) == {"added": {"4"}, "removed": {"2"}}

    @needs(InvalidKeys)
    def test_the_first_keys_of_invalid_rows_are_named(self, store: StateStore) -> None:
        assert isinstance(store, InvalidKeys)
        rows = [{"id": key, "name": name} for key, name in ((None, "a"), ("1", "b"), ("1", "c"), ("3", " "), ("2", ""))]
        sync = self.sync(destination={"type": "fake", "match_on": "properties.name"})
        plan = self.plan(store, rows, sync=sync)
        assert store.invalid_keys(plan, count=5) == {"duplicate_key": ["1"], "no_identifier": ["2", "3"]}
        assert store.invalid_keys(plan, count=1) == {"duplicate_key": ["1"], "no_identifier": ["2"]}

    def test_a_key_that_is_repeated_later_does_not_count_as_removed(self, store: StateStore) -> None:
        mirror = self.sync("mirror")
        self.deliver(store, {"1": "a"}, sync=mirror)
        twice = [{"id": "1", "name": "a"}, {"id": "1", "name": "a"}]
        plan = self.plan(store, twice, sync=mirror, day=1)
        assert plan.planned == Planned(invalid=2)

    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            ("upsert", {"changed": {"2"}, "added": {"4"}}),
            ("insert", {"added": {"4"}}),
            ("update", {"changed": {"2"}, "added": {"4"}}),
            ("mirror", {"changed": {"2"}, "added": {"4"}, "removed": {"3"}}),
            ("append", {"added": {"1", "2", "4"}}),
            ("delete", {"added": {"4"}}),
        ],
    )
    def test_a_mode_plans_its_part(self, store: StateStore, mode: str, expected: Mapping[str, set[str]]) -> None:
        sync = self.sync(mode)
        self.deliver(store, {"1": "a", "2": "b", "3": "c"}, sync=sync)
        plan = self.plan(store, {"1": "a", "2": "x", "4": "d"}, sync=sync, day=1)
        assert self.planned(store, plan) == expected

    def test_a_missing_column_is_named_and_no_plan_is_left(self, store: StateStore) -> None:
        with pytest.raises(ModelNotFoundError, match="surname"):
            self.plan(store, {"1": "a"}, sync=self.sync(mapping={"id": "id", "name": "surname"}))
        assert not store.unfinished("contacts")

    def test_syncs_do_not_affect_each_other(self, store: StateStore) -> None:
        self.deliver(store, {"1": "a"})
        plan = self.plan(store, {"1": "a"}, sync=self.sync(name="others"))
        assert plan.planned == Planned(added=1)

    # -- what was not accepted ---------------------------------------------------------------------------------------

    def test_a_rejected_row_stays_out_of_the_snapshot_with_its_newest_values(self, store: StateStore) -> None:
        self.deliver(store, {"1": "a", "2": "b"}, rejected=["2"])
        store = self.reopened(store)
        plan = self.plan(store, {"1": "a", "2": "newest"}, day=1)
        (row,) = self.rows(store, plan).values()
        assert row["change"] == "added"
        assert row["f1"] == "newest"

    def test_a_row_rejected_too_often_is_skipped_until_it_changes(self, store: StateStore) -> None:
        sync = self.sync(retry={"max_attempts": 2})
        self.deliver(store, {"1": "a"}, sync=sync, day=0, rejected=["1"])
        self.deliver(store, {"1": "a"}, sync=sync, day=1, rejected=["1"])
        plan = self.plan(store, {"1": "a"}, sync=sync, day=2)
        assert plan.total == 0
        assert plan.skipped == 1
        assert plan.given_up == 1
        assert plan.given_up_codes == {"INVALID": 1}
        self.commit(store, plan, sync=sync)
        plan = self.plan(store, {"1": "a"}, sync=sync, day=3)
        assert plan.skipped == 1, "a run without the row keeps its rejection"
        plan = self.plan(store, {"1": "b"}, sync=sync, day=3)
        assert plan.planned == Planned(added=1)

    def test_a_row_rejected_for_too_long_is_skipped(self, store: StateStore) -> None:
        sync = self.sync(retry={"max_age": "3d"})
        self.deliver(store, {"1": "a"}, sync=sync, rejected=["1"])
        plan = self.plan(store, {"1": "a"}, sync=sync, day=2)
        assert plan.total == 1
        plan = self.plan(store, {"1": "a"}, sync=sync, day=3)
        assert plan.skipped == 1

    def test_a_skipped_outcome_is_not_a_rejection_and_stays_out_of_the_snapshot(self, store: StateStore) -> None:
        sync = self.sync("update", retry={"max_attempts": 1})
        self.deliver(store, {"1": "a"}, sync=sync, skipped=["1"])
        plan = self.plan(store, {"1": "a"}, sync=sync, day=1)
        assert plan.planned == Planned(added=1)

    def test_rows_that_were_never_sent_are_planned_as_before(self, store: StateStore) -> None:
        self.deliver(store, {"1": "a", "2": "b"}, unsettled=["2"], announced=1)
        plan = self.plan(store, {"1": "a", "2": "b"}, day=1)
        assert self.planned(store, plan) == {"added": {"2"}}

    @pytest.mark.parametrize(("names", "expected"), [({"1": "a"}, "changed"), ({}, "removed")])
    def test_a_row_sent_without_an_answer_may_be_there(
        self, store: StateStore, names: Mapping[str, str], expected: str
    ) -> None:
        """A mirror sends the row again, or deletes it if the model no longer has it."""
        sync = self.sync("mirror")
        self.deliver(store, {"1": "a"}, sync=sync, unsettled=["1"])
        plan = self.plan(store, names, sync=sync, day=1)
        assert self.planned(store, plan) == {expected: {"1"}}

    def test_an_accepted_removal_leaves_the_snapshot_and_a_rejected_one_does_not(self, store: StateStore) -> None:
        sync = self.sync("mirror")
        self.deliver(store, {"1": "a", "2": "b"}, sync=sync)
        self.deliver(store, {}, sync=sync, day=1, rejected=["2"])
        plan = self.plan(store, {}, sync=sync, day=2)
        assert self.planned(store, plan) == {"removed": {"2"}}

    # -- which fields changed ----------------------------------------------------------------------------------------

    def changed_fields(self, store: StateStore, sync: Sync, names: Mapping[Any, Any], day: int) -> dict[str, Any]:
        """Make a plan, and return its changed rows: key → changed fields. The plan is not discarded."""
        assert isinstance(store, FieldTracking)
        plan = self.plan(store, names, sync=sync, day=day)
        rows = self.rows(store, plan)
        found = store.changed_fields(plan, sync)
        # Added rows come last, and have no changed fields.
        others = plan.total - plan.planned.added
        assert store.changed_fields(plan, sync, until=others).keys() == found.keys()
        assert not store.changed_fields(plan, sync, after=others)
        return {rows[seq]["key"]: fields for seq, fields in found.items()}

    @needs(FieldTracking)
    def test_the_changed_fields_are_named(self, store: StateStore) -> None:
        mapping = {
            "id": "id",
            "z": "name",
            "b.c": {"sql": "upper(name)"},
            "n": {"sql": "length(name)"},
            "t": {"template": "{{ row.name }}"},
        }
        sync = self.sync(mapping=mapping, track={"fields": True})
        self.deliver(store, {"1": "a", "2": "b", "3": "c", "4": ""}, sync=sync)
        store = self.reopened(store)
        names = {"0": "new", "1": "A", "2": "bb", "3": "c", "4": None}
        found = self.changed_fields(store, sync, names, day=1)
        assert found == {
            "1": ("t", "z"),
            "2": ("b.c", "n", "t", "z"),
            "4": ("b.c", "n", "t", "z"),
        }

    @needs(FieldTracking)
    def test_fields_of_rows_recorded_without_hashes_are_unknown_and_nothing_is_sent(self, store: StateStore) -> None:
        plain = self.sync()
        tracked = self.sync(track={"fields": True})
        self.deliver(store, {"1": "a", "2": "b", "3": "c"}, sync=plain)
        found = self.changed_fields(store, tracked, {"1": "x", "2": "b", "3": "c"}, day=1)
        assert found == {"1": None}
        # Only the row that is sent gets hashes.
        self.deliver(store, {"1": "x", "2": "b", "3": "c"}, sync=tracked, day=2)
        found = self.changed_fields(store, tracked, {"1": "y", "2": "y", "3": "c"}, day=3)
        assert found == {"1": ("properties.name",), "2": None}
        found = self.changed_fields(store, plain, {"1": "y", "2": "b", "3": "c"}, day=4)
        assert found == {"1": None}

    @needs(FieldTracking)
    def test_a_changed_mapping_and_a_row_in_doubt_do_not_count_as_changed_fields(self, store: StateStore) -> None:
        sync = self.sync(track={"fields": True})
        self.deliver(store, {"1": "a", "2": "b"}, sync=sync, unsettled=["2"])
        found = self.changed_fields(store, sync, {"1": "x", "2": "x"}, day=1)
        assert found == {"1": ("properties.name",), "2": None}
        mapping = {"id": "id", "properties.name": "name", "c": {"value": 1}}
        other = self.sync(mapping=mapping, track={"fields": True})
        found = self.changed_fields(store, other, {"1": "x"}, day=2)
        assert found == {"1": None}

    # -- tries ---------------------------------------------------------------------------------------------------------

    def test_a_released_lease_cannot_be_renewed(self, store: StateStore) -> None:
        fence = store.acquire("contacts", "run", now=_NOW, seconds=60)
        store.release("contacts", fence=fence)
        with pytest.raises(RunConflictError):
            store.acquire("contacts", "run", now=_NOW, seconds=60, fence=fence)
        assert store.acquire("contacts", "run", now=_NOW, seconds=60) > fence

    def test_each_try_has_a_higher_number_until_the_plan_is_gone(self, store: StateStore) -> None:
        plan = self.plan(store, {"1": "a", "2": "b"})
        assert store.last_try(plan) == 0
        assert [store.begin_try(plan), store.begin_try(plan), store.begin_try(plan, partition=1)] == [1, 2, 1]
        assert (store.last_try(plan), store.last_try(plan, partition=1)) == (2, 1)
        store.discard(plan)
        assert store.last_try(plan) == 0

    def test_a_try_cannot_replace_what_a_later_one_has_saved(self, store: StateStore) -> None:
        plan = self.plan(store, {"1": "a", "2": "b"})
        later = Checkpoint(requests=2)
        later.settled.add(1, 2)
        store.save_checkpoint(plan, Checkpoint(requests=1), try_number=1)
        store.save_checkpoint(plan, later, try_number=2)
        store.save_checkpoint(plan, Checkpoint(requests=9), try_number=1)
        assert store.load_checkpoint(plan).requests == 2
        found = self.reopened(store).checkpoints(plan)
        assert {partition: checkpoint.requests for partition, checkpoint in found.items()} == {0: 2}
        store.discard(plan)

    # -- plans and checkpoints ---------------------------------------------------------------------------------------

    def test_a_plan_is_unfinished_until_it_is_committed_or_discarded(self, store: StateStore) -> None:
        first = self.plan(store, {"1": "a"}, run_id="first")
        second = self.plan(store, {"2": "b"}, run_id="second", day=1)
        assert self.reopened(store).unfinished("contacts") == [first, second]
        store.discard(second)
        store.discard(second)
        self.commit(store, first)
        assert list(store.unfinished("contacts")) == []

    def test_a_checkpoint_is_kept_as_it_was_saved(self, store: StateStore) -> None:
        plan = self.plan(store, {"1": "a", "2": "b", "3": "c"})
        assert store.load_checkpoint(plan).to_json() == Checkpoint().to_json()
        checkpoint = Checkpoint(announced=3, requests=2, seconds=0.5)
        checkpoint.settled.add(2, 3)
        checkpoint.fail(3, Receipt(Outcome.REJECTED, "INVALID", "no"))
        store.save_checkpoint(plan, checkpoint)
        saved = checkpoint.to_json()
        checkpoint.settled.add(1, 1)
        store = self.reopened(store)
        assert store.load_checkpoint(plan).to_json() == saved
        assert store.load_checkpoint(plan, partition=1).to_json() == Checkpoint().to_json()
        store.save_checkpoint(plan, checkpoint, partition=1)
        assert store.checkpoints(plan).keys() == {0, 1}

    def test_a_commit_may_be_repeated(self, store: StateStore) -> None:
        plan = self.plan(store, {"1": "a"})
        checkpoint = self.commit(store, plan)
        self.reopened(store).commit(plan, checkpoint, self.report(plan, checkpoint), self.sync())
        assert self.plan(store, {"1": "a"}, day=1).total == 0

    def test_a_plan_made_before_another_commit_is_refused(self, store: StateStore) -> None:
        late = self.plan(store, {"1": "a", "2": "b"}, run_id="late")
        checkpoint = Checkpoint()
        checkpoint.settled.add(1, 2)
        self.commit(store, self.plan(store, {"1": "a"}, run_id="early"))
        with pytest.raises(RunConflictError):
            store.commit(late, checkpoint, self.report(late, checkpoint), self.sync())

    def test_the_lease_is_the_holders_and_its_label_is_for_people(self, store: StateStore) -> None:
        fence = store.acquire("contacts", "run", now=_NOW, seconds=60, label="DAG a, task load")
        store = self.reopened(store)
        assert store.acquire("contacts", "run", now=_NOW, seconds=60, label="DAG a, task commit") == fence
        with pytest.raises(RunConflictError, match="DAG a, task commit") as caught:
            store.acquire("contacts", "another", now=_NOW, seconds=60, label="DAG a, task commit")
        assert caught.value.until == _NOW + timedelta(seconds=60)
        store.release("contacts", fence=fence)
        assert store.acquire("contacts", "another", now=_NOW, seconds=60) > fence

    def test_the_report_of_a_run_is_kept(self, store: StateStore) -> None:
        plan = self.plan(store, {"1": "a", "2": "b"}, run_id="run")
        checkpoint = self.commit(store, plan, rejected=["2"])
        store = self.reopened(store)
        assert store.last_report("contacts", "run") == self.report(plan, checkpoint)
        assert store.last_report("contacts", "another") is None
