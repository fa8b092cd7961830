"""Batches sent to a destination, the receipts that come back, and the jobs whose receipts come later."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.stored import typed

if TYPE_CHECKING:
    from airflow_reverse_etl.errors import ConfigurationError

#: The most reasons that a report lists. If there are more, the last one counts the others.
MAX_REASONS = 20


class Outcome(StrEnum):
    """The result of sending one row."""

    ACCEPTED = "accepted"  # the destination acknowledged it; it enters the snapshot
    REJECTED = "rejected"  # the destination refused its values; never resent in this run
    RETRYABLE = "retryable"  # not written, may be sent again
    UNKNOWN = "unknown"  # sent, but the answer was lost: it may have been written
    SKIPPED = "skipped"  # the destination does not have it (mode ``update``); stays out of the snapshot
    CONFLICT = "conflict"  # not written: another record has a value that must be unique; the load tries it again


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are sent together.

    ``seqs``, ``keys`` and ``records`` have the same length.

    :param seqs: sequence numbers in the plan.
    :param keys: primary keys as text.
    :param records: the mapped records; for a delete, the identifiers.
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
        """Return a key that is equal only if the same rows of the same plan are sent with the same content.

        The run's id is not enough: a cleared task plans again under the same id, and its new rows reuse the numbers.

        :param content: the rows in the form in which they are sent.
        """
        rows = ",".join(map(str, self.seqs))
        return digest(self.plan_id, rows, content)

    def without(self, keys: Collection[str]) -> Batch:
        """Return a batch of the rows that have none of these keys; this batch itself without any key."""
        if not keys:
            return self
        return self.only(at for at, key in enumerate(self.keys) if key not in keys)

    def only(self, positions: Iterable[int]) -> Batch:
        """Return a batch of the rows at these positions."""
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
    """Return 32 hexadecimal digits of SHA-256 over the parts.

    Each part is hashed with its length, so that moving a boundary between parts changes the digest.
    """
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(f"{len(data)}:".encode())
        whole.update(data)
    return whole.hexdigest()[:32]


#: Codes of rejected rows: another record has a unique value of the row; several rows have each other's.
CONFLICT = "conflict"
UNIQUE_CYCLE = "unique_cycle"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of one row.

    :param code: the remote's own code.
    :param message: the remote's own words, without known row values.
    :param host: the remote that answered, or failed to answer.
    :param status: the HTTP reply's status, if there was a reply.
    :param id: the destination's own id of the record, if the row was accepted, and a job's result names it.
    """

    outcome: Outcome
    code: str = ""
    message: str = ""
    host: str = ""
    status: int | None = None
    id: str = ""

    @property
    def reason(self) -> Reason:
        """The receipt without its outcome."""
        return Reason(self.code, self.message, self.host, self.status)


class Reason(NamedTuple):
    """The reason why rows were not accepted, or were left for a later try."""

    code: str
    message: str
    host: str = ""
    status: int | None = None


ACCEPTED = Receipt(Outcome.ACCEPTED)
#: Code of a row whose reply cannot be read with the sync's options.
REPLY_NOT_READ = "reply_not_read"
#: Code of a row that was not sent because the requests of the day are used up.
DAILY_LIMIT = "daily_limit"
ANSWER_LOST = Receipt(Outcome.UNKNOWN, "answer_lost", "sent, but the answer was lost")


@dataclass(frozen=True, slots=True)
class Receipts:
    """The destination's answer to a batch: one receipt per row, by key.

    A key that is not in ``exceptions`` has the receipt ``default``, so the common answer, everything accepted, costs
    one object whatever the batch's size.

    :param default: receipt of every row that is not in ``exceptions``.
    :param exceptions: key → receipt.
    :param refused_whole: the destination refused all rows that are not in ``exceptions`` because of one that it did not
        name. The engine splits these rows until it finds that one. Set it only if none of them was written, or with the
        outcome ``unknown``: the engine then splits rows that may not be sent twice only if the sync accepts that.
    :param retry_after: seconds that the destination asked to wait before the next request; ``None`` if it did not ask.
    :param throttled: the destination refused the request because there were too many. Without ``retry_after`` the
        engine decides how long it waits.
    :param left_today: number of requests that the destination still allows today, by its own count.
    :param allowed_rate: requests a second that the destination allows the account, by its own count.
    :param taken: the destination queued the accepted rows, as with HTTP status 202. What became of them is unknown.
    :param requests: number of requests made for this answer.
    :param stop: error that ends the load once these receipts are recorded, because no further batch can succeed. Rows
        that are ``unknown`` then are in doubt. If they may not be sent twice, later runs leave them out until the
        sync's ``destination`` changes.
    :param ids: key → the destination's own id of the record, for accepted rows whose id is known. A destination fills
        it if the sync has ``write_ids``.
    """

    default: Receipt = ACCEPTED
    exceptions: Mapping[str, Receipt] = field(default_factory=dict)
    refused_whole: bool = False
    retry_after: float | None = None
    throttled: bool = False
    left_today: int | None = None
    allowed_rate: float | None = None
    taken: bool = False
    requests: int = 1
    stop: ConfigurationError | None = None
    ids: Mapping[str, str] = field(default_factory=dict)

    def of(self, key: str) -> Receipt:
        return self.exceptions.get(key, self.default)


def rows_text(count: int) -> str:
    """Return a number of rows as a person writes it: ``1 row``, ``1,200 rows``."""
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def reason_text(reason: Mapping[str, Any]) -> str:
    """Return one of a report's reasons as a line: ``429 (12 rows, api.example.com, HTTP status 429): too fast``."""
    facts = [rows_text(reason["count"])]
    if reason.get("host"):
        facts.append(reason["host"])
    if reason.get("status") and str(reason["status"]) != reason["code"]:
        facts.append(f"HTTP status {reason['status']}")
    return f"{reason['code']} ({', '.join(facts)}): {reason['message']}"


class JobState(StrEnum):
    """State of a job at its destination."""

    OPEN = "open"  # created and not closed: the destination has done nothing with its rows, and will not by itself
    RUNNING = "running"  # the destination is at work
    FINISHED = "finished"  # done, failed or aborted: its results can be read
    GONE = "gone"  # the destination does not know it any more


@dataclass(frozen=True, slots=True)
class JobRef:
    """Reference of a job. It is enough to ask for the job's state, whatever became of the sync since.

    It has ids and numbers only: no URL with a signature, no token, no value of a row.

    :param type: destination type.
    :param connection: Airflow connection id; empty for a type without connection.
    :param object: object of the destination.
    :param job: id of the job at the destination.
    :param rows: sequence numbers of its rows in the plan.
    :param started_at: time at which the destination named the job, in UTC.
    :param deadline: time after which no try waits for the job any more.
    :param match_on: fields that identify a record, each with its position in the mapping of the plan.
    """

    type: str
    connection: str
    object: str
    operation: Operation
    job: str
    rows: RangeSet
    started_at: datetime
    deadline: datetime
    match_on: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the reference as stored, and as a trigger gets it."""
        return {
            "type": self.type,
            "connection": self.connection,
            "object": self.object,
            "operation": self.operation.value,
            "job": self.job,
            "rows": [[numbers.start, numbers.stop - 1] for numbers in self.rows],
            "started_at": self.started_at.isoformat(),
            "deadline": self.deadline.isoformat(),
            "match_on": [list(pair) for pair in self.match_on],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobRef:
        """Read a stored reference.

        :raises ValueError: it is damaged.
        """
        stored = typed(_StoredRef, data)
        return cls(
            type=stored.type,
            connection=stored.connection,
            object=stored.object,
            operation=stored.operation,
            job=stored.job,
            rows=RangeSet(*(range(first, last + 1) for first, last in stored.rows)),
            started_at=stored.started_at,
            deadline=stored.deadline,
            match_on=tuple(stored.match_on),
        )


@dataclass(frozen=True, slots=True)
class _StoredRef:
    """A reference as :meth:`JobRef.to_json` returns it."""

    type: str
    connection: str
    object: str
    operation: Operation
    job: str
    rows: list[tuple[int, int]]
    started_at: datetime
    deadline: datetime
    match_on: list[tuple[str, int]]


def job_names(refs: Sequence[JobRef]) -> str:
    """Return jobs as the subject of a sentence: ``job 7501 and 2 others``."""
    others = len(refs) - 1
    more = f" and {others} {'other' if others == 1 else 'others'}" if others else ""
    return f"job {refs[0].job}{more}"
