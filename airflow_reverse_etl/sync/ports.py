"""Protocols between the engine and its adapters. The engine knows nothing else of an adapter.

A released protocol never gets another method, as that would break every implementation. An optional ability gets a
protocol of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.spec.receipts import Batch, JobRef, JobState, Receipt, Receipts
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.sync.progress import Checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_reverse_etl.spec.model import NullValue, Sync


class Warehouse(Protocol):
    """Read-only database that holds the model.

    ``dialect`` is sqlglot's name: ``postgres``, ``snowflake``, ``bigquery``, ``duckdb`` ...
    """

    dialect: str

    def columns(self, query: str) -> Sequence[Column]:
        """Return the columns of a SELECT, without reading rows.

        Raises ModelNotFoundError, CredentialsError, UnreachableError.
        """

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        """Stream the rows of a SELECT. Never holds the whole result in memory."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Input of a plan.

    :param query: the model as a SELECT in the warehouse's dialect.
    :param primary_key: column names, as the sync or the catalog gives them.
    :param run_id: stable over the retries of one Airflow task.
    :param now: time of the plan, in UTC; decides which rejected rows are too old to retry.
    :param reset: record every valid row as delivered, send nothing.
    :param full_resync: send every valid row again, and leave removed rows for the next run.
    :param on_destination_change: answer for this plan, instead of the sync's ``on_destination_change``.
    :param capabilities: of the destination. The default suits any destination.
    :param address: place of the destination; empty if the destination does not describe it.
    :param account: account of the destination's credentials; empty if it is not known.
    :param other_writers: see :attr:`Plan.other_writers`.
    :param whole: see :attr:`Plan.whole`.
    """

    sync: Sync
    query: str
    primary_key: tuple[str, ...]
    run_id: str
    now: datetime
    reset: bool = False
    full_resync: bool = False
    on_destination_change: str = ""
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(USUAL))
    address: str = ""
    account: str = ""
    other_writers: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False

    @property
    def place(self) -> str:
        """The destination's address with the account; empty without an address."""
        return place(self.address, self.account)

    def to(self, destination: Destination) -> PlanRequest:
        """Return the request with what the plan must know of its destination."""
        return replace(self, capabilities=destination.capabilities, address=getattr(destination, "address", ""))

    @property
    def ignore_case(self) -> bool:
        """True if identifiers that differ only in upper and lower case name the same record."""
        compare = self.sync.destination.compare
        return compare == "ignore_case" if compare else self.capabilities.ignore_case


def place(address: str, account: str) -> str:
    """Return an address with the account, if both are known."""
    return f"{address}{_ACCOUNT}{account}" if address and account else address


def same_place(one: str, other: str) -> bool:
    """Return whether two places are the same, as far as their accounts are known."""
    first, _, account = one.partition(_ACCOUNT)
    second, _, other_account = other.partition(_ACCOUNT)
    return first == second and (account == other_account or not account or not other_account)


#: Separates the account from the rest of a place.
_ACCOUNT = " account "

#: Order of a change set in this version, and in plans that do not say theirs.
KINDS = ("removed", "changed", "added")
EARLIER_KINDS = ("added", "changed", "removed")


@dataclass(frozen=True, slots=True)
class Plan:
    """Change set of one run, which the state store keeps under ``plan_id`` until it is committed.

    :param total: rows in the change set; they are numbered 1 to ``total``.
    :param model_rows: rows of the model, including invalid ones.
    :param snapshot_rows: rows of the snapshot.
    :param skipped: unchanged rows that are given up, dismissed, in doubt or missing at the destination, and not part of
        the change set.
    :param spec: ``Sync.digest`` of the plan's sync. A plan is resumed only for a sync with the same digest.
    :param recorded: rows that the commit records as delivered, and that are not sent.
    :param notes: codes of further remarks; :data:`airflow_reverse_etl.spec.comparison.NOTES` has the texts.
    :param causes: number of invalid rows by cause; :data:`airflow_reverse_etl.spec.report.CAUSES` has the texts.
    :param given_up: skipped rows that were rejected too often or for too long.
    :param given_up_codes: codes of the last rejections of given-up rows, most frequent first, with the number of rows.
    :param moved: see :attr:`~airflow_reverse_etl.spec.report.RunReport.moved`.
    :param held: see :attr:`~airflow_reverse_etl.spec.report.RunReport.held`.
    :param kinds: order of the kinds of rows in the change set.
    :param other_writers: in mode mirror, other syncs that write to the same destination: name → last day, ISO 8601.
    :param place: place of the destination, with the account.
    :param forgotten: records that leave the snapshot, and nothing is sent.
    :param whole: the rows are the whole new content of the destination's object (mode ``replace``).
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
    moved: int = 0
    held: int = 0
    kinds: tuple[str, ...] = KINDS
    other_writers: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    forgotten: int = 0
    whole: bool = False

    @property
    def has_work(self) -> bool:
        """True if there is something to send. An object that is replaced may become empty."""
        return self.total > 0 or self.whole

    @property
    def removed_first(self) -> int:
        """The number of removed rows that are answered before the rest begins: rows 1 to this number."""
        return self.planned.removed if self.kinds[0] == "removed" else 0

    def ranges(self) -> dict[str, range]:
        """Return the sequence numbers of each kind of row, in order."""
        found = {}
        start = 1
        for kind in self.kinds:
            stop = start + getattr(self.planned, kind)
            found[kind] = range(start, stop)
            start = stop
        return found


@runtime_checkable
class FieldTracking(Protocol):
    """Ability of a state store to name the changed fields of a changed row."""

    def changed_fields(
        self, plan: Plan, sync: Sync, *, after: int = 0, until: int | None = None
    ) -> Mapping[int, tuple[str, ...] | None]:
        """Map the numbers of changed rows, from ``after`` + 1 to ``until``, to their changed fields, sorted.

        Fields are named as in the destination. A row whose changed fields are not known has None: the sync has no
        ``track: {fields: true}``, or had none when the row was delivered; the mapping has changed since; or the row is
        sent although none of its values changed.
        """


@runtime_checkable
class InvalidKeys(Protocol):
    """Ability of a state store to name invalid rows."""

    def invalid_keys(self, plan: Plan, *, count: int) -> Mapping[str, Sequence[str]]:
        """Return the first keys of a plan's invalid rows, sorted: cause → at most ``count`` different keys.

        A cause without keys is left out, as a row without a primary key has no key.
        """


@runtime_checkable
class DestinationRegister(Protocol):
    """Ability of a state store to know which syncs write to a destination."""

    def writers(self, address: str) -> Mapping[str, datetime]:
        """Return the syncs that write to the destination at this address, and when they did last, to a day."""

    def register_writer(self, sync: str, address: str, now: datetime) -> None:
        """Record that a sync writes to the destination at this address, and to no other any more.

        Writes at most once a day. Call it only while the sync's lease is held.
        """


class StateStore(Protocol):
    """Storage for the snapshot, plans, checkpoints, rejections and run history of every sync.

    All entries are keyed by the sync's name. A store does not know the destination.
    """

    def unfinished(self, sync: str) -> Sequence[Plan]:
        """Return the plans that are neither committed nor discarded, oldest first."""

    def last_report(self, sync: str, run_id: str) -> RunReport | None:
        """Return the report of a committed run, or None."""

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        """Compare the model with the snapshot and store the change set. All or nothing."""

    def changes(self, plan: Plan, *, after: int = 0, until: int | None = None) -> Generator[pa.RecordBatch, None, None]:
        """Yield the change set, ascending by sequence number, from ``after`` + 1 to ``until`` (default: the end).

        Columns: ``seq`` int64; ``change`` string, ``removed | changed | added``, each a contiguous range in the order
        of ``plan.kinds``; ``key`` string; ``f0 … fn``, the values of the sync's mapping in its order (null for
        constants and templates); ``r0 … rm``, the columns that templates read, in the order of
        ``spec.templates.template_columns``; and ``identifiers`` string, the JSON record of a removed row's identifiers
        (null for other rows). With ``send: changed`` also ``field_hashes`` and ``hashes_before`` string, of which
        ``sql.statements.field_hashes.changed`` makes the changed fields of a changed row. A caller that does not read
        the generator to its end must close it.
        """

    def sequence_numbers(self, plan: Plan, records: Collection[str]) -> Mapping[str, int]:
        """Map names of records to the numbers of their rows in the change set; others are left out.

        :param records: names, of ``sql.statements.erasure.record_name``.
        """

    def begin_try(self, plan: Plan, *, partition: int = 0) -> int:
        """Take the number of a new try of a partition: one more than the last, even if another worker takes one now."""

    def last_try(self, plan: Plan, *, partition: int = 0) -> int:
        """Return the number of the last try of a partition, or 0 if there was none, or if the plan is gone."""

    def load_checkpoint(self, plan: Plan, *, partition: int = 0) -> Checkpoint:
        """Return the last saved checkpoint of a partition's last try that saved one, or a new one."""

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int = 0, try_number: int = 0) -> None:
        """Save a checkpoint durably. After a crash, either the old or the new checkpoint is complete.

        :param try_number: of the try that saves. The checkpoint of a later try stays what it is.
        """

    def checkpoints(self, plan: Plan) -> Mapping[int, Checkpoint]:
        """Return the last saved checkpoint of each partition that has one."""

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: RunReport, sync: Sync) -> None:
        """Fold accepted rows into the snapshot, rejected ones into the rejections, the report into the history.

        Repeatable: the next commit of the same plan completes an interrupted one. Deletes the plan at the end.
        Raises RunConflictError if another run has changed the snapshot since the plan was made.
        """

    def discard(self, plan: Plan) -> None:
        """Delete a plan of which nothing was sent."""

    def acquire(
        self, sync: str, holder: str, *, now: datetime, seconds: float, fence: int | None = None, label: str = ""
    ) -> int:
        """Take or renew the lease of a sync until ``now`` + ``seconds``; returns its fencing number.

        Each new holder gets a higher number; the current holder gets its number again. With ``fence``, only the lease
        with that number is renewed.

        ``holder`` is an id without line breaks that all tasks and tries of one run share. ``label`` describes the task
        that last took or renewed the lease to people; it does not affect who may take the lease.

        Raises RunConflictError, with the holder's label (its id if the label is empty), while another run holds the
        lease, or if ``fence`` is not the lease's number. Without ``fence``, the error's ``until`` is the end of that
        lease.
        """

    def release(self, sync: str, *, fence: int) -> None:
        """Release the lease with this number. Does nothing if the lease has another number by now."""


#: Worth of a destination's answers: see :class:`Support`.
Answers = Literal["row", "batch", "taken"]


@dataclass(frozen=True, slots=True)
class Support:
    """Promises of a destination about one operation. None has a default: its author makes each of them.

    :param idempotent: the operation has the same result when it is sent twice.
    :param answers: how much an answer is worth. ``row``: it confirms each row, because it names the row, lists every
        failure, or the write is all or nothing. ``batch``: it has one verdict for all rows of a request, and may not
        show that one of them failed. ``taken``: the destination queued the rows. What becomes of them is unknown.
    :param max_rows: most rows in one batch.
    :param max_bytes: most bytes of the rows as they are sent, such as the body of a request; None for no limit.
    """

    idempotent: bool
    answers: Answers
    max_rows: int
    max_bytes: int | None = None


def usual(max_rows: int = 100) -> dict[Operation, Support]:
    """Return every operation, of which only an insert has another result when it is sent twice."""
    return {
        operation: Support(idempotent=operation is not Operation.INSERT, answers="row", max_rows=max_rows)
        for operation in Operation
    }


USUAL: Mapping[Operation, Support] = usual()


class Limits(NamedTuple):
    """Limits of a load. None: no limit."""

    requests_per_second: float | None
    requests_per_day: int | None
    concurrency: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Abilities and limits of a destination. The sync is checked against them before a row is read.

    :param operations: supported operations, and what the destination promises about each.
    :param requests_per_second: rate of a sync without one of its own, until a receipt has the ``allowed_rate`` of the
        account; None for no limit.
    :param requests_per_day: likewise, in a day.
    :param daily_reset: IANA name of the time zone at whose midnight the remote begins to count the requests of a day
        again; empty if it counts those of the last 24 hours.
    :param concurrency: requests in flight of a sync without a number of its own.
    :param nulls: handling of null values in a sync without ``nulls``: how the destination clears a field.
    :param ignore_case: identifiers that differ only in upper and lower case name the same record.
    :param removes_first: a record whose row has a new identifier is deleted before the new record is written, and not
        in the run after: a unique constraint would refuse the new record otherwise.
    :param always_sent: fields that every record must have, of a destination that takes records with some of their
        fields (``send: changed``); None if it takes whole records only.
    :param json: a value of a JSON column goes as the value that its text stands for; if not, as the text.
    :param gives_ids: its receipts have the ids of records (``write_ids``).
    """

    operations: Mapping[Operation, Support]
    requests_per_second: float | None = None
    requests_per_day: int | None = None
    daily_reset: str = ""
    concurrency: int = 8
    nulls: Literal["send", "omit"] | NullValue = "send"
    ignore_case: bool = False
    removes_first: bool = False
    always_sent: frozenset[str] | None = None
    json: bool = True
    gives_ids: bool = False

    def idempotent(self, operation: Operation | None) -> bool:
        """Return True if an operation is supported, and has the same result when it is sent twice."""
        support = self.operations.get(operation) if operation else None
        return support is not None and support.idempotent

    def limits(self, sync: Sync) -> Limits:
        """Return the limits of a sync's loads: those of its ``rate``, else the destination's own."""
        rate = sync.rate
        return Limits(
            rate.requests_per_second or self.requests_per_second,
            rate.requests_per_day or self.requests_per_day,
            rate.concurrency or self.concurrency,
        )

    def batch_rows(self, sync: Sync, operation: Operation) -> int:
        """Return the most rows of a sync in one batch of an operation."""
        most = self.operations[operation].max_rows
        return min(sync.rate.batch_size or most, most)

    def may_repeat(self, mode: str) -> bool:
        """Return True if all operations of a mode have the same result when they are sent twice."""
        return mode == "replace" or all(map(self.idempotent, OPERATIONS[mode].values()))


class RecordIds(Protocol):
    """Ids that a destination has given to the records of one sync, on their way to a table next to the model.

    Its methods block, and are called in threads of their own.
    """

    def keep(self, ids: Mapping[str, str | None]) -> None:
        """Keep ids durably until the next :meth:`merge`.

        :param ids: key of the row → id of its record; None if the record was deleted. Later ids replace earlier ones.
        :raises UnreachableError: the storage did not answer.
        """

    def merge(self) -> None:
        """Merge all kept ids into the table, also those that earlier runs have kept. Repeatable.

        :raises ReverseEtlError: the table was not written. The ids are kept.
        """


class DailyLimitError(Exception):
    """No request may be sent before ``until``: the requests of a day are used up."""

    def __init__(self, until: datetime) -> None:
        super().__init__(f"the daily limit of requests is used up until {until:%Y-%m-%d %H:%M} UTC")
        self.until = until


class Limiter(Protocol):
    """Rate limiter that a destination asks before every request."""

    async def acquire(self) -> None:
        """Wait until one more request may be sent.

        :raises DailyLimitError: none may be sent today. The request was not sent.
        """


class Destination(Protocol):
    """Receiver of rows: it takes one batch, and returns one receipt for each row.

    An optional attribute ``address: str`` describes the place of the records, without secrets. State belongs to a
    place, so a sync whose destination is another place stops.
    """

    capabilities: Capabilities

    async def open(self, limiter: Limiter) -> None:
        """Connect. Ask ``limiter`` before every request to the remote. Raises CredentialsError, UnreachableError."""

    async def send(self, batch: Batch) -> Receipts:
        """Send a batch once.

        The outcome of a row is a receipt, never an exception. Raises CredentialsError or ConfigurationError only for
        problems that concern every row (401, wrong URL). The load then stops, and keeps all settled rows. May let a
        DailyLimitError of the limiter pass as long as no request of the batch was sent: the rows are left.
        """

    async def close(self) -> None: ...


#: Types of a destination's fields. ``choices`` is a list of choices, and ``any`` takes every value as it is.
FieldType = Literal["text", "integer", "number", "boolean", "date", "datetime", "choice", "choices", "any"]


@dataclass(frozen=True, slots=True)
class ObjectField:
    """A field of a destination's object.

    :param required: a new record needs a value.
    :param writable: requests may set it.
    :param unique: no two records have the same value; None if that is not known.
    :param choices: values that a field of type ``choice`` or ``choices`` takes.
    """

    name: str
    type: FieldType = "any"
    required: bool = False
    writable: bool = True
    unique: bool | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectSchema:
    """The fields of a destination's object, named as in a sync's mapping.

    :param open: the object takes fields that are not listed, too.
    """

    fields: Sequence[ObjectField]
    open: bool = False


@runtime_checkable
class DescribesFields(Protocol):
    """Destination that knows the fields of its object.

    A run checks its mapping against them before it reads a row, and converts values to their types.
    """

    describes_fields: bool

    async def describe(self) -> ObjectSchema:
        """Return the fields of the object, if ``describes_fields``. Called while the destination is open."""


@runtime_checkable
class TellsAccount(Protocol):
    """Destination that knows which account its credentials belong to. The account is part of the state's place."""

    tells_account: bool

    async def account(self) -> str:
        """Return an id of the account, if ``tells_account``. Called while the destination is open."""


@runtime_checkable
class ResolvesConflicts(Destination, Protocol):
    """Destination that can write rows together that take each other's unique values.

    Without this protocol, such rows are rejected.
    """

    async def resolve(self, batch: Batch) -> Receipts:
        """Write the rows of a batch of upserts or updates, each of which had a conflict when it was sent by itself.

        Rows that depend on each other are written all or none. The receipt of a row has the outcome ``conflict`` if
        a record of no row of the batch is in its way, and is ``rejected`` with the code ``unique_cycle`` if the
        destination cannot write it together with the rows that are in its way. Raises like :meth:`Destination.send`.
        """


@runtime_checkable
class ReplacesObject(Destination, Protocol):
    """Destination that can replace the whole content of its object at once (mode ``replace``).

    After :meth:`begin`, :meth:`Destination.send` writes rows to a new content that no reader sees. :meth:`finish` shows
    it in the place of the old one. If the process is killed before that, the old content is what it was. A load sends
    its batches in order, and waits for each answer.
    """

    async def begin(self) -> None:
        """Begin a new, empty content. Drops one that an interrupted load has left. Raises like ``open``."""

    async def finish(self) -> None:
        """Show the new content to all readers at once. May be repeated by another :meth:`begin` and the same rows.

        Raises UnreachableError if that failed, or if the answer was lost; ConfigurationError if no try can succeed.
        """


@dataclass(frozen=True, slots=True)
class JobTerms:
    """Promises of a destination about jobs with rows of one operation.

    :param starts: when the destination begins to work on the rows. ``on_close``: only when the upload is closed, so
        that a job whose reference is lost was never at work. ``at_once``: with the request that creates the job, so
        that rows are in doubt if its answer is lost.
    :param max_rows: most rows in one job.
    :param max_bytes: most bytes of its rows; None for no limit.
    :param max_jobs: most jobs that are open at a time, of one load and of all tasks on the connection together.
    :param patience: time after which a load gives up waiting for a job. The job continues, and the next try asks again.
    """

    starts: Literal["on_close", "at_once"]
    max_rows: int
    max_bytes: int | None = None
    max_jobs: int = 1
    patience: timedelta = timedelta(hours=24)


@runtime_checkable
class PollsJobs(Protocol):
    """Destination that can be asked for a job's state. All that it needs of the sync is in the job's reference.

    :param poll_seconds: seconds between two questions for the same job.
    """

    poll_seconds: float

    async def open(self, limiter: Limiter) -> None:
        """Connect, as :meth:`Destination.open`."""

    async def poll(self, ref: JobRef) -> JobState:
        """Ask for the state of a job. Raises CredentialsError, ConfigurationError, UnreachableError."""

    async def close(self) -> None: ...


@runtime_checkable
class LoadsInJobs(Destination, PollsJobs, Protocol):
    """Destination that takes many rows at once, and answers later.

    The engine keeps the reference of each job, asks for its state, and settles rows by its results.
    """

    def job_terms(self, operation: Operation, rows: int) -> JobTerms | None:
        """Return how the rows of an operation are sent in jobs; None if they are sent by :meth:`Destination.send`.

        Depends on the arguments and the sync only, so that all tries of a plan do the same.

        :param rows: rows of the plan with this operation.
        """

    def submit(self, batch: Batch) -> AsyncGenerator[str | Receipts, None]:
        """Hand the rows of a batch over, as a job.

        Yields the job's id as soon as it is known; the engine saves it before it takes the next step. Then uploads the
        rows and closes the job, if that is the way of the destination, and ends.

        Yields receipts instead if the destination refuses the rows, or the answer to the request that creates the job
        is lost, or the upload fails; and ends. Raises like :meth:`Destination.send`.
        """

    async def abort(self, ref: JobRef) -> None:
        """End a job that is ``open``, so that nobody can close it any more. Raises like :meth:`PollsJobs.poll`."""

    def collect(self, ref: JobRef, batch: Batch) -> AsyncGenerator[Mapping[str, Receipt], None]:
        """Yield the results of a finished job, page by page: key of the batch → receipt.

        Only reads, and may be repeated. Finds the row of a result by the identifier in it, never by its position. A row
        that the destination did not process is ``retryable``. A row that no page names is in doubt.

        :param batch: rows of the job. If the sync was edited since, its records have the identifiers only.
        """


@dataclass(frozen=True, slots=True)
class ShownRequest:
    """A request as a person sees it before it is sent. It has values of rows, and no credentials.

    :param line: method and URL, SQL, or the path of a file.
    :param headers: headers that are sent with it. Those of the connection have masked values.
    :param body: the body, parameters or lines, exactly as they are sent, if that is text.
    :param notes: what is not shown, such as requests that depend on the answer to this one.
    """

    line: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    notes: tuple[str, ...] = ()


@runtime_checkable
class ShowsRequests(Protocol):
    """Destination that can show a request before it is sent."""

    def first_request(self, batch: Batch) -> ShownRequest:
        """Return the first request of a batch, without sending it. Called while the destination is open."""


class Observer(Protocol):
    """Receiver of a run's events, for logs, metrics and progress. Events have counts and codes, never row values."""

    def event(self, name: str, **facts: Any) -> None: ...


class Clock(Protocol):
    """Source of time, injected so that retries and leases can be tested without waiting."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def monotonic(self) -> float:
        """Return the seconds of a clock that never goes back."""

    async def sleep(self, seconds: float) -> None: ...


class RateBudget(Protocol):
    """Budget of requests and open jobs that all tasks with the same connection share, on all workers."""

    def reserve(self, name: str, tokens: int, *, rate: float, now: datetime, lead: float = 0.0) -> float:
        """Reserve ``tokens`` requests at ``rate`` a second.

        They take ``tokens / rate`` seconds, in which no other task gets a request.

        :param lead: seconds from ``now`` before which the first request cannot be sent, because reserving takes time.
        :returns: seconds from ``now`` until the first request may be sent, ``lead`` or more.
        """

    def give_back(self, name: str, seconds: float, *, end: datetime) -> None:
        """Make the last seconds of a reservation available again, unless another task has reserved the time after it.

        :param end: end of the reservation: ``now`` and the returned seconds of :meth:`reserve`, and ``tokens / rate``.
        """

    def pause(self, name: str, seconds: float, *, now: datetime) -> float:
        """Let no task send a request for the given seconds, as the remote has refused one.

        Tasks learn of a pause when they reserve requests, and when they call this method because of a refusal of their
        own.

        :returns: seconds from ``now`` until the end of the pause. A pause that another task has begun is not extended,
            unless it ends sooner than half of ``seconds``.
        """

    def draw(self, name: str, requests: int, *, per_day: int, now: datetime, day: timedelta) -> DailyGrant:
        """Take requests out of the allowance of a day.

        :param day: time before ``now`` whose requests count.
        """

    def return_unused(self, name: str, requests: int) -> None:
        """Make requests that were drawn, and not sent, available again."""

    def take_slot(self, name: str, holder: str, *, most: int, now: datetime, until: datetime) -> bool:
        """Take one of ``most`` slots for open jobs, or keep the one that ``holder`` has.

        :param holder: name of the job, the same in all processes.
        :param until: time at which the slot is free again if nobody keeps it.
        :returns: False if other jobs have all slots.
        """

    def free_slot(self, name: str, holder: str) -> None:
        """Free the slot of a job that has ended, if it has one."""


class DailyGrant(NamedTuple):
    """Requests of a day's allowance that a task may send.

    :param requests: number of requests, 0 if the allowance is used up.
    :param more_at: time at which more may be drawn, if it is used up.
    """

    requests: int
    more_at: datetime


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """Airflow connection as plain data, so that adapters do not need Airflow. ``repr`` shows no secret."""

    conn_id: str
    conn_type: str = ""
    host: str | None = None
    port: int | None = None
    schema: str | None = None
    login: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
