"""Progress of a load, saved as a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_reverse_etl.spec.ranges import SettledSet
from airflow_reverse_etl.spec.receipts import MAX_REASONS, Outcome, Reason, Receipt


@dataclass(slots=True)
class Checkpoint:
    """Progress of a load, small and durable. Every row in ``settled`` is accepted, unless it is in ``failed``.

    :param settled: sequence numbers with a final outcome.
    :param after: sequence number before the load's first row.
    :param announced: last sequence number that the current load may have sent. 0 if the load has ended, and has
        recorded which rows are in doubt.
    :param announced_before: sequence numbers that earlier loads may have sent, including rows settled since.
    :param failed: sequence number → (outcome, index into ``reasons``), for settled rows that are not accepted.
    :param reasons: distinct reasons of the rows in ``failed`` and ``left``.
    :param left: index into ``reasons`` → number of rows that the last load left for a later try for this reason.
    :param answer_lost: rows whose answer was lost, and that are not safe to send twice. Depending on the sync's
        ``on_unknown``, they are sent again or count as delivered. They are reported as ``unknown`` once they are
        settled or the checkpoint is closed.
    :param closed: the commit has begun. The plan is not sent any more, and is committed with this checkpoint.
    """

    settled: SettledSet = field(default_factory=SettledSet)
    announced: int = 0
    failed: dict[int, tuple[Outcome, int]] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    left: dict[int, int] = field(default_factory=dict)
    answer_lost: set[int] = field(default_factory=set)
    requests: int = 0
    seconds: float = 0.0
    after: int = 0
    announced_before: list[range] = field(default_factory=list)
    closed: bool = False
    _index: dict[Reason, int] = field(default_factory=dict, repr=False)

    def fail(self, seq: int, receipt: Receipt) -> None:
        """Record a row that was not accepted."""
        self.failed[seq] = (receipt.outcome, self._reason_index(receipt.reason))

    def receipt(self, seq: int) -> Receipt | None:
        """Return the receipt of a settled row that was not accepted, None for any other row."""
        if seq not in self.failed:
            return None
        outcome, at = self.failed[seq]
        return Receipt(outcome, *self.reasons[at])

    def leave(self, reason: Reason, rows: int) -> None:
        """Record why rows are left for a later try."""
        at = self._reason_index(reason)
        self.left[at] = self.left.get(at, 0) + rows

    def _reason_index(self, reason: Reason) -> int:
        at = self._index.get(reason)
        if at is None:
            at = self._index[reason] = len(self.reasons)
            self.reasons.append(reason)
        return at

    def count(self, outcome: Outcome) -> int:
        """Return the number of rows settled with this outcome."""
        listed = sum(1 for found, _ in self.failed.values() if found is outcome)
        answer_lost = sum(1 for seq in self.answer_lost if seq in self.settled)
        if outcome is Outcome.ACCEPTED:
            return len(self.settled) - len(self.failed) - answer_lost
        if outcome is Outcome.UNKNOWN:
            return listed + answer_lost
        return listed

    def in_doubt(self) -> list[range]:
        """Return the sequence numbers of rows that may have been sent, and have no outcome, ascending."""
        # Subtract the settled ranges from those that may have been sent, which may overlap.
        sent = [range(self.after + 1, self.announced + 1), *self.announced_before]
        settled = [(1, self.settled.low), *self.settled.above()]
        found = []
        seen = 0
        for part in sorted(sent, key=lambda part: part.start):
            at = max(part.start, seen)
            for first, last in settled:
                if at < first:
                    found.append(range(at, min(first, part.stop)))
                at = max(at, last + 1)
            found.append(range(at, part.stop))
            seen = max(seen, part.stop)

        # Join adjacent ranges.
        joined: list[range] = []
        for rows in filter(None, found):
            if joined and joined[-1].stop == rows.start:
                rows = range(joined.pop().start, rows.stop)
            joined.append(rows)
        return joined

    @classmethod
    def merged(cls, parts: Iterable[Checkpoint]) -> Checkpoint:
        """Merge the checkpoints of all partitions of one plan. Partitions never share a sequence number."""
        whole = cls()
        for part in parts:
            for first, last in [(1, part.settled.low), *part.settled.above()]:
                if first <= last:
                    whole.settled.add(first, last)
            for seq, (outcome, at) in part.failed.items():
                whole.fail(seq, Receipt(outcome, *part.reasons[at]))
            for at, rows in part.left.items():
                whole.leave(part.reasons[at], rows)
            whole.announced_before += part.in_doubt()
            whole.answer_lost |= part.answer_lost
            whole.requests += part.requests
            whole.seconds = max(whole.seconds, part.seconds)
        whole.answer_lost -= whole.failed.keys()
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
        """Return the checkpoint as stored. The keys are those of the first stored checkpoints, not today's names."""
        return {
            "low": self.settled.low,
            "above": self.settled.above(),
            "dispatched": self.announced,
            "failed": [[seq, outcome.value, at] for seq, (outcome, at) in sorted(self.failed.items())],
            "reasons": [list(reason) for reason in self.reasons],
            "left": [[at, rows] for at, rows in self.left.items()],
            "uncertain": sorted(self.answer_lost),
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "after": self.after,
            "doubts": [[rows.start, rows.stop - 1] for rows in self.announced_before],
            "closed": self.closed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Checkpoint:
        reasons = [Reason(*reason) for reason in data["reasons"]]
        return cls(
            settled=SettledSet(data["low"], data["above"]),
            announced=data["dispatched"],
            failed={seq: (Outcome(outcome), at) for seq, outcome, at in data["failed"]},
            reasons=reasons,
            left=dict(data.get("left", ())),
            answer_lost=set(data["uncertain"]),
            requests=data["requests"],
            seconds=data["seconds"],
            after=data["after"],
            announced_before=[range(first, last + 1) for first, last in data["doubts"]],
            closed=data["closed"],
            _index={reason: at for at, reason in enumerate(reasons)},
        )
