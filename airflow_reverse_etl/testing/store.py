"""State store in memory: the rules of :class:`~airflow_reverse_etl.sync.ports.StateStore` in plain Python.

It is also the model that other stores are tested against. It compares rows one by one, so it is simple, and slow.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.spec.comparison import Bound, Comparison, Kind, State
from airflow_reverse_etl.spec.field_types import is_blank
from airflow_reverse_etl.spec.model import Sync, TemplateField, ValueField
from airflow_reverse_etl.spec.receipts import REPLY_NOT_READ, Outcome, Receipt
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.spec.templates import template_reads
from airflow_reverse_etl.sql.statements.plan import MODES_IN_DOUBT, plan_statement
from airflow_reverse_etl.sync.comparing import comparison_for, outdated
from airflow_reverse_etl.sync.load.records import unnamed
from airflow_reverse_etl.sync.planning import make_plan
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, StateStore, Warehouse
from airflow_reverse_etl.sync.progress import Checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

_KINDS = ("added", "changed", "removed")
_LEFT = ("skipped", "forgotten", "recorded")
#: Fingerprint of a removal.
_REMOVED = "removed"
#: Fingerprint of a row in doubt.
_IN_DOUBT = "in_doubt"
#: Kinds of rows that a mode sends.
_SENT = {
    "upsert": {"added", "changed"},
    "insert": {"added"},
    "update": {"added", "changed"},
    "mirror": {"added", "changed", "removed"},
    "append": {"added"},
    "delete": {"added"},
}


@dataclass(frozen=True, slots=True)
class _Row:
    """Row of the model, or one that is no longer in the model.

    :param at: position of the row in the model's values.
    :param unnamed: an identifier of the row is null or blank.
    """

    key: str | None
    fingerprint: str
    identifiers: str | None
    at: int | None = None
    cursor: Any = None
    unnamed: bool = False


@dataclass(slots=True)
class _Rejection:
    fingerprint: str
    attempts: int
    first_seen: datetime
    last_seen: datetime
    outcome: Outcome
    code: str


@dataclass(slots=True)
class _Planned:
    """Uncommitted plan: its rows by sequence number, their values, and the other input of the commit."""

    plan: Plan
    mode: str
    comparison: Comparison
    generation: int
    rows: list[tuple[str, _Row]]
    values: pa.Table
    left: dict[str, dict[str, _Row]]
    invalid: dict[str, set[str]]
    fields: bool
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)


@dataclass(slots=True)
class _State:
    """State of one sync. ``snapshot``: key → (fingerprint, identifiers, True if fields are tracked)."""

    snapshot: dict[str, tuple[str, str | None, bool]] = field(default_factory=dict)
    generation: int = 0
    rejections: dict[str, _Rejection] = field(default_factory=dict)
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

    def snapshot(self, sync: str) -> set[str]:
        """Return the keys that the destination has acknowledged."""
        return set(self._state(sync).snapshot)

    def history(self, sync: str) -> list[RunReport]:
        """Return the reports of all committed runs, oldest first."""
        return [report for _, report in self._state(sync).history]

    def unfinished(self, sync: str) -> Sequence[Plan]:
        return [planned.plan for planned in self._state(sync).plans.values()]

    def last_report(self, sync: str, run_id: str) -> RunReport | None:
        return next((report for report in reversed(self.history(sync)) if report.run_id == run_id), None)

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        sync = request.sync
        state = self._state(sync.name)
        comparison = comparison_for(request, state.remembered, snapshot_rows=len(state.snapshot))
        rows, values = _model(request, comparison, warehouse, self._duckdb.cursor())
        found = _compare(sync, rows, state.snapshot if comparison.compared else {}, comparison)
        repeated = {key for key, times in Counter(row.key for row in rows if row.key).items() if times > 1}
        classified = [
            (*_classify(sync, kind, row, state, repeated, request.now, comparison), row) for kind, row in found
        ]
        comparison = _with_bounds(comparison, rows, repeated, request.now)
        counts = Counter((kind, cause, code) for kind, cause, code, _ in classified)
        plan = make_plan(
            request,
            f"plan-{next(self._numbers)}",
            [(*what, times) for what, times in counts.items()],
            model_rows=len(rows),
            snapshot_rows=len(state.snapshot),
            comparison=comparison,
        )
        kinds = [(kind, row) for kind, _, _, row in classified]
        invalid: dict[str, set[str]] = {}
        for kind, cause, _, row in classified:
            if kind == "invalid" and row.key is not None:
                invalid.setdefault(cause, set()).add(row.key)
        state.plans[plan.plan_id] = _Planned(
            plan,
            sync.mode,
            comparison,
            state.generation,
            rows=[(kind, row) for wanted in _KINDS for kind, row in kinds if kind == wanted],
            values=values,
            left={name: {str(row.key): row for kind, row in kinds if kind == name} for name in _LEFT},
            invalid=invalid,
            fields=sync.track_fields,
        )
        return plan

    def changes(self, plan: Plan, *, after: int = 0, until: int | None = None) -> Generator[pa.RecordBatch, None, None]:
        import pyarrow as pa

        planned = self._planned(plan)
        numbered = list(enumerate(planned.rows, 1))[after:until]
        for start in range(0, len(numbered), 1000):
            rows = numbered[start : start + 1000]
            values = planned.values.take(pa.array([row.at for _, (_, row) in rows], pa.int64())).combine_chunks()
            columns = {
                "seq": pa.array([seq for seq, _ in rows], pa.int64()),
                "change": pa.array([kind for _, (kind, _) in rows], pa.string()),
                "key": pa.array([str(seq) if row.key is None else row.key for seq, (_, row) in rows], pa.string()),
                **{name: values.column(name).combine_chunks() for name in values.column_names},
                "identifiers": pa.array(
                    [row.identifiers if kind == "removed" else None for _, (kind, row) in rows], pa.string()
                ),
            }
            yield pa.RecordBatch.from_pydict(columns)

    def changed_fields(
        self, plan: Plan, sync: Sync, *, after: int = 0, until: int | None = None
    ) -> dict[int, tuple[str, ...] | None]:
        planned = self._planned(plan)
        snapshot = self._state(plan.sync).snapshot
        found = {}
        for seq, (kind, row) in list(enumerate(planned.rows, 1))[after:until]:
            if kind == "changed":
                before, _, kept = snapshot[str(row.key)]
                known = kept and planned.fields and before != _IN_DOUBT
                found[seq] = _differing(sync, before, row.fingerprint) if known else None
        return found

    def invalid_keys(self, plan: Plan, *, count: int) -> dict[str, list[str]]:
        return {cause: sorted(keys)[:count] for cause, keys in self._planned(plan).invalid.items()}

    def load_checkpoint(self, plan: Plan, *, partition: int = 0) -> Checkpoint:
        saved = self._planned(plan).checkpoints.get(partition)
        return saved.copy() if saved else Checkpoint()

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int = 0) -> None:
        self._planned(plan).checkpoints[partition] = checkpoint.copy()

    def checkpoints(self, plan: Plan) -> Sequence[Checkpoint]:
        return [saved.copy() for saved in self._planned(plan).checkpoints.values()]

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: RunReport, sync: Sync) -> None:  # noqa: ARG002 - the plan has it
        state = self._state(plan.sync)
        if all(plan_id != plan.plan_id for plan_id, _ in state.history):
            planned = self._planned(plan)
            if planned.comparison.tracked:
                self._fold(state, planned, checkpoint)
            state.remembered = planned.comparison.state_after(
                state.remembered, rows=len(state.snapshot), open_rows=_open_cursor(planned, checkpoint)
            )
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
        if busy and held_by != holder if fence is None else fence != number:
            raise RunConflictError(
                f"another run of this sync is at work: {described or held_by}",
                todo="let it finish, then try again",
                sync=sync,
            )
        state.lease = number + (fence is None and not busy), holder, label, now + timedelta(seconds=seconds)
        return state.lease[0]

    def release(self, sync: str, *, fence: int) -> None:
        state = self._state(sync)
        if state.lease[0] == fence:
            state.lease = (*state.lease[:3], None)

    def _fold(self, state: _State, planned: _Planned, checkpoint: Checkpoint) -> None:
        if state.generation != planned.generation:
            raise outdated(planned.plan)
        comparison = planned.comparison
        before = state.snapshot
        state.snapshot = {} if comparison.anew else dict(before)
        if comparison.drops_rejections:
            state.rejections = {}

        # Apply the outcome of each row.
        rejections: dict[str, _Rejection] = {}
        unsettled: set[str] = set()
        settled: set[str] = set()
        in_doubt = {seq for rows in checkpoint.in_doubt() for seq in rows}
        for seq, (kind, row) in enumerate(planned.rows, 1):
            key = str(row.key)
            failed = checkpoint.receipt(seq)
            outcome = failed.outcome if failed else None
            missed = (
                comparison.resent and key in state.snapshot and (seq not in checkpoint.settled or outcome is not None)
            )
            if missed:
                state.snapshot.pop(key)
            if planned.mode in MODES_IN_DOUBT and (seq in in_doubt or missed or outcome is Outcome.UNKNOWN):
                state.snapshot[key] = _IN_DOUBT, row.identifiers, False
            (settled if seq in checkpoint.settled else unsettled).add(key)
            if seq not in checkpoint.settled:
                continue
            if failed:
                if outcome is not Outcome.SKIPPED:
                    rejections[key] = _rejected_again(state.rejections.get(key), row, planned.plan.created_at, failed)
            elif kind == "removed":
                state.snapshot.pop(key, None)
            else:
                state.snapshot[key] = row.fingerprint, row.identifiers, planned.fields

        # Apply what the plan found without sending.
        for key in planned.left["forgotten"]:
            state.snapshot.pop(key, None)
        for key, row in planned.left["recorded"].items():
            state.snapshot[key] = row.fingerprint, row.identifiers, planned.fields
        state.generation += state.snapshot != before
        state.rejections = _kept_rejections(state, planned, settled, unsettled) | rejections

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


def _kept_rejections(state: _State, planned: _Planned, settled: set[str], unsettled: set[str]) -> dict[str, _Rejection]:
    """Return the earlier rejections of rows that are still not delivered."""
    # With a cursor, a row that was not read is as it was.
    if planned.comparison.low:
        read = settled | planned.left["recorded"].keys()
        return {key: old for key, old in state.rejections.items() if key not in read}

    still = unsettled | planned.left["skipped"].keys()
    for keys in planned.invalid.values():
        still |= {key for key in keys if key in state.rejections and state.rejections[key].fingerprint != _REMOVED}
    return {key: old for key, old in state.rejections.items() if key in still}


def _compare(
    sync: Sync, rows: Sequence[_Row], snapshot: Mapping[str, tuple[str, str | None, bool]], comparison: Comparison
) -> Iterator[tuple[str, _Row]]:
    """Yield the rows of model and snapshot, each with the result of its comparison."""
    if not sync.tracked:
        yield from (("null" if row.fingerprint == "" else "added", row) for row in rows)
        return
    for row in rows:
        known = snapshot.get(row.key) if row.key is not None else None
        if known and row.identifiers is None:  # kept in case the sync becomes a mirror again
            row = replace(row, identifiers=known[1])
        if row.key is None:
            yield "null", row
        elif known is None:
            yield "added", row
        elif comparison.recorded == "known" and known[0] not in (row.fingerprint, _IN_DOUBT):
            yield "known", row
        elif known[0] != row.fingerprint or (sync.mode == "mirror" and known[1] is None):
            yield "changed", row
        else:
            yield "unchanged", row

    # With a cursor, a row that was not read is not gone.
    gone = set() if comparison.low else snapshot.keys() - {row.key for row in rows}
    for key in gone:
        stored = json.loads(snapshot[key][1] or "{}")
        lost = bool(list(unnamed([stored], sync.destination.match_on, stored=True)))
        yield "gone", _Row(key, _REMOVED, snapshot[key][1], unnamed=lost)


def _classify(
    sync: Sync, found: str, row: _Row, state: _State, repeated: set[str], now: datetime, comparison: Comparison
) -> tuple[str, str, str]:
    """Classify a compared row: its change, the cause of ``invalid`` or ``skipped``, the code of its last rejection."""
    sent = _SENT[sync.mode]
    if found == "null":
        return "invalid", "null_key", ""
    if found != "gone" and row.key in repeated:
        return "invalid", "duplicate_key", ""
    if found != "gone" and row.unnamed:
        return "invalid", "no_identifier", ""
    if found == "gone" and (sync.mode == "delete" or (sync.mode == "mirror" and comparison.recorded == "all")):
        return "forgotten", "", ""
    if found == "unchanged":
        return "ignored", "", ""
    if (comparison.recorded == "all" and found != "gone") or (
        found == "known" and str(row.key) not in state.rejections
    ):
        return "recorded", "", ""
    change = {"gone": "removed", "known": "changed"}.get(found, found)
    if change not in sent:
        return "ignored", "", ""
    if found == "gone" and (row.identifiers is None or row.unnamed):
        return "forgotten", "", ""
    rejection = state.rejections.get(str(row.key)) if sync.tracked and not comparison.forgiven else None
    if rejection and _is_sent_again(rejection, sync, comparison):
        return change, "", ""
    if rejection and rejection.fingerprint == row.fingerprint:
        too_old = rejection.first_seen <= now - sync.retry.max_age
        maybe_written = rejection.outcome is Outcome.UNKNOWN
        if maybe_written or too_old or rejection.attempts >= sync.retry.max_attempts:
            return "skipped", "in_doubt" if maybe_written else "given_up", rejection.code
    return change, "", ""


def _is_sent_again(rejection: _Rejection, sync: Sync, comparison: Comparison) -> bool:
    """Return whether the reply about a row could not be read, and the sync's destination was corrected since."""
    if rejection.code != REPLY_NOT_READ or sync.failure.on_unknown != "resend":
        return False
    return f"{rejection.last_seen:%Y-%m-%d %H:%M:%S.%f}" < comparison.destination_since


def _with_bounds(comparison: Comparison, rows: Sequence[_Row], repeated: set[str], now: datetime) -> Comparison:
    """Add the highest cursor that is not in the future, and the lowest cursor of rows whose key is repeated."""
    cursors = [row.cursor for row in rows if row.cursor is not None]
    if not cursors:
        return comparison
    kind = _cursor_kind(cursors[0])
    latest = Bound.latest(kind, now)
    past = [cursor for cursor in cursors if latest is None or _comparable(cursor) <= latest.value]
    twice = [row.cursor for row in rows if row.key in repeated and row.cursor is not None]
    return comparison.seen(kind, _text(max(past, default=None)), _text(min(twice, default=None)))


def _open_cursor(planned: _Planned, checkpoint: Checkpoint) -> str | None:
    """Return the lowest cursor of a row that must be read again: rejected, not settled, or in doubt."""
    cursors = [
        row.cursor
        for seq, (_, row) in enumerate(planned.rows, 1)
        if seq not in checkpoint.settled or (seq in checkpoint.failed and checkpoint.failed[seq][0] != Outcome.SKIPPED)
    ]
    return _text(min((cursor for cursor in cursors if cursor is not None), default=None))


def _cursor_kind(cursor: Any) -> Kind:
    if isinstance(cursor, datetime):
        return "instant" if cursor.tzinfo else "timestamp"
    return "date" if isinstance(cursor, date) else "number"


def _comparable(cursor: Any) -> Any:
    return cursor.astimezone(UTC).replace(tzinfo=None) if isinstance(cursor, datetime) and cursor.tzinfo else cursor


def _text(cursor: Any) -> str | None:
    cursor = _comparable(cursor)
    if cursor is None:
        return None
    return cursor.isoformat(" ") if isinstance(cursor, datetime) else str(cursor)


def _rejected_again(old: _Rejection | None, row: _Row, now: datetime, failed: Receipt) -> _Rejection:
    """Count one more rejection; the count starts again if the row's values have changed."""
    if old is None or old.fingerprint != row.fingerprint:
        return _Rejection(row.fingerprint, 1, now, now, failed.outcome, failed.code)
    return _Rejection(row.fingerprint, old.attempts + 1, old.first_seen, now, failed.outcome, failed.code)


def _model(
    request: PlanRequest, comparison: Comparison, warehouse: Warehouse, connection: Any
) -> tuple[list[_Row], pa.Table]:
    """Return the model's rows, and a table of their values: ``f0 …`` and ``r0 …``."""
    sync = request.sync
    statement = plan_statement(
        sync,
        query=request.query,
        primary_key=request.primary_key,
        columns=warehouse.columns(request.query),
        source=warehouse.dialect,
        planner="duckdb",
        comparison=comparison,
    )
    connection.register("extracted", warehouse.read(statement.extract).read_all())
    if statement.cursor:
        types = connection.sql(f"DESCRIBE {statement.mapped}").fetchall()
        statement.cursor_kind({name: kind for name, kind, *_ in types})
    texts = "".join(f", CAST({name} AS VARCHAR) AS text_{name}" for name in statement.keys)
    table = connection.sql(f"SELECT *{texts} FROM ({statement.mapped}) AS mapped").to_arrow_table()  # noqa: S608
    connection.close()
    values = table.select(list(statement.values))
    records = table.to_pylist()
    shape = {
        name: item.model_dump() for name, item in sync.mapping.items() if isinstance(item, ValueField | TemplateField)
    }
    named_by = [
        f"f{at}"
        for at, (name, item) in enumerate(sync.mapping.items())
        if name in sync.destination.match_on and not isinstance(item, ValueField | TemplateField)
    ]
    rows = []
    for at, record in enumerate(records):
        parts = [record[f"text_{name}"] for name in statement.keys]
        fields = sorted((name, repr(record[f"f{n}"])) for n, name in enumerate(sync.mapping))
        read = [repr(record[name]) for name in statement.values if name.startswith("r")]
        identifiers = _identifiers(request, record) if sync.mode == "mirror" else None
        null = bool(parts) and None in parts
        fingerprint = "" if null else json.dumps([fields, read, shape], default=str, sort_keys=True)
        key = None if null or not parts else _key(parts)
        lost = any(is_blank(record[name]) for name in named_by)
        rows.append(_Row(key, fingerprint, identifiers, at, record.get("w"), lost))
    return rows, values


def _differing(sync: Sync, before: str, now: str) -> tuple[str, ...] | None:
    """Return the fields that differ between two fingerprints of one mapping."""
    (old_fields, old_read, old_shape), (fields, read, shape) = json.loads(before), json.loads(now)
    if old_shape != shape or [name for name, _ in old_fields] != [name for name, _ in fields]:
        return None
    found = {name for (name, value), (_, old) in zip(fields, old_fields, strict=True) if value != old}
    for names, value, old in zip(template_reads(sync).values(), read, old_read, strict=True):
        found |= set(names) if value != old else set()
    return tuple(sorted(found)) or None


def _key(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else json.dumps(parts, separators=(",", ":"), ensure_ascii=False)


def _identifiers(request: PlanRequest, record: Mapping[str, Any]) -> str:
    """Return the identifiers that a delete needs, as JSON.

    These are the fields in ``match_on`` and those that map a key column, or else the key columns.
    """
    sync = request.sync
    keys = {name.lower() for name in request.primary_key}
    found: dict[str, Any] = {}
    for at, (name, source) in enumerate(sync.mapping.items()):
        if name not in sync.destination.match_on and not (isinstance(source, str) and source.lower() in keys):
            continue
        *parents, leaf = name.split(".")
        level = found
        for parent in parents:
            level = level.setdefault(parent, {})
        level[leaf] = source.value if isinstance(source, ValueField) else record[f"f{at}"]
    found = found or {name: record[f"k{at}"] for at, name in enumerate(request.primary_key)}
    return json.dumps(found, default=str, ensure_ascii=False)
