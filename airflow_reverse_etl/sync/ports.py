"""The seams of the engine, as small protocols. Adapters implement them; the engine knows nothing else.

A protocol never grows a method once released: every implementer would break. Optional powers get a protocol of
their own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Receipts
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.sync.progress import Checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_reverse_etl.spec.model import Sync


class Warehouse(Protocol):
    """Where the model is. Reads only.

    ``dialect`` is sqlglot's name: ``postgres``, ``snowflake``, ``bigquery``, ``duckdb`` ...
    """

    dialect: str

    def columns(self, query: str) -> Sequence[Column]:
        """The columns of a SELECT, without reading rows.

        Raises ModelNotFoundError, CredentialsError, UnreachableError.
        """

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        """Stream the rows of a SELECT. Never holds the whole result in memory."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a plan is made from.

    :param query: the model as a SELECT in the warehouse's dialect.
    :param primary_key: column names, as the sync or the catalog gives them.
    :param run_id: stable over the retries of one Airflow task.
    :param now: UTC; decides which rejected rows are too old to retry.
    :param reset: record every valid row as delivered, send nothing.
    :param full_resync: send every valid row again, leave removed ones for the next run.
    """

    sync: Sync
    query: str
    primary_key: tuple[str, ...]
    run_id: str
    now: datetime
    reset: bool = False
    full_resync: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The change set of one run, stored by the state store under ``plan_id`` until it is committed.

    :param total: rows in the change set; they are numbered 1 to ``total``.
    :param model_rows: rows that the model had, invalid ones included.
    :param snapshot_rows: rows that the snapshot had.
    :param skipped: rows left out because they were rejected too often or for too long, unchanged, or are in doubt.
    :param spec: ``Sync.digest`` of the sync that it was made for; a plan is only resumed with the same one.
    :param recorded: rows that the commit records as delivered without their being sent.
    :param notes: what else there is to say, as codes; :data:`airflow_reverse_etl.spec.comparison.NOTES` has the words.
    :param causes: invalid rows by cause; :data:`airflow_reverse_etl.spec.report.CAUSES` has the words.
    :param given_up: those of the skipped rows that were rejected too often or for too long.
    :param given_up_codes: the codes of their last rejections, most frequent first, with the number of rows.
    """

    plan_id: str
    run_id: str
    sync: str
    planned: Planned
    total: int
    model_rows: int
    snapshot_rows: int
    skipped: int
    created_at: datetime
    spec: str = ""
    recorded: int = 0
    notes: tuple[str, ...] = ()
    causes: Mapping[str, int] = field(default_factory=dict)
    given_up: int = 0
    given_up_codes: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class FieldTracking(Protocol):
    """What a state store has that can tell which fields of a changed row changed."""

    def changed_fields(
        self, plan: Plan, sync: Sync, *, after: int = 0, until: int | None = None
    ) -> Mapping[int, tuple[str, ...] | None]:
        """Of changed rows with numbers from ``after`` + 1 to ``until``: number → destination fields, sorted.

        None where it is not known: the sync's ``track`` does not have ``fields: true``, or did not when the row was
        delivered; the mapping has changed since; or the row is sent for another reason than a value.
        """


@runtime_checkable
class InvalidKeys(Protocol):
    """The power of a state store to name invalid rows."""

    def invalid_keys(self, plan: Plan, *, count: int) -> Mapping[str, Sequence[str]]:
        """Return the first keys of a plan's invalid rows, sorted: cause → at most ``count`` different keys.

        Only causes with keys are in it: a row without a primary key has none.
        """


class StateStore(Protocol):
    """Snapshot, plan, checkpoint, rejections and run history of every sync.

    Everything is keyed by the sync's name. The store never sees a destination.
    """

    def unfinished(self, sync: str) -> Sequence[Plan]:
        """Plans that were made and not committed, oldest first."""

    def last_report(self, sync: str, run_id: str) -> RunReport | None:
        """The report of a committed run, or None."""

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        """Compare the model with the snapshot and store the change set. All or nothing."""

    def changes(self, plan: Plan, *, after: int = 0, until: int | None = None) -> Generator[pa.RecordBatch, None, None]:
        """The change set in ascending order of sequence number, from ``after`` + 1 to ``until`` (default: the end).

        Columns: ``seq`` int64; ``change`` string, ``added | changed | removed``, each a contiguous range in that
        order; ``key`` string; ``f0 … fn``, the values of the sync's mapping in its order (null for constants and
        templates); ``r0 … rm``, the columns that templates read, in the order of ``spec.templates.template_columns``;
        and ``identifiers`` string, the JSON record of a removed row's identifiers (null for others). Whoever does not
        read it to its end closes it.
        """

    def load_checkpoint(self, plan: Plan, *, partition: int = 0) -> Checkpoint:
        """The last saved checkpoint of a partition, or a new one."""

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int = 0) -> None:
        """Durable when it returns; a crash leaves the old or the new one, never a mix."""

    def checkpoints(self, plan: Plan) -> Sequence[Checkpoint]:
        """The saved checkpoints of all partitions, in any order; none when nothing was saved."""

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: RunReport, sync: Sync) -> None:
        """Fold accepted rows into the snapshot, rejected ones into the rejections, the report into the history.

        Repeatable: a commit cut short is completed by the next one of the same plan. Forgets the plan at the end.
        Raises RunConflictError when another run moved the snapshot since the plan was made.
        """

    def discard(self, plan: Plan) -> None:
        """Forget a plan of which nothing was sent."""

    def acquire(
        self, sync: str, holder: str, *, now: datetime, seconds: float, fence: int | None = None, label: str = ""
    ) -> int:
        """Take the lease of a sync until ``now`` + ``seconds``, or renew it; returns its fencing number.

        The number grows with every new holder; one that holds it already gets the same number. With ``fence``, only the
        lease of that number is renewed.

        ``holder`` is an id without line breaks, the same for all tasks and tries of one run. ``label`` describes the
        task that took or renewed the lease last, for people; it plays no part in who may take the lease.

        Raises RunConflictError, with the holder's label (its id where the label is empty), while another one holds the
        lease, or when ``fence`` is not its number.
        """

    def release(self, sync: str, *, fence: int) -> None:
        """Give the lease back. Nothing happens when it is no longer the one of this number."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a destination can do. The sync is checked against it before a row is read.

    :param operations: operations it supports.
    :param idempotent: operations that may be sent twice with the result of once.
    :param max_batch_rows: most rows in one batch.
    :param max_batch_bytes: most bytes in one batch, measured on the Arrow data; None for no limit.
    """

    operations: frozenset[Operation]
    idempotent: frozenset[Operation] = frozenset({Operation.UPSERT, Operation.UPDATE, Operation.DELETE})
    max_batch_rows: int = 100
    max_batch_bytes: int | None = None


class Limiter(Protocol):
    """Something that every request must ask before it is sent."""

    async def acquire(self) -> None: ...


class Destination(Protocol):
    """Where rows go. One batch in, one receipt per row out. Used as an async context manager by the engine."""

    capabilities: Capabilities

    async def open(self, limiter: Limiter) -> None:
        """Connect. Ask ``limiter`` before every request to the remote. Raises CredentialsError, UnreachableError."""

    async def send(self, batch: Batch) -> Receipts:
        """Send a batch once.

        A row's fate is a receipt, never an exception. Raises CredentialsError or ConfigurationError only for what
        concerns every row (401, wrong URL); the load then stops, and nothing that was settled is lost.
        """

    async def close(self) -> None: ...


class Observer(Protocol):
    """Told what happens: for logs, metrics and progress. Gets counts and codes, never row values."""

    def event(self, name: str, **facts: Any) -> None: ...


class Clock(Protocol):
    """Time, injected so that retries and leases can be tested without waiting."""

    def now(self) -> datetime:
        """UTC."""

    def monotonic(self) -> float:
        """Seconds."""

    async def sleep(self, seconds: float) -> None: ...


class RateBudget(Protocol):
    """Requests per second that everything which uses a connection shares, on all workers."""

    def reserve(self, name: str, tokens: int, *, rate: float, now: datetime) -> float:
        """Reserve ``tokens`` requests at ``rate`` a second; returns the seconds from ``now`` until the first may go.

        Nobody else gets the time that they take: ``tokens / rate`` seconds.
        """


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """An Airflow connection as plain data, so that adapters need no Airflow. ``repr`` shows no secret."""

    conn_id: str
    conn_type: str = ""
    host: str | None = None
    port: int | None = None
    schema: str | None = None
    login: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
