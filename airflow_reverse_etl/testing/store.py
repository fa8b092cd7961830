"""State store in memory: the rules of :class:`~airflow_reverse_etl.sync.ports.StateStore` in plain Python.

It is also the model that other stores are tested against. It compares rows one by one, so it is simple, and slow.
:mod:`.model_rows` reads a model, :mod:`.record_rules` decides what is sent, and this module keeps the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Literal

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.spec.comparison import Comparison, State
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.receipts import Outcome, Receipt
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.statements.plan import MODES_IN_DOUBT
from airflow_reverse_etl.sync.comparing import comparison_for, outdated
from airflow_reverse_etl.sync.planning import make_plan
from airflow_reverse_etl.sync.ports import KINDS, Plan, PlanRequest, StateStore, Warehouse
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.testing.model_rows import (
    differing_fields,
    hash_text,
    lowest,
    name_of_record,
    read_rows,
    with_bounds,
)
from airflow_reverse_etl.testing.record_rules import (
    IN_DOUBT,
    REMOVED,
    Classified,
    Delivered,
    Rejection,
    Rejections,
    Rules,
    Snapshot,
)

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1000

#: What happens to a record of the snapshot; ``""`` if it stays as it was.
_Fate = Literal["", "accepted", "in_doubt", "gone"]


@dataclass(slots=True)
class _Planned:
    """Uncommitted plan.

    :param mode: of the sync when the plan was made.
    :param generation: of the snapshot that the plan was made from.
    :param rows: all rows, including those that are not sent.
    :param values: values of the model's rows.
    :param sync: of the plan.
    """

    plan: Plan
    mode: str
    comparison: Comparison
    generation: int
    rows: Sequence[Classified]
    values: pa.Table
    sync: Sync
    #: Partition → number of the try that saved last, and its checkpoint.
    checkpoints: dict[int, tuple[int, Checkpoint]] = field(default_factory=dict)
    #: Partition → number of its last try.
    tries: dict[int, int] = field(default_factory=dict)

    def numbered(self) -> list[tuple[int, Classified]]:
        """Return the change set, with sequence numbers."""
        ordered = [row for kind in KINDS for row in self.rows if row.change == kind]
        return list(enumerate(ordered, 1))

    def unsent(self) -> Iterator[Classified]:
        """Yield the other rows."""
        return (row for row in self.rows if row.change not in KINDS)


@dataclass(slots=True)
class _State:
    """State of one sync."""

    snapshot: Snapshot = field(default_factory=dict)
    generation: int = 0
    rejections: Rejections = field(default_factory=dict)
    plans: dict[str, _Planned] = field(default_factory=dict)
    history: list[tuple[str, RunReport]] = field(default_factory=list)
    remembered: State | None = None
    lease: tuple[int, str, str, datetime | None] = (0, "", "", None)


class MemoryStateStore(StateStore):
    """State store that keeps everything in the memory of one process. Not safe for several threads."""

    def __init__(self) -> None:
        import duckdb

        self._duckdb = duckdb.connect()  # evaluates the mapping's expressions
        self._syncs: dict[str, _State] = {}
        self._numbers = count(1)
        self._writers: dict[str, tuple[str, datetime]] = {}

    def snapshot(self, sync: str) -> set[str]:
        """Return the primary keys of the rows that the destination has acknowledged."""
        return {delivered.key for delivered in self._state(sync).snapshot.values()}

    def history(self, sync: str) -> list[RunReport]:
        """Return the reports of all committed runs, oldest first."""
        return [report for _, report in self._state(sync).history]

    def unfinished(self, sync: str) -> Sequence[Plan]:
        return [planned.plan for planned in self._state(sync).plans.values()]

    def last_report(self, sync: str, run_id: str) -> RunReport | None:
        return next((report for report in reversed(self.history(sync)) if report.run_id == run_id), None)

    # -- plans -------------------------------------------------------------------------------------------------------

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        sync = request.sync
        state = self._state(sync.name)
        comparison = comparison_for(request, state.remembered, snapshot_rows=len(state.snapshot))
        model, values = read_rows(request, comparison, warehouse, self._duckdb.cursor())
        rows = list(Rules(request, comparison, model, state.snapshot, state.rejections).classified())
        repeated = [row.row.cursor for row in rows if row.row and row.cause.startswith("duplicate")]
        comparison = with_bounds(comparison, model, repeated, request.now)
        counts = Counter((row.change, row.cause, row.code) for row in rows if row.change != "ignored")
        plan = make_plan(
            request,
            f"plan-{next(self._numbers)}",
            [(*what, times) for what, times in counts.items()],
            model_rows=len(model),
            snapshot_rows=len(state.snapshot),
            comparison=comparison,
        )
        state.plans[plan.plan_id] = _Planned(plan, sync.mode, comparison, state.generation, rows, values, sync)
        return plan

    def changes(self, plan: Plan, *, after: int = 0, until: int | None = None) -> Generator[pa.RecordBatch, None, None]:
        planned = self._planned(plan)
        numbered = planned.numbered()[after:until]
        for start in range(0, len(numbered), _BATCH_ROWS):
            part = numbered[start : start + _BATCH_ROWS]
            batch = _batch(part, planned.values)
            if planned.sync.sends_changed:
                batch = self._with_hashes(batch, part, planned)
            yield batch

    def sequence_numbers(self, plan: Plan, records: Collection[str]) -> dict[str, int]:
        found = {name_of_record(str(row.record)): seq for seq, row in self._planned(plan).numbered()}
        return {name: seq for name, seq in found.items() if name in records}

    def changed_fields(
        self, plan: Plan, sync: Sync, *, after: int = 0, until: int | None = None
    ) -> dict[int, tuple[str, ...] | None]:
        planned = self._planned(plan)
        snapshot = self._state(plan.sync).snapshot
        found: dict[int, tuple[str, ...] | None] = {}
        for seq, row in planned.numbered()[after:until]:
            if row.change != "changed":
                continue
            before = snapshot.get(str(row.record))
            found[seq] = None
            if before and before.fields and planned.sync.track_fields and before.fingerprint != IN_DOUBT:
                found[seq] = differing_fields(sync, before.fingerprint, row.fingerprint)
        return found

    def invalid_keys(self, plan: Plan, *, count: int) -> dict[str, list[str]]:
        keys: dict[str, set[str]] = {}
        for row in self._planned(plan).rows:
            if row.change == "invalid" and row.key is not None:
                keys.setdefault(row.cause, set()).add(row.key)
        return {cause: sorted(found)[:count] for cause, found in keys.items()}

    def begin_try(self, plan: Plan, *, partition: int = 0) -> int:
        tries = self._planned(plan).tries
        tries[partition] = tries.get(partition, 0) + 1
        return tries[partition]

    def last_try(self, plan: Plan, *, partition: int = 0) -> int:
        planned = self._state(plan.sync).plans.get(plan.plan_id)
        return planned.tries.get(partition, 0) if planned else 0

    def load_checkpoint(self, plan: Plan, *, partition: int = 0) -> Checkpoint:
        saved = self._planned(plan).checkpoints.get(partition)
        return saved[1].copy() if saved else Checkpoint()

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int = 0, try_number: int = 0) -> None:
        saved = self._planned(plan).checkpoints
        if partition not in saved or saved[partition][0] <= try_number:
            saved[partition] = try_number, checkpoint.copy()

    def checkpoints(self, plan: Plan) -> dict[int, Checkpoint]:
        saved = self._planned(plan).checkpoints
        return {partition: checkpoint.copy() for partition, (_, checkpoint) in saved.items()}

    # -- the end of a run --------------------------------------------------------------------------------------------

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: RunReport, sync: Sync) -> None:  # noqa: ARG002 - the plan has it
        state = self._state(plan.sync)
        if all(plan_id != plan.plan_id for plan_id, _ in state.history):
            commit = _Commit(state, self._planned(plan), checkpoint)
            commit.replace_snapshot()
            commit.replace_rejections()
            commit.remember()
            state.history.append((plan.plan_id, report))
        state.plans.pop(plan.plan_id, None)

    def discard(self, plan: Plan) -> None:
        self._state(plan.sync).plans.pop(plan.plan_id, None)

    def acquire(
        self, sync: str, holder: str, *, now: datetime, seconds: float, fence: int | None = None, label: str = ""
    ) -> int:
        state = self._state(sync)
        number, held_by, described, until = state.lease
        busy = until is not None and until > now
        refused = busy and held_by != holder
        if fence is not None:
            refused = fence != number or until is None
        if refused:
            raise RunConflictError(
                f"another run of this sync is at work: {described or held_by}",
                todo="let it finish, then try again",
                until=until if fence is None else None,
                sync=sync,
            )
        if fence is None and not busy:
            number += 1
        state.lease = (number, holder, label, now + timedelta(seconds=seconds))
        return number

    def release(self, sync: str, *, fence: int) -> None:
        state = self._state(sync)
        if state.lease[0] == fence:
            state.lease = (*state.lease[:3], None)

    def writers(self, address: str) -> dict[str, datetime]:
        return {sync: last for sync, (where, last) in self._writers.items() if where == address}

    def register_writer(self, sync: str, address: str, now: datetime) -> None:
        where, last = self._writers.get(sync, ("", now))
        if where != address or now - last > timedelta(days=1):
            self._writers[sync] = address, now

    def _with_hashes(
        self, batch: pa.RecordBatch, numbered: Sequence[tuple[int, Classified]], planned: _Planned
    ) -> pa.RecordBatch:
        """Add what decides about the fields that are sent. A row that was rejected before is sent whole."""
        import pyarrow as pa

        state = self._state(planned.plan.sync)
        rejected = {record for record, _ in state.rejections}
        now: list[str | None] = []
        before: list[str | None] = []
        for _, row in numbered:
            known = state.snapshot.get(str(row.record))
            now.append(hash_text(planned.sync, row.fingerprint) if row.row else None)
            if known is None or known.fields != "sent" or known.fingerprint == IN_DOUBT or row.record in rejected:
                before.append(None)
            else:
                before.append(hash_text(planned.sync, known.fingerprint))
        columns = {name: batch.column(name) for name in batch.schema.names}
        columns |= {"field_hashes": pa.array(now, pa.string()), "hashes_before": pa.array(before, pa.string())}
        return pa.RecordBatch.from_pydict(columns)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _state(self, sync: str) -> _State:
        return self._syncs.setdefault(sync, _State())

    def _planned(self, plan: Plan) -> _Planned:
        try:
            return self._state(plan.sync).plans[plan.plan_id]
        except KeyError:
            raise RunConflictError(
                "this plan is committed or discarded",
                todo="let the next run plan again",
                sync=plan.sync,
                run=plan.run_id,
            ) from None


def _batch(numbered: Sequence[tuple[int, Classified]], values: pa.Table) -> pa.RecordBatch:
    """Return rows of a change set in the form that StateStore.changes promises."""
    import pyarrow as pa

    rows = [row for _, row in numbered]
    positions = [row.row.at if row.row else None for row in rows]
    taken = values.take(pa.array(positions, pa.int64())).combine_chunks()
    keys = [str(seq) if row.key is None else row.key for seq, row in numbered]
    identifiers = [row.identifiers if row.change == "removed" else None for row in rows]
    columns = {
        "seq": pa.array([seq for seq, _ in numbered], pa.int64()),
        "change": pa.array([row.change for row in rows], pa.string()),
        "key": pa.array(keys, pa.string()),
        **{name: taken.column(name).combine_chunks() for name in taken.column_names},
        "identifiers": pa.array(identifiers, pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)


class _Commit:
    """Commit of one plan."""

    def __init__(self, state: _State, planned: _Planned, checkpoint: Checkpoint) -> None:
        self._state = state
        self._planned = planned
        self._comparison = planned.comparison
        self._numbered = planned.numbered()
        self._settled = checkpoint.settled
        self._in_doubt = checkpoint.in_doubt()
        self._failed: dict[int, Receipt] = {}
        for seq, _ in self._numbered:
            receipt = checkpoint.receipt(seq)
            if receipt:
                self._failed[seq] = receipt

    def replace_snapshot(self) -> None:
        """Bring the snapshot up to date.

        :raises RunConflictError: another plan changed the snapshot since this one was made.
        """
        if not self._comparison.tracked:
            return
        state = self._state
        if state.generation != self._planned.generation:
            raise outdated(self._planned.plan)
        before = state.snapshot
        after = {} if self._comparison.drops_snapshot else dict(before)
        for seq, row in self._numbered:
            _apply(after, row, self._fate(seq, row), fields=self._fields_of(row))
        for row in self._planned.unsent():
            fates: dict[str, _Fate] = {"forgotten": "gone", "recorded": "accepted"}
            _apply(after, row, fates.get(row.change, ""), fields=self._fields_of(row))
        state.snapshot = after
        if after != before:
            state.generation += 1

    def _fields_of(self, row: Classified) -> Literal["", "named", "sent"]:
        """Return what is known of the fields of a row that enters the snapshot."""
        sync = self._planned.sync
        if not sync.sends_changed:
            return "named" if sync.track_fields else ""
        # A row that is recorded without being sent may have fields that the destination has not.
        known = self._state.snapshot.get(str(row.record))
        differs = known is not None and known.fingerprint != row.fingerprint
        return "" if row.change == "recorded" and differs and self._comparison.recorded != "all" else "sent"

    def _fate(self, seq: int, row: Classified) -> _Fate:
        """Return what happens to the record of a row that was to be sent."""
        if seq in self._settled and seq not in self._failed:
            return "gone" if row.change == "removed" else "accepted"

        # The destination may not have any more what was delivered, if all rows were to be sent again.
        resent = self._comparison.resent
        doubtful = seq in self._in_doubt
        if seq in self._failed:
            doubtful = self._failed[seq].outcome is Outcome.UNKNOWN
        if resent and not self._comparison.drops_snapshot:
            doubtful = doubtful or row.record in self._state.snapshot
        if doubtful and self._planned.mode in MODES_IN_DOUBT:
            return "in_doubt"
        return "gone" if resent else ""

    def replace_rejections(self) -> None:
        """Bring the rejections up to date."""
        earlier = self._state.rejections
        if self._comparison.drops_rejections:
            earlier = {}
        after = self._kept(earlier)
        for seq, row in self._numbered:
            receipt = self._failed.get(seq)
            missing = receipt is not None and receipt.outcome is Outcome.SKIPPED
            if receipt is None or row.record is None or (missing and self._planned.mode != "update"):
                continue
            name = (row.record, row.fingerprint)
            after[name] = _rejected_again(earlier.get(name), row, receipt, now=self._planned.plan.created_at)
        self._state.rejections = after

    def _kept(self, earlier: Rejections) -> Rejections:
        """Return the earlier rejections of rows that were not delivered since, and that the model still has."""
        settled = {row.record for seq, row in self._numbered if seq in self._settled}
        if self._comparison.low:  # a row that was not read is as it was
            return {name: old for name, old in earlier.items() if name[0] not in settled}
        waiting = {row.record for seq, row in self._numbered if seq not in self._settled}
        waiting |= {row.record for row in self._planned.unsent() if row.change in ("skipped", "invalid")}
        claimed = {row.record for row in self._planned.rows if row.row}
        invalid_keys = {row.key for row in self._planned.rows if row.change == "invalid"}
        kept = {}
        for (record, fingerprint), old in earlier.items():
            if fingerprint == REMOVED:
                # It would begin from scratch: a row has named the record again.
                still = record in waiting and record not in claimed
            else:
                still = record in waiting or old.key in invalid_keys
            if still:
                kept[record, fingerprint] = old
        return kept

    def remember(self) -> None:
        """Store the state for the next plan."""
        state = self._state
        cursors = [row.row.cursor for seq, row in self._numbered if row.row and self._is_open(seq)]
        state.remembered = self._comparison.state_after(
            state.remembered, rows=len(state.snapshot), open_rows=lowest(cursors)
        )

    def _is_open(self, seq: int) -> bool:
        """Return whether a row must be read again: it was not settled, rejected, or in doubt."""
        if seq in self._failed:
            return self._failed[seq].outcome is not Outcome.SKIPPED
        return seq not in self._settled


def _apply(snapshot: Snapshot, row: Classified, fate: _Fate, *, fields: Literal["", "named", "sent"]) -> None:
    """Apply the fate of a row's record to a snapshot."""
    if not fate or row.record is None:
        return
    if fate == "gone":
        snapshot.pop(row.record, None)
    elif fate == "in_doubt":
        snapshot[row.record] = Delivered(IN_DOUBT, row.identifiers, str(row.key))
    else:
        snapshot[row.record] = Delivered(row.fingerprint, row.identifiers, str(row.key), fields)


def _rejected_again(old: Rejection | None, row: Classified, receipt: Receipt, *, now: datetime) -> Rejection:
    """Count one more rejection of a row. A row that the destination does not have counts no attempt."""
    attempts = 0
    first_seen = now
    if old and old.outcome is not Outcome.SKIPPED:
        attempts = old.attempts
        first_seen = old.first_seen
    attempts = 0 if receipt.outcome is Outcome.SKIPPED else attempts + 1
    return Rejection(str(row.key), attempts, first_seen, now, receipt.outcome, receipt.code)
