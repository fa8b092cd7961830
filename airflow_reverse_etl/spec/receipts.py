"""What was sent, what came back, and how far a load has come.

Values only: :class:`Batch`, :class:`Receipt`, :class:`Receipts`, :class:`Checkpoint`, :class:`Report`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from airflow_reverse_etl.errors import ConfigurationError

#: Most reasons that a report has; the last one then counts the others.
MAX_REASONS = 20


class Operation(StrEnum):
    """What a batch asks of the destination. A batch has exactly one operation."""

    UPSERT = "upsert"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


#: What each part of the change set asks of the destination.
OPERATIONS: dict[str, dict[str, Operation]] = {
    "upsert": {"added": Operation.UPSERT, "changed": Operation.UPSERT},
    "insert": {"added": Operation.INSERT},
    "update": {"added": Operation.UPDATE, "changed": Operation.UPDATE},
    "mirror": {"added": Operation.UPSERT, "changed": Operation.UPSERT, "removed": Operation.DELETE},
    "append": {"added": Operation.INSERT},
    "delete": {"added": Operation.DELETE},
}


class Outcome(StrEnum):
    """What became of one row."""

    ACCEPTED = "accepted"  # the destination acknowledged it; it enters the snapshot
    REJECTED = "rejected"  # the destination refused it as it is; never resent in this run
    RETRYABLE = "retryable"  # not written, may be sent again
    UNKNOWN = "unknown"  # sent, answer lost: written or not, nobody knows
    SKIPPED = "skipped"  # the destination has no such row (mode ``update``); stays out of the snapshot


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are sent together.

    ``seqs``, ``keys`` and ``records`` have the same length: sequence number in the plan, primary key as text, and
    the mapped record (for a delete: the identifiers).
    """

    operation: Operation
    seqs: Sequence[int]
    keys: Sequence[str]
    records: Sequence[Mapping[str, Any]]
    run_id: str = ""
    plan_id: str = ""

    def __len__(self) -> int:
        return len(self.seqs)

    def idempotency_key(self, content: bytes) -> str:
        """Return a key that is the same only when the same rows of the same plan are sent with the same content.

        The run's id is not enough: a task that is cleared plans again under it, and its new rows have the old numbers.

        :param content: the rows as they are sent.
        """
        rows = ",".join(map(str, self.seqs))
        return digest(self.plan_id, rows, content)

    def only(self, positions: Iterable[int]) -> Batch:
        """The batch of the rows at these positions."""
        at = list(positions)
        return Batch(
            self.operation,
            [self.seqs[i] for i in at],
            [self.keys[i] for i in at],
            [self.records[i] for i in at],
            self.run_id,
            self.plan_id,
        )


def digest(*parts: str | bytes) -> str:
    """Return 32 hexadecimal digits of SHA-256 over the parts, each with its length, so that none runs into the next."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(f"{len(data)}:".encode())
        whole.update(data)
    return whole.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of one row. ``code`` and ``message`` are the remote's own words, without row values where known.

    :param host: the remote that answered, or did not.
    :param status: of its HTTP reply, if there was one.
    """

    outcome: Outcome
    code: str = ""
    message: str = ""
    host: str = ""
    status: int | None = None

    @property
    def reason(self) -> Reason:
        """Everything but the outcome."""
        return Reason(self.code, self.message, self.host, self.status)


class Reason(NamedTuple):
    """Why rows were not accepted, or left for a later try."""

    code: str
    message: str
    host: str = ""
    status: int | None = None


ACCEPTED = Receipt(Outcome.ACCEPTED)
#: Code of a row whose reply the sync does not say how to read.
REPLY_NOT_READ = "reply_not_read"
ANSWER_LOST = Receipt(Outcome.UNKNOWN, "answer_lost", "sent, but the answer was lost")


@dataclass(frozen=True, slots=True)
class Receipts:
    """The destination's answer to a batch: one receipt per row, by key.

    A key that is not in ``exceptions`` has the receipt ``default``, so the common answer, everything accepted, costs
    one object whatever the batch's size.

    :param default: receipt of every row without one of its own.
    :param exceptions: key → receipt.
    :param refused_whole: the destination refused the batch as one, because of a row that it did not name. The engine
        splits the batch until that row is found. Only with nothing written.
    :param retry_after: seconds to wait before anything more is sent, as the destination asked; ``None`` if it did not.
    :param requests: how many requests were made for this answer.
    :param stop: ends the load once these receipts are recorded, as no further batch can succeed. Rows that are
        ``unknown`` then are in doubt; where they may not be sent twice they are left out of later runs until the sync's
        ``destination`` changes.
    """

    default: Receipt = ACCEPTED
    exceptions: Mapping[str, Receipt] = field(default_factory=dict)
    refused_whole: bool = False
    retry_after: float | None = None
    requests: int = 1
    stop: ConfigurationError | None = None

    def of(self, key: str) -> Receipt:
        return self.exceptions.get(key, self.default)


class SettledSet:
    """Which sequence numbers are settled: everything up to ``low``, and some ranges above it.

    Loads settle batches out of order; ranges that touch are one, so the set stays as small as the number of gaps.
    """

    __slots__ = ("_firsts", "_lasts", "low")

    def __init__(self, low: int = 0, above: Iterable[Sequence[int]] = ()) -> None:
        self.low = low
        self._lasts: dict[int, int] = {pair[0]: pair[1] for pair in above}  # first → last
        self._firsts: dict[int, int] = {last: first for first, last in self._lasts.items()}

    def add(self, first: int, last: int) -> None:
        """Settle ``first`` to ``last``, both included, none of which is settled yet."""
        if (before := self._firsts.pop(first - 1, None)) is not None:
            first = before
        if (after := self._lasts.pop(last + 1, None)) is not None:
            del self._firsts[after]
            last = after
        if first == self.low + 1:
            self._lasts.pop(first, None)
            self.low = last
            return
        self._lasts[first] = last
        self._firsts[last] = first

    def __contains__(self, seq: int) -> bool:
        return seq <= self.low or any(first <= seq <= last for first, last in self._lasts.items())

    def __len__(self) -> int:
        return self.low + sum(last - first + 1 for first, last in self._lasts.items())

    def covers_any(self, first: int, last: int) -> bool:
        """Whether any number from ``first`` to ``last`` is settled."""
        return first <= self.low or any(start <= last and end >= first for start, end in self._lasts.items())

    def end_of(self, first: int) -> int:
        """The last number of the settled range that begins with ``first``; ``first`` - 1 if there is none."""
        return max(self.low, self._lasts.get(first, first - 1))

    def above(self) -> list[list[int]]:
        """The ranges above ``low``, ascending."""
        return [[first, last] for first, last in sorted(self._lasts.items())]


@dataclass(slots=True)
class Checkpoint:
    """Progress of a load, small and durable: everything in ``settled`` has its outcome, accepted unless listed.

    :param settled: sequence numbers with a final outcome.
    :param after: the load's rows are those above this number.
    :param dispatched: the load at work sends nothing above this number; its rows up to it may have been sent. 0 when
        no load is at work that could not say what it sent.
    :param doubts: sequence numbers of rows that earlier loads may have sent. Some may be settled since.
    :param failed: sequence number → (outcome, index into ``reasons``), for the settled rows that are not accepted.
    :param reasons: distinct ones, of rows in ``failed`` and of rows in ``left``.
    :param left: index into ``reasons`` → how many rows the last load left to a later try because of it.
    :param uncertain: rows of which an answer was lost, where sending again is not safe: sent again, or taken for
        delivered, as the sync's ``on_unknown`` says. Reported as ``unknown`` when they are settled or all is closed.
    :param closed: this is what is being committed. The plan is not sent any more, only committed, and with this.
    """

    settled: SettledSet = field(default_factory=SettledSet)
    dispatched: int = 0
    failed: dict[int, tuple[Outcome, int]] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    left: dict[int, int] = field(default_factory=dict)
    uncertain: set[int] = field(default_factory=set)
    requests: int = 0
    seconds: float = 0.0
    after: int = 0
    doubts: list[range] = field(default_factory=list)
    closed: bool = False
    _index: dict[Reason, int] = field(default_factory=dict, repr=False)

    def fail(self, seq: int, receipt: Receipt) -> None:
        """Record a row that was not accepted."""
        self.failed[seq] = (receipt.outcome, self._at(receipt.reason))

    def receipt(self, seq: int) -> Receipt | None:
        """Return the receipt of a settled row that was not accepted, None for any other row."""
        if seq not in self.failed:
            return None
        outcome, at = self.failed[seq]
        return Receipt(outcome, *self.reasons[at])

    def leave(self, reason: Reason, rows: int) -> None:
        """Record why rows are left for a later try."""
        at = self._at(reason)
        self.left[at] = self.left.get(at, 0) + rows

    def _at(self, reason: Reason) -> int:
        at = self._index.get(reason)
        if at is None:
            at = self._index[reason] = len(self.reasons)
            self.reasons.append(reason)
        return at

    def count(self, outcome: Outcome) -> int:
        """Rows settled with this outcome."""
        listed = sum(1 for found, _ in self.failed.values() if found is outcome)
        uncertain = sum(1 for seq in self.uncertain if seq in self.settled)
        if outcome is Outcome.ACCEPTED:
            return len(self.settled) - len(self.failed) - uncertain
        return listed + uncertain if outcome is Outcome.UNKNOWN else listed

    def unanswered(self) -> list[range]:
        """Sequence numbers of rows that may have been sent, and have no outcome, ascending."""
        sent = [range(self.after + 1, self.dispatched + 1), *self.doubts]
        settled, found, seen = [(1, self.settled.low), *self.settled.above()], [], 0
        for part in sorted(sent, key=lambda part: part.start):
            at = max(part.start, seen)
            for first, last in settled:
                if at < first:
                    found.append(range(at, min(first, part.stop)))
                at = max(at, last + 1)
            found.append(range(at, part.stop))
            seen = max(seen, part.stop)
        joined: list[range] = []
        for rows in filter(None, found):
            if joined and joined[-1].stop == rows.start:
                rows = range(joined.pop().start, rows.stop)
            joined.append(rows)
        return joined

    @classmethod
    def merged(cls, parts: Iterable[Checkpoint]) -> Checkpoint:
        """What the partitions of one plan add up to. Partitions never share a sequence number."""
        whole = cls()
        for part in parts:
            for first, last in [(1, part.settled.low), *part.settled.above()]:
                if first <= last:
                    whole.settled.add(first, last)
            for seq, (outcome, at) in part.failed.items():
                whole.fail(seq, Receipt(outcome, *part.reasons[at]))
            for at, rows in part.left.items():
                whole.leave(part.reasons[at], rows)
            whole.doubts += part.unanswered()
            whole.uncertain |= part.uncertain
            whole.requests += part.requests
            whole.seconds = max(whole.seconds, part.seconds)
        whole.uncertain -= whole.failed.keys()
        return whole

    def copy(self) -> Checkpoint:
        """A checkpoint that later changes to this one leave alone."""
        return Checkpoint.from_json(self.to_json())

    def counted_reasons(self, others: Mapping[Reason, int] | None = None) -> list[dict[str, Any]]:
        """Return the reasons with their counts, most frequent first, as :attr:`Report.reasons` has them.

        Reasons that differ in their message alone are one, with the first message as an example.

        :param others: more reasons, with their number of rows.
        """
        rows = Counter(at for outcome, at in self.failed.values() if outcome is not Outcome.SKIPPED)
        rows.update(self.left)
        found: dict[tuple[str, str, int | None], dict[str, Any]] = {}
        counts = [(self.reasons[at], count) for at, count in rows.items()]
        for reason, count in [*counts, *(others or {}).items()]:
            kind = (reason.code, reason.host, reason.status)
            entry = found.setdefault(kind, {"code": reason.code, "count": 0, **reason._asdict()})
            entry["count"] += count
        most = sorted(found.values(), key=lambda entry: -entry["count"])
        if len(most) <= MAX_REASONS:
            return most
        rest = most[MAX_REASONS - 1 :]
        message = f"{len(rest):,} other reasons"
        count = sum(entry["count"] for entry in rest)
        return [*most[: MAX_REASONS - 1], {"count": count, **Reason("others", message)._asdict()}]

    def to_json(self) -> dict[str, Any]:
        return {
            "low": self.settled.low,
            "above": self.settled.above(),
            "dispatched": self.dispatched,
            "failed": [[seq, outcome.value, at] for seq, (outcome, at) in sorted(self.failed.items())],
            "reasons": [list(reason) for reason in self.reasons],
            "left": [[at, rows] for at, rows in self.left.items()],
            "uncertain": sorted(self.uncertain),
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "after": self.after,
            "doubts": [[rows.start, rows.stop - 1] for rows in self.doubts],
            "closed": self.closed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Checkpoint:
        reasons = [Reason(*reason) for reason in data["reasons"]]
        return cls(
            settled=SettledSet(data["low"], data["above"]),
            dispatched=data["dispatched"],
            failed={seq: (Outcome(outcome), at) for seq, outcome, at in data["failed"]},
            reasons=reasons,
            left=dict(data.get("left", ())),
            uncertain=set(data["uncertain"]),
            requests=data["requests"],
            seconds=data["seconds"],
            after=data["after"],
            doubts=[range(first, last + 1) for first, last in data["doubts"]],
            closed=data["closed"],
            _index={reason: at for at, reason in enumerate(reasons)},
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """How many rows of the model fell into which part of the change set."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    invalid: int = 0

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter((name, getattr(self, name)) for name in self.__slots__)

    @property
    def total(self) -> int:
        """Rows to send."""
        return self.added + self.changed + self.removed


@dataclass(frozen=True, slots=True)
class Report:
    """The counts of one run, as pushed to XCom and kept in the run history. Rows, requests, seconds.

    :param reasons: why rows were not accepted, or were left for a later try: ``code``, ``count`` (rows), ``message``,
        ``host`` and ``status``, most frequent first; 20 at most, the last of which counts the others.
    :param given_up: those of ``skipped`` that were rejected too often or for too long.
    :param model_rows: the rows that the sync's limits take a share of.
    :param invalid: the invalid rows by cause.
    """

    run_id: str
    planned: Planned
    accepted: int
    rejected: int
    retryable: int
    unknown: int
    skipped: int
    requests: int
    seconds: float
    reasons: Sequence[Mapping[str, Any]] = ()
    given_up: int = 0
    model_rows: int = 0
    invalid: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "planned": dict(self.planned),
            "accepted": self.accepted,
            "rejected": self.rejected,
            "retryable": self.retryable,
            "unknown": self.unknown,
            "skipped": self.skipped,
            "given_up": self.given_up,
            "model_rows": self.model_rows,
            "invalid": dict(self.invalid),
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "reasons": [dict(reason) for reason in self.reasons],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """Read a stored report. Before the first release, ``reasons`` was called ``errors``."""
        values = {name: data[name] for name in cls.__slots__ if name in data}
        values["planned"] = Planned(**data["planned"])
        values["reasons"] = tuple(data["reasons"] if "reasons" in data else data["errors"])
        return cls(**values)


def reason_text(reason: Mapping[str, Any]) -> str:
    """Return one of a report's reasons as a line: ``429 (12 rows, api.example.com, HTTP status 429): too fast``."""
    facts = [f"{reason['count']:,} row{'' if reason['count'] == 1 else 's'}"]
    if reason.get("host"):
        facts.append(reason["host"])
    if reason.get("status") and str(reason["status"]) != reason["code"]:
        facts.append(f"HTTP status {reason['status']}")
    return f"{reason['code']} ({', '.join(facts)}): {reason['message']}"
