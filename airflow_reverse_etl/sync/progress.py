"""Progress of a load, saved as a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import ANSWER_LOST, DAILY_LIMIT, MAX_REASONS, JobRef, Outcome, Reason, Receipt
from airflow_reverse_etl.spec.stored import typed

#: Format of a stored checkpoint with jobs.
_FORMAT = 2


@dataclass(slots=True)
class Checkpoint:
    """Progress of a load, small and durable. Every row in ``settled`` is accepted, unless it is in ``failed``.

    Only its own methods change a checkpoint. A load calls :meth:`resume` first and :meth:`end` last.

    :param settled: sequence numbers with a final outcome.
    :param after: sequence number before the load's first row.
    :param announced: last sequence number that the current load may have sent. 0 if the load has ended.
    :param unanswered: sequence numbers of rows sent without an answer, and of those that an earlier load may have sent.
        Some may be settled since.
    :param failed: sequence number → (outcome, index into ``reasons``), for settled rows that are not accepted.
    :param reasons: distinct reasons of the rows in ``failed`` and ``left``.
    :param left: index into ``reasons`` → number of rows that the last load left for a later try for this reason.
    :param answer_lost: rows whose answer was lost, and that are not safe to send twice. Depending on the sync's
        ``on_unknown``, they are sent again or count as delivered. They are reported as ``unknown`` once they are
        settled or the checkpoint is closed.
    :param taken: operations of which the destination took rows for later processing, whatever its type promises.
    :param closed: the commit has begun. The plan is not sent any more, and is committed with this checkpoint.
    :param jobs: open jobs by id: the destination has their rows, and their results are not read yet.
    :param ended: ids of jobs that are in the checkpoint of another partition, and have ended.
    :param returned: rows that jobs have handed back to be sent again: at position n, those handed back n + 1 times.
    """

    settled: RangeSet = field(default_factory=RangeSet)
    announced: int = 0
    failed: dict[int, tuple[Outcome, int]] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    left: dict[int, int] = field(default_factory=dict)
    answer_lost: set[int] = field(default_factory=set)
    requests: int = 0
    seconds: float = 0.0
    after: int = 0
    unanswered: RangeSet = field(default_factory=RangeSet)
    taken: set[Operation] = field(default_factory=set)
    closed: bool = False
    jobs: dict[str, JobRef] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    returned: list[RangeSet] = field(default_factory=list)
    _index: dict[Reason, int] = field(default_factory=dict, repr=False)

    def in_doubt(self) -> RangeSet:
        """Return the sequence numbers of rows that may have been sent, and have neither an outcome nor an open job."""
        announced = RangeSet(range(self.after + 1, self.announced + 1))
        return (announced | self.unanswered) - self.settled - self.in_jobs()

    def in_jobs(self) -> RangeSet:
        """Return the sequence numbers of rows in open jobs that are not settled."""
        return RangeSet(*(numbers for ref in self.jobs.values() for numbers in ref.rows)) - self.settled

    # -- a load, from its beginning to its end --------------------------------------------------------------------

    def resume(self, after: int) -> None:
        """Begin a load. What an earlier one has announced and not settled stays in doubt.

        :param after: sequence number before the load's first row.
        """
        self.unanswered = self.in_doubt()
        self.announced = 0
        self.left = {}
        self.after = after

    def announce(self, until: int) -> None:
        """Record that rows up to this sequence number may be sent from now on."""
        self.announced = until

    def add_requests(self, requests: int) -> None:
        """Add to the number of requests made."""
        self.requests += requests

    def take(self, operation: Operation) -> None:
        """Record that the destination took rows for later processing."""
        self.taken.add(operation)

    def settle(self, seqs: Sequence[int]) -> None:
        """Record rows that were accepted, ascending."""
        self.settled.update(seqs)

    def fail(self, seq: int, receipt: Receipt) -> None:
        """Settle a row that was not accepted.

        A refusal after a lost answer is ``unknown``: the row may have been written before, and must not be sent twice.
        """
        outcome = Outcome.UNKNOWN if seq in self.answer_lost else receipt.outcome
        self.answer_lost.discard(seq)
        self.failed[seq] = (outcome, self._reason_index(receipt.reason))
        self.settled.add(seq, seq)

    def doubt(self, seqs: Sequence[int]) -> None:
        """Record rows that were sent without an answer, ascending."""
        self.unanswered.update(seqs)

    def lose(self, seqs: Sequence[int], on_unknown: str) -> None:
        """Record rows, ascending, that were sent without an answer, and that are not safe to send twice.

        :param on_unknown: what the sync does with them: ``fail`` and ``accept`` settle them, ``resend`` does not.
        """
        if on_unknown == "fail":
            for seq in seqs:
                self.fail(seq, ANSWER_LOST)
            return
        self.answer_lost.update(seqs)
        if on_unknown == "accept":
            self.settle(seqs)
        else:
            self.doubt(seqs)

    def begin_job(self, ref: JobRef) -> None:
        """Record a job that has rows of this load."""
        self.jobs[ref.job] = ref

    def end_job(self, ref: JobRef, lost: RangeSet) -> None:
        """Forget a job, of which each row is settled, in doubt, or as if it was never sent.

        :param lost: its rows in doubt.
        """
        if self.jobs.pop(ref.job, None) is None:
            self.ended.add(ref.job)
        self.unanswered = self.unanswered - ref.rows | lost

    def hand_back(self, rows: RangeSet) -> None:
        """Record rows that a job did not settle, and that are sent again."""
        for at, earlier in enumerate(self.returned):
            self.returned[at] = earlier | rows
            rows = rows & earlier
        if rows:
            self.returned.append(rows)

    def handed_back(self, times: int) -> RangeSet:
        """Return the rows that jobs have handed back so often."""
        return self.returned[times - 1] if times <= len(self.returned) else RangeSet()

    def leave(self, reason: Reason, rows: int) -> None:
        """Record why rows are left for a later try."""
        at = self._reason_index(reason)
        self.left[at] = self.left.get(at, 0) + rows

    @property
    def is_spent(self) -> bool:
        """Return True if the last load left rows because the requests of the day were used up."""
        return any(self.reasons[at].code == DAILY_LIMIT for at in self.left)

    def end(self, seconds: float) -> None:
        """End a load in good order: rows that it announced and did not send are not in doubt.

        :param seconds: duration of the load.
        """
        self.announced = 0
        self.unanswered = self.in_doubt()
        self.seconds += seconds

    def close(self, on_unknown: str, unrepeatable: RangeSet) -> None:
        """Begin the commit: decide what becomes of rows in doubt that are not safe to send twice.

        :param unrepeatable: rows of the plan that are not safe to send twice.
        """
        for rows in self.in_doubt() & unrepeatable:
            self.lose(rows, on_unknown)
        self.closed = True
        self.ended = set()
        self.returned = []

    def lasted(self, seconds: float) -> None:
        """Record the duration of the run so far, if it is more than that of its loads."""
        self.seconds = max(self.seconds, seconds)

    def _reason_index(self, reason: Reason) -> int:
        at = self._index.get(reason)
        if at is None:
            at = self._index[reason] = len(self.reasons)
            self.reasons.append(reason)
        return at

    # -- reading it ------------------------------------------------------------------------------------------------

    def receipt(self, seq: int) -> Receipt | None:
        """Return the receipt of a settled row that was not accepted, None for any other row."""
        if seq not in self.failed:
            return None
        outcome, at = self.failed[seq]
        return Receipt(outcome, *self.reasons[at])

    def count(self, outcome: Outcome) -> int:
        """Return the number of rows settled with this outcome."""
        listed = sum(1 for found, _ in self.failed.values() if found is outcome)
        answer_lost = sum(1 for seq in self.answer_lost if seq in self.settled)
        if outcome is Outcome.ACCEPTED:
            return len(self.settled) - len(self.failed) - answer_lost
        if outcome is Outcome.UNKNOWN:
            return listed + answer_lost
        return listed

    @classmethod
    def merged(cls, parts: Iterable[Checkpoint]) -> Checkpoint:
        """Merge the checkpoints of all partitions of one plan. Partitions never share a sequence number."""
        whole = cls()
        parts = list(parts)
        # Before any refusal is seen: another partition may have lost the answer to the refused row.
        for part in parts:
            whole.answer_lost |= part.answer_lost
        for part in parts:
            whole.jobs |= part.jobs
            whole.ended |= part.ended
            whole.settled |= part.settled
            for seq, (outcome, at) in part.failed.items():
                whole.fail(seq, Receipt(outcome, *part.reasons[at]))
            for at, rows in part.left.items():
                whole.leave(part.reasons[at], rows)
            whole.unanswered |= part.in_doubt()
            whole.taken |= part.taken
            whole.requests += part.requests
            whole.seconds = max(whole.seconds, part.seconds)
        whole.jobs = {job: ref for job, ref in whole.jobs.items() if job not in whole.ended}
        return whole

    def copy(self) -> Checkpoint:
        """Return a copy that later changes to this checkpoint do not affect."""
        return Checkpoint.from_json(self.to_json())

    def counted_reasons(self, others: Mapping[Reason, int] | None = None) -> list[dict[str, Any]]:
        """Return the reasons with their counts, most frequent first, in the form of :attr:`RunReport.reasons`.

        Reasons that differ only in their message are counted together, with the first message as an example.

        :param others: further reasons, with their number of rows.
        """
        # Count the rows by code, host and status.
        rows = Counter(at for outcome, at in self.failed.values() if outcome is not Outcome.SKIPPED)
        rows.update(self.left)
        found: dict[tuple[str, str, int | None], dict[str, Any]] = {}
        counts = [(self.reasons[at], count) for at, count in rows.items()]
        for reason, count in [*counts, *(others or {}).items()]:
            kind = (reason.code, reason.host, reason.status)
            entry = found.setdefault(kind, {"code": reason.code, "count": 0, **reason._asdict()})
            entry["count"] += count
        ranked = sorted(found.values(), key=lambda entry: -entry["count"])
        if len(ranked) <= MAX_REASONS:
            return ranked

        # Sum up the rarest reasons in a single entry.
        rest = ranked[MAX_REASONS - 1 :]
        message = f"{len(rest):,} other reasons"
        count = sum(entry["count"] for entry in rest)
        return [*ranked[: MAX_REASONS - 1], {"count": count, **Reason("others", message)._asdict()}]

    def to_json(self) -> dict[str, Any]:
        """Return the checkpoint as stored. The keys are those of the first stored checkpoints, not today's names.

        One with jobs has another form, which a version that does not know jobs refuses: it would send their rows again.
        """
        if self.jobs or self.ended or self.returned:
            return {
                "format": _FORMAT,
                "progress": self._without_jobs(),
                "jobs": [ref.to_json() for ref in self.jobs.values()],
                "ended": sorted(self.ended),
                "returned": [_pairs(rows) for rows in self.returned],
            }
        return self._without_jobs()

    def _without_jobs(self) -> dict[str, Any]:
        low = self.settled.end_of(1)
        return {
            "low": low,
            "above": _pairs(self.settled - RangeSet(range(1, low + 1))),
            "dispatched": self.announced,
            "failed": [[seq, outcome.value, at] for seq, (outcome, at) in sorted(self.failed.items())],
            "reasons": [list(reason) for reason in self.reasons],
            "left": [[at, rows] for at, rows in self.left.items()],
            "uncertain": sorted(self.answer_lost),
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "after": self.after,
            "doubts": _pairs(self.unanswered),
            "taken": sorted(self.taken),
            "closed": self.closed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Checkpoint:
        """Read a stored checkpoint.

        :raises ValueError: it is damaged, or a later version has stored it.
        """
        if "format" in data:
            kept = typed(_StoredWithJobs, data)
            found = cls.from_json(kept.progress)
            refs = map(JobRef.from_json, kept.jobs)
            found.jobs = {ref.job: ref for ref in refs}
            found.ended = set(kept.ended)
            found.returned = [_ranges(pairs) for pairs in kept.returned]
            return found
        stored = typed(_Stored, data)
        reasons = [Reason(*reason) for reason in stored.reasons]
        failed = {seq: (outcome, at) for seq, outcome, at in stored.failed}
        left = dict(stored.left)
        used = {*left, *(at for _, at in failed.values())}
        if not used <= set(range(len(reasons))):
            raise ValueError("a reason is missing")
        return cls(
            settled=_ranges([(1, stored.low), *stored.above]),
            announced=stored.dispatched,
            failed=failed,
            reasons=reasons,
            left=left,
            answer_lost=set(stored.uncertain),
            requests=stored.requests,
            seconds=stored.seconds,
            after=stored.after,
            unanswered=_ranges(stored.doubts),
            taken=set(stored.taken),
            closed=stored.closed,
            _index={reason: at for at, reason in enumerate(reasons)},
        )


@dataclass(frozen=True, slots=True)
class _Stored:
    """A checkpoint as :meth:`Checkpoint.to_json` returns it."""

    low: int
    above: list[tuple[int, int]]
    dispatched: int
    failed: list[tuple[int, Outcome, int]]
    reasons: list[tuple[str, str] | tuple[str, str, str, int | None]]
    uncertain: list[int]
    requests: int
    seconds: float
    after: int
    doubts: list[tuple[int, int]]
    closed: bool
    left: list[tuple[int, int]] = field(default_factory=list)
    taken: list[Operation] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _StoredWithJobs:
    """A checkpoint with jobs."""

    format: Literal[2]
    progress: dict[str, Any]
    jobs: list[dict[str, Any]]
    ended: list[str]
    returned: list[list[tuple[int, int]]]


def _pairs(numbers: RangeSet) -> list[list[int]]:
    return [[rows.start, rows.stop - 1] for rows in numbers]


def _ranges(pairs: Iterable[Sequence[int]]) -> RangeSet:
    return RangeSet(*(range(first, last + 1) for first, last in pairs))
