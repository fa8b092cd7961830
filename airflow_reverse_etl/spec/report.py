"""The counts of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_reverse_etl.spec.receipts import DAILY_LIMIT
from airflow_reverse_etl.spec.stored import typed


@dataclass(frozen=True, slots=True)
class Planned:
    """Row counts of a plan by part of the change set."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    invalid: int = 0

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter((name, getattr(self, name)) for name in self.__slots__)

    @property
    def total(self) -> int:
        """The number of rows to send."""
        return self.added + self.changed + self.removed


@dataclass(frozen=True, slots=True)
class RunReport:
    """The counts of one run, as pushed to XCom and stored in the run history: rows, requests, seconds.

    :param reasons: the reasons why rows were not accepted or were left for a later try: ``code``, ``count`` (rows),
        ``message``, ``host`` and ``status``, most frequent first. There are 20 at most; the last one counts the others.
    :param given_up: the part of ``skipped`` that was rejected too often or for too long.
    :param moved: rows whose record changed: sent under another identifier than before, or, with a cursor, under another
        primary key.
    :param held: records that are not in the model any more, and that the next run deletes: their row has a new
        identifier that is not delivered yet, or is invalid.
    :param model_rows: the total that percentages in the sync's limits refer to.
    :param invalid: the number of invalid rows by cause.
    :param other_writers: in mode mirror, other syncs that write to the same destination: name → last day, ISO 8601.
    :param answers: how much the destination's answers are worth, by operation: ``row``, ``batch`` or ``taken``, see
        :class:`~airflow_reverse_etl.sync.ports.Support`. Empty in reports of an earlier version.
    :param ids_problem: why the ids of records are not in the table of ``write_ids`` yet; the next run repeats it.
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
    moved: int = 0
    held: int = 0
    model_rows: int = 0
    invalid: Mapping[str, int] = field(default_factory=dict)
    other_writers: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    ids_problem: str = ""

    @property
    def attention(self) -> tuple[str, ...]:
        """Codes of what a person should look at although the task succeeds: given-up rows, a daily limit, or
        ids of records that are not written."""
        found = []
        if self.given_up:
            found.append("given_up")
        if any(reason["code"] == DAILY_LIMIT for reason in self.reasons):
            found.append(DAILY_LIMIT)
        if self.ids_problem:
            found.append("ids_not_written")
        return tuple(found)

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
            "moved": self.moved,
            "held": self.held,
            "model_rows": self.model_rows,
            "invalid": dict(self.invalid),
            "other_writers": dict(self.other_writers),
            "answers": dict(self.answers),
            "ids_problem": self.ids_problem,
            "attention": list(self.attention),
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "reasons": [dict(reason) for reason in self.reasons],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunReport:
        """Read a stored report. Before the first release, ``reasons`` was called ``errors``."""
        values = {name: data[name] for name in cls.__slots__ if name in data}
        reasons = data["reasons"] if "reasons" in data else data["errors"]
        values["reasons"] = tuple(reasons)
        return typed(cls, values)


#: Cause → why a row of the model is invalid, and so never sent. A row with several causes counts under the first.
CAUSES: Mapping[str, str] = {
    "null_key": "the primary key is null",
    "duplicate_key": "several rows have the same primary key",
    "no_identifier": "a field in match_on is null or blank",
    "duplicate_identifier": "several rows have the same values in match_on, so they name one record",
}


def listed(counts: Mapping[str, int]) -> str:
    """Return counts as text: ``null_key (3), no_identifier (1)``."""
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())
