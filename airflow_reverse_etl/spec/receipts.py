"""Batches and receipts: what was sent, and what came back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_reverse_etl.spec.operations import Operation

if TYPE_CHECKING:
    from airflow_reverse_etl.errors import ConfigurationError

#: Most reasons that a report has; the last one then counts the others.
MAX_REASONS = 20


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


def reason_text(reason: Mapping[str, Any]) -> str:
    """Return one of a report's reasons as a line: ``429 (12 rows, api.example.com, HTTP status 429): too fast``."""
    facts = [f"{reason['count']:,} row{'' if reason['count'] == 1 else 's'}"]
    if reason.get("host"):
        facts.append(reason["host"])
    if reason.get("status") and str(reason["status"]) != reason["code"]:
        facts.append(f"HTTP status {reason['status']}")
    return f"{reason['code']} ({', '.join(facts)}): {reason['message']}"
