"""Random histories of a sync: models that change in awkward ways, a destination with faults, and a pair of stores."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from airflow_reverse_etl.errors import ReverseEtlError
from airflow_reverse_etl.spec.comparison import State
from airflow_reverse_etl.spec.field_types import BLANKS
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING
from airflow_reverse_etl.sync.ports import Capabilities, Limiter, Plan, PlanRequest, StateStore, Warehouse, usual
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.testing import CrashError, FrozenClock, MemoryStateStore

SCHEMA = pa.schema(
    [("id", pa.string()), ("email", pa.string()), ("n", pa.int64()), ("at", pa.int64()), ("handle", pa.string())]
)

#: Ways to write an e-mail address that all name the same record if case does not count.
SPELLINGS = ("{}", "{}", "{}", " {}", "{}\t", "{}\u00a0\r\n")
NOBODY = (None, "", " \t\u00a0")


@dataclass(frozen=True, slots=True)
class Row:
    """Row of a model.

    :param id: primary key.
    :param at: number of the step in which the row last changed.
    :param handle: name that only one record may have, in histories with such names.
    """

    id: str | None
    email: str | None
    n: int
    at: int
    handle: str | None = None


# -- models ----------------------------------------------------------------------------------------------------------


class People:
    """Two to four people in a model, and what happens to them. Different people never meet those of other histories."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self._rng = rng
        self._number = number
        self._people = rng.randint(2, 4)
        self._keys = 0
        self._step = 0
        self.rows: list[Row] = []

    def change(self, *, dirty: bool) -> None:
        """Apply up to three changes.

        :param dirty: rows may become invalid; if not, invalid rows are mended.
        """
        self._step += 1
        changes = self._changes(dirty=dirty)
        for _ in range(self._rng.randint(0, 3)):
            self._rng.choice(changes)()
        if not dirty:
            self._mend()

    def _changes(self, *, dirty: bool) -> list[Callable[[], None]]:
        changes = [self._add, self._add, self._leave, self._rename, self._revalue, self._swap, self._rekey, self._merge]
        if dirty:
            changes += [self._respell, self._share_record, self._share_key, self._lose_email, self._lose_key]
        return changes

    def _add(self) -> None:
        if len(self.rows) < self._people + 1:
            self.rows.append(Row(self._new_key(), self._email(), self._value(), self._step))

    def _leave(self) -> None:
        if self.rows:
            self.rows.remove(self._rng.choice(self.rows))

    def _rename(self) -> None:
        self._edit(email=self._email())

    def _revalue(self) -> None:
        self._edit(n=self._value())

    def _rekey(self) -> None:
        self._edit(id=self._new_key())

    def _swap(self) -> None:
        if len(self.rows) > 1:
            one, other = self._rng.sample(range(len(self.rows)), 2)
            first, second = self.rows[one], self.rows[other]
            self.rows[one] = replace(first, email=second.email, at=self._step)
            self.rows[other] = replace(second, email=first.email, at=self._step)

    def _merge(self) -> None:
        if len(self.rows) > 1:
            gone = self.rows.pop(self._rng.randrange(len(self.rows)))
            self._edit(email=gone.email)

    def _respell(self) -> None:
        if self.rows:
            email = self._rng.choice(self.rows).email
            if email and email.strip(BLANKS):
                self._edit(email=self._spelled(email.strip(BLANKS)))

    def _share_record(self) -> None:
        if self.rows and len(self.rows) < self._people + 2:
            other = self._rng.choice(self.rows)
            self.rows.append(Row(self._new_key(), other.email, self._value(), self._step))

    def _share_key(self) -> None:
        if self.rows and len(self.rows) < self._people + 2:
            other = self._rng.choice(self.rows)
            email = self._rng.choice((other.email, self._email()))
            self.rows.append(Row(other.id, email, self._value(), self._step))

    def _lose_email(self) -> None:
        self._edit(email=self._rng.choice(NOBODY))

    def _lose_key(self) -> None:
        self._edit(id=None)

    def _mend(self) -> None:
        """Drop what makes rows invalid."""
        keys: set[str] = set()
        emails: set[str] = set()
        for row in list(self.rows):
            name = (row.email or "").strip(BLANKS).lower()
            if row.id is None or row.id in keys or not name or name in emails:
                self.rows.remove(row)
            else:
                keys.add(row.id)
                emails.add(name)

    def _edit(self, **values: Any) -> None:
        if self.rows:
            at = self._rng.randrange(len(self.rows))
            self.rows[at] = replace(self.rows[at], **values, at=self._step)

    def _new_key(self) -> str:
        self._keys += 1
        return f"{self._number}-{self._keys:02}"

    def _value(self) -> int:
        return self._rng.randint(1, 3)

    def _email(self) -> str:
        return self._spelled(f"p{self._rng.randrange(self._people)}@{self._number}")

    def _spelled(self, email: str) -> str:
        if self._rng.random() < 0.3:
            email = self._rng.choice((email.upper(), email.lower()))
        return self._rng.choice(SPELLINGS).format(email)


def folded(email: Any, *, ignore_case: bool) -> str:
    """Return the name of a record, as the destination compares it; empty without one."""
    name = str(email or "").strip(BLANKS)
    return name.lower() if ignore_case else name


def history_of(name: str) -> str:
    """Return the history that a record or a key belongs to."""
    return name.partition("@")[2] or name.partition("-")[0]


def invalid_causes(rows: Sequence[Row], mode: str, *, ignore_case: bool) -> list[str]:
    """Return for each row why it is invalid; empty if it is valid."""
    names = [folded(row.email, ignore_case=ignore_case) for row in rows]
    if mode == "append":
        return ["" if name else "no_identifier" for name in names]
    times = Counter(names)
    keys = Counter(row.id for row in rows)
    found = []
    for row, name in zip(rows, names, strict=True):
        if row.id is None:
            found.append("null_key")
        elif keys[row.id] > 1:
            found.append("duplicate_key")
        elif not name:
            found.append("no_identifier")
        elif times[name] > 1 and mode != "delete":
            found.append("duplicate_identifier")
        else:
            found.append("")
    return found


# -- the destination -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Faults:
    """Probabilities of faults. The first four are of a row in a run, the last two of a request or a run.

    :param lost: the answer never comes in this run, and the row is written or not.
    """

    reject: float = 0.0
    lost: float = 0.0
    unsent: float = 0.0
    lost_once: float = 0.0
    crash: float = 0.0
    crash_in_commit: float = 0.0

    @classmethod
    def some(cls, rng: random.Random) -> Faults:
        """Return faults of a few kinds."""
        chances = {name: rng.choice((0.0, 0.0, 0.15)) for name in ("reject", "lost", "unsent", "lost_once")}
        return cls(**chances, crash=rng.choice((0.0, 0.0, 0.1)), crash_in_commit=rng.choice((0.0, 0.0, 0.5)))


@dataclass(slots=True)
class Answers:
    """What the destination knows about one plan.

    :param claimed: records that rows of the plan's model name.
    :param needs: key of a row of the model → the record that it names; empty for an invalid row.
    :param taken: rows that were carried out at least once.
    :param answers: last answer that was given, by sequence number.
    :param crashed: a process that sent the plan died.
    """

    mode: str
    claimed: frozenset[str]
    needs: Mapping[str | None, str]
    taken: set[int] = field(default_factory=set)
    answers: dict[int, Outcome] = field(default_factory=dict)
    crashed: bool = False


class Remote:
    """Destination whose records are named by e-mail. It refuses the deletion of a record that the model names."""

    def __init__(self, rng: random.Random, *, ignore_case: bool, removes_first: bool) -> None:
        self.capabilities = Capabilities(usual(3), ignore_case=ignore_case, removes_first=removes_first)
        self.ignore_case = ignore_case
        self.records: dict[str, dict[str, Any]] = {}
        self.faults = Faults()
        self.refused: set[str] = set()  # records that are never written, nor deleted
        self.dead = False
        self.plans: dict[str, Answers] = {}
        self.rejected: set[str] = set()  # histories with a row that was rejected
        self.unanswered: set[str] = set()  # records whose answer was lost
        self.inserts: Counter[str] = Counter()
        self.clock: Clock | None = None
        self._rng = rng
        self._decided: dict[tuple[str, int], str] = {}

    async def open(self, limiter: Limiter) -> None:
        self._decided.clear()

    async def close(self) -> None:
        pass

    async def send(self, batch: Batch) -> Receipts:
        await asyncio.sleep(0)
        if self.clock and self._rng.random() < 0.3:
            self.clock.tick.set()
        plan = self.plans[batch.plan_id]
        crash = self._rng.random() < self.faults.crash
        exceptions = {}
        for seq, key, record in zip(batch.seqs, batch.keys, batch.records, strict=True):
            if crash and self._rng.random() < 0.5:
                continue
            if batch.operation is Operation.DELETE and plan.mode == "mirror":
                self._check_deletion(plan, key, self.name(record))
            receipt = await self._carry_out(batch.operation, plan, seq, record)
            if receipt.outcome is not Outcome.ACCEPTED:
                exceptions[key] = receipt
            if not crash:
                plan.answers[seq] = receipt.outcome
        if crash:
            plan.crashed = self.dead = True
            raise CrashError("the process dies")
        return Receipts(exceptions=exceptions)

    def name(self, record: Mapping[str, Any]) -> str:
        if "email" not in record:
            return next((name for name, held in self.records.items() if held.get("id") == record["id"]), "")
        return folded(record["email"], ignore_case=self.ignore_case)

    def _check_deletion(self, plan: Answers, key: str, name: str) -> None:
        """Check that no row of the model needs a record.

        :param key: primary key of the row that was delivered as this record.
        """
        assert name not in plan.claimed, f"{name} is deleted, and the model has it"
        if key in plan.needs:
            new = plan.needs[key]
            assert new, f"{name} is deleted, and its row is invalid"
            assert new in self.records or self.capabilities.removes_first, f"{name} is deleted before {new} is there"

    async def _carry_out(self, operation: Operation, plan: Answers, seq: int, record: Mapping[str, Any]) -> Receipt:
        name = self.name(record)
        if name in self.refused:
            return Receipt(Outcome.REJECTED, "refused", "the record is not acceptable")
        match self._decision(operation, seq):
            case "reject":
                self.rejected.add(history_of(name))
                return Receipt(Outcome.REJECTED, "refused", "the row is not acceptable")
            case "unsent":
                return Receipt(Outcome.RETRYABLE, "busy", "later")
            case "lost request":
                self.unanswered.add(name)
                return Receipt(Outcome.UNKNOWN, "timeout", "no answer")
            case "lost answer":
                self.unanswered.add(name)
                await self._write(operation, plan, seq, record)
                return Receipt(Outcome.UNKNOWN, "timeout", "no answer")
        return await self._write(operation, plan, seq, record)

    def _decision(self, operation: Operation, seq: int) -> str:
        """Return what goes wrong with a row; empty if nothing does."""
        place = (operation.value, seq)
        if place not in self._decided:
            faults = self.faults
            lost = self._rng.choice(("lost answer", "lost request"))
            chances = {"reject": faults.reject, lost: faults.lost, "unsent": faults.unsent, "once": faults.lost_once}
            self._decided[place] = ""
            for kind, chance in chances.items():
                if self._rng.random() < chance:
                    self._decided[place] = kind
        decision = self._decided[place]
        if decision == "once":
            self._decided[place] = ""
            return self._rng.choice(("lost answer", "lost request"))
        return decision

    async def _write(self, operation: Operation, plan: Answers, seq: int, record: Mapping[str, Any]) -> Receipt:
        name = self.name(record)
        if operation is Operation.UPDATE and name not in self.records:
            return Receipt(Outcome.SKIPPED, "not_found", "no such record")
        if operation is Operation.DELETE:
            self.records.pop(name, None)
        else:
            self.inserts[name] += operation is Operation.INSERT
            self.records[name] = dict(record)
        plan.taken.add(seq)
        return Receipt(Outcome.ACCEPTED)


class Clock(FrozenClock):
    """Clock that never moves during a run. What runs at intervals runs when the destination is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.tick = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds == DEFAULT_TIMING.checkpoint:
            await self.tick.wait()
            self.tick.clear()
        elif seconds == DEFAULT_TIMING.renewal:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(0)


# -- the stores ------------------------------------------------------------------------------------------------------


class PairOfStores(StateStore):
    """A store, and the store in memory beside it. Both make every plan, and must agree on it.

    It checks the report of each run, and dies as the destination's faults say.

    :ivar earlier: commits store the state as the first version did, which knew records by primary key.
    """

    def __init__(self, store: StateStore, remote: Remote, rng: random.Random) -> None:
        self.store = store
        self.model = MemoryStateStore()
        self.remote = remote
        self.rows: Sequence[Row] = ()
        self.earlier = False
        self._rng = rng
        self._twins: dict[str, Plan] = {}

    def unfinished(self, sync: str) -> Sequence[Plan]:
        return self.store.unfinished(sync)

    def last_report(self, sync: str, run_id: str) -> RunReport | None:
        return self.store.last_report(sync, run_id)

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        try:
            twin = self.model.plan(request, warehouse)
        except ReverseEtlError as refused:
            with pytest.raises(type(refused), match=re.escape(refused.what)):
                self.store.plan(request, warehouse)
            raise
        plan = self.store.plan(request, warehouse)
        self._twins[plan.plan_id] = twin
        assert compared(plan) == compared(twin)
        assert outline(self.store, plan) == outline(self.model, twin)
        self._check_plan(request, plan)
        self.remote.plans[plan.plan_id] = self._expected(request.sync.mode)
        return plan

    def _expected(self, mode: str) -> Answers:
        names = [folded(row.email, ignore_case=self.remote.ignore_case) for row in self.rows]
        causes = invalid_causes(self.rows, mode, ignore_case=self.remote.ignore_case)
        needs: dict[str | None, str] = {}
        for row, name, cause in zip(self.rows, names, causes, strict=True):
            needs[row.id] = "" if cause else name
        return Answers(mode, frozenset(filter(None, names)), needs)

    def changes(self, plan: Plan, *, after: int = 0, until: int | None = None) -> Generator[pa.RecordBatch, None, None]:
        return self.store.changes(plan, after=after, until=until)

    def sequence_numbers(self, plan: Plan, records: Collection[str]) -> Mapping[str, int]:
        return self.store.sequence_numbers(plan, records)

    def begin_try(self, plan: Plan, *, partition: int = 0) -> int:
        return self.store.begin_try(plan, partition=partition)

    def last_try(self, plan: Plan, *, partition: int = 0) -> int:
        return self.store.last_try(plan, partition=partition)

    def load_checkpoint(self, plan: Plan, *, partition: int = 0) -> Checkpoint:
        return self.store.load_checkpoint(plan, partition=partition)

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int = 0, try_number: int = 0) -> None:
        if self.remote.dead:
            raise CrashError("the process is dead")
        self.store.save_checkpoint(plan, checkpoint, partition=partition, try_number=try_number)

    def checkpoints(self, plan: Plan) -> Mapping[int, Checkpoint]:
        return self.store.checkpoints(plan)

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: RunReport, sync: Sync) -> None:
        if self.remote.dead or self._rng.random() < self.remote.faults.crash_in_commit:
            raise CrashError("the process dies before the commit")
        self._check_report(plan, checkpoint, report)
        twin = self._twins[plan.plan_id]
        translated = self._translated(plan, twin, checkpoint)
        for store, own, progress in ((self.store, plan, checkpoint), (self.model, twin, translated)):
            with as_earlier_version(store, sync.name) if self.earlier else contextlib.nullcontext():
                store.commit(own, progress, report, sync)

    def discard(self, plan: Plan) -> None:
        self.store.discard(plan)
        self.model.discard(self._twins[plan.plan_id])

    def acquire(self, *args: Any, **options: Any) -> int:
        return self.store.acquire(*args, **options)

    def release(self, sync: str, *, fence: int) -> None:
        self.store.release(sync, fence=fence)

    def _translated(self, plan: Plan, twin: Plan, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with the sequence numbers of the plan in memory."""
        places = defaultdict(list)
        for seq, row in rows_of(self.model, twin):
            places[row].append(seq)
        numbers = {seq: places[row].pop() for seq, row in rows_of(self.store, plan)}
        found = Checkpoint()
        for seq, other in numbers.items():
            if seq in checkpoint.settled:
                found.settled.add(other, other)
            if receipt := checkpoint.receipt(seq):
                found.fail(other, receipt)
        doubtful = [seq for rows in checkpoint.in_doubt() for seq in rows]
        found.doubt(sorted(numbers[seq] for seq in doubtful))
        found.answer_lost = {numbers[seq] for seq in checkpoint.answer_lost}
        return found

    def _check_plan(self, request: PlanRequest, plan: Plan) -> None:
        if request.sync.cursor or not request.sync.destination.match_on:  # a part of the model was read; no record
            return
        causes = Counter(invalid_causes(self.rows, request.sync.mode, ignore_case=self.remote.ignore_case))
        del causes[""]
        if "records_adopted" in plan.notes and request.sync.mode == "insert":
            # A row that was inserted is recorded even if it is invalid by now: it must not be inserted again.
            assert all(count <= causes[cause] for cause, count in plan.causes.items())
            assert sum(causes.values()) - sum(plan.causes.values()) <= plan.recorded
        else:
            assert plan.causes == causes
        assert plan.model_rows == len(self.rows)

    def _check_report(self, plan: Plan, checkpoint: Checkpoint, report: RunReport) -> None:
        """Check that each count of a report is true."""
        known = self.remote.plans[plan.plan_id]
        settled = {seq for seq in range(1, plan.total + 1) if seq in checkpoint.settled}
        accepted = settled - checkpoint.failed.keys() - checkpoint.answer_lost
        assert report.accepted == len(accepted)
        assert accepted <= known.taken, "what counts as accepted was carried out"
        sent = report.accepted + report.rejected + report.retryable + report.unknown + report.skipped - plan.skipped
        assert sent == plan.total
        if not known.crashed:
            answered = Counter(known.answers.values())
            assert report.accepted == answered[Outcome.ACCEPTED] - sum(
                known.answers.get(seq) is Outcome.ACCEPTED for seq in checkpoint.answer_lost
            )
            in_conflict = {seq for seq, outcome in known.answers.items() if outcome is Outcome.CONFLICT}
            assert report.rejected == answered[Outcome.REJECTED] + len(in_conflict & settled)
            # An answer that was lost says nothing to the engine.
            lost = {seq for seq, (outcome, _) in checkpoint.failed.items() if outcome is Outcome.UNKNOWN}
            lost |= checkpoint.answer_lost
            skipped = {seq for seq, outcome in known.answers.items() if outcome is Outcome.SKIPPED}
            assert report.skipped - plan.skipped == len(skipped - lost)


@contextlib.contextmanager
def as_earlier_version(store: StateStore, sync: str) -> Iterator[None]:
    """Let the commit in the block store the state as the first version did, which knew records by primary key."""
    with mock.patch.object(State, "to_json", _of_earlier_version):
        yield
    if isinstance(store, MemoryStateStore):
        state = store._state(sync)
        assert state.remembered
        state.remembered = State.from_json(_of_earlier_version(state.remembered))


def _of_earlier_version(state: State) -> dict[str, Any]:
    unknown = ("format", "identity", "address", "destination", "destination_since")
    return {name: value for name, value in asdict(state).items() if name not in unknown}


def compared(plan: Plan) -> dict[str, Any]:
    """Return what two stores must agree on."""
    names = ("planned", "total", "model_rows", "snapshot_rows", "skipped", "recorded", "notes", "causes", "given_up")
    names += ("given_up_codes", "moved", "held", "kinds")
    return {name: getattr(plan, name) for name in names}


def rows_of(store: StateStore, plan: Plan) -> Iterable[tuple[int, tuple[Any, ...]]]:
    """Yield the numbers and the contents of a plan's rows."""
    for batch in store.changes(plan):
        for row in batch.to_pylist():
            row["identifiers"] = row["identifiers"] and json.dumps(json.loads(row["identifiers"]))
            seq = row.pop("seq")
            if row["key"] == str(seq):  # a row without a primary key, and the order inside a kind is the store's own
                row["key"] = None
            yield seq, tuple(row.values())


def outline(store: StateStore, plan: Plan) -> list[tuple[Any, ...]]:
    """Return a plan's rows in the order of their kinds. The order inside a kind is the store's own."""
    rows = [row for _, row in rows_of(store, plan)]
    kinds = [row[0] for row in rows]
    assert kinds == sorted(kinds, key=plan.kinds.index)
    return sorted(rows, key=repr)
