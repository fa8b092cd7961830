"""Fakes for tests of syncs and destinations: a clock, an observer, a warehouse, a destination with dials."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import ACCEPTED, REPLY_NOT_READ, Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import USUAL, Capabilities, Limiter, ObjectSchema
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

if TYPE_CHECKING:
    import pyarrow as pa


class FrozenClock:
    """Clock that moves only when it is asked to sleep, without waiting.

    ``slept`` has the seconds of every sleep, in order.
    """

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = now
        self._elapsed = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move the clock forward without a sleep."""
        self._elapsed += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._elapsed += max(0.0, seconds)
        await asyncio.sleep(0)


class RecordingObserver:
    """Observer that keeps every event as (name, facts)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, name: str, **facts: Any) -> None:
        self.events.append((name, facts))

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the facts of every event with this name."""
        return [facts for found, facts in self.events if found == name]


class CountingLimiter:
    """Limiter that lets every request pass, and counts it."""

    def __init__(self) -> None:
        self.count = 0

    async def acquire(self) -> None:
        self.count += 1


class MemoryWarehouse:
    """Warehouse whose tables are lists of rows. DuckDB runs the queries, so any SELECT in its dialect works.

    >>> warehouse = MemoryWarehouse({"customers": [{"id": 1, "name": "Ada"}]})
    >>> warehouse.read("select upper(name) as name from customers").read_all().to_pylist()
    [{'name': 'ADA'}]
    """

    dialect = "duckdb"

    def __init__(self, tables: Mapping[str, Sequence[Mapping[str, Any]] | pa.Table]) -> None:
        import duckdb

        self._database = duckdb.connect()
        self._warehouse = DuckDBWarehouse(self._database)
        for name, rows in tables.items():
            self.set(name, rows)

    def set(self, name: str, rows: Sequence[Mapping[str, Any]] | pa.Table) -> None:
        """Replace a table. For a table without rows, pass a ``pyarrow.Table``, which has columns."""
        import pyarrow as pa

        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])
        self._database.register("_rows", table)
        self._database.execute(f'create or replace table "{name}" as select * from _rows')  # noqa: S608 - a test's name
        self._database.unregister("_rows")

    def columns(self, query: str) -> Sequence[Column]:
        return self._warehouse.columns(query)

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        return self._warehouse.read(query, batch_rows=batch_rows)

    def close(self) -> None:
        """Do nothing, as several runs may use a memory warehouse."""


class CrashError(Exception):
    """Error that a fake raises to simulate the death of the process."""


@dataclass(slots=True)
class Dials:
    """Exact failures of a fake. Requests are numbered from 1 in the order of their arrival.

    :param reject: keys of rows that are rejected, each by itself.
    :param refuse: keys of rows whose batch is refused as a whole, with nothing written. Alone, such a row is rejected.
    :param unique: field whose value only one record may have. A row with a value of another record is a conflict.
    :param throttle: number of first requests that are throttled.
    :param retry_after: seconds that a throttled request has to wait; None: the answer does not say.
    :param left_today: number of requests that are allowed today, which every answer counts down; None: no limit.
    :param unsent: numbers of requests that find no connection.
    :param lose_request: numbers of requests that are lost: nothing is written, and no answer comes.
    :param lose_answer: numbers of requests that are carried out, and whose answer is lost.
    :param unread: numbers of requests that are carried out, and whose answer the sync cannot read.
    :param crash: numbers of requests that are carried out before the process dies.
    :param latency: seconds until an answer.
    :param crash_at_finish: whether the process dies when a new content is shown, and before or after that.
    """

    reject: Collection[str] = ()
    refuse: Collection[str] = ()
    unique: str = ""
    throttle: int = 0
    retry_after: float | None = 2.0
    left_today: int | None = None
    unsent: Collection[int] = ()
    lose_request: Collection[int] = ()
    lose_answer: Collection[int] = ()
    unread: Collection[int] = ()
    crash: Collection[int] = ()
    latency: float = 0.0
    crash_at_finish: Literal["", "before", "after"] = ""


@dataclass(slots=True)
class Table:
    """Contents of a fake destination.

    :param rows: key → record.
    :param writes: all writes in order, including repeated ones.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[tuple[Operation, str]] = field(default_factory=list)

    def write(self, operation: Operation, key: str, record: Mapping[str, Any]) -> bool:
        """Carry out one write; returns False if the row to update does not exist."""
        if operation is Operation.UPDATE and key not in self.rows:
            return False
        self.writes.append((operation, key))
        if operation is Operation.DELETE:
            self.rows.pop(key, None)
        else:
            self.rows[key] = {**self.rows.get(key, {}), **record}
        return True

    def is_taken(self, field: str, key: str, record: Mapping[str, Any]) -> bool:
        """Return whether another record has the same value, other than null, in a field; empty for no field."""
        value = record.get(field)
        return value is not None and any(held.get(field) == value for other, held in self.rows.items() if other != key)

    def repeated(self) -> Iterable[tuple[Operation, str]]:
        """Return the writes that took place more than once."""
        return {write for write in self.writes if self.writes.count(write) > 1}


class FakeDestination:
    """Destination in memory whose failures are set by :class:`Dials`.

    ``batches`` has every batch that was sent, whatever its outcome; ``table`` has the written rows, by the batch's
    keys. Keep the object to inspect it, and to run the next sync with it. It can be opened any number of times.

    :param schema: fields of its object; None if it does not describe them.
    :param account: account of its credentials; empty if it cannot tell.
    """

    def __init__(
        self,
        dials: Dials | None = None,
        *,
        capabilities: Capabilities | None = None,
        schema: ObjectSchema | None = None,
        account: str = "",
    ) -> None:
        self.dials = dials or Dials()
        self.capabilities = capabilities or Capabilities(USUAL)
        self.schema = schema
        self.account_id = account
        self.table = Table()
        self.batches: list[Batch] = []
        self.opened = 0
        self.closed = 0
        self._shown: Table | None = None
        self._throttled = 0
        self._limiter: Limiter = CountingLimiter()

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows that a reader of the destination sees now: key → record."""
        return (self._shown or self.table).rows

    @property
    def describes_fields(self) -> bool:
        return self.schema is not None

    @property
    def tells_account(self) -> bool:
        return bool(self.account_id)

    async def describe(self) -> ObjectSchema:
        assert self.schema is not None, "describe only if there is a schema"
        await self._limiter.acquire()
        return self.schema

    async def account(self) -> str:
        await self._limiter.acquire()
        return self.account_id

    async def open(self, limiter: Limiter) -> None:
        self.opened += 1
        self._limiter = limiter

    async def close(self) -> None:
        self.closed += 1

    async def begin(self) -> None:
        self._shown = self._shown or self.table
        self.table = Table()

    async def finish(self) -> None:
        await self._limiter.acquire()
        if self.dials.crash_at_finish == "before":
            raise CrashError("the process dies before the new content is shown")
        self._shown = None
        if self.dials.crash_at_finish == "after":
            raise CrashError("the process dies after the new content was shown")

    async def send(self, batch: Batch) -> Receipts:
        await self._limiter.acquire()
        self.batches.append(batch)
        number = len(self.batches)
        dials = self.dials
        if dials.latency:
            await asyncio.sleep(dials.latency)
        if self._throttled < dials.throttle:
            self._throttled += 1
            receipt = Receipt(Outcome.RETRYABLE, "429", "too many requests")
            return Receipts(receipt, retry_after=dials.retry_after, throttled=True)
        if number in dials.unsent:
            return Receipts(Receipt(Outcome.RETRYABLE, "not_connected", "no connection"))
        if number in dials.lose_request:
            return Receipts(Receipt(Outcome.UNKNOWN, "timeout", "no answer"))
        if any(key in dials.refuse for key in batch.keys):
            receipt = Receipt(Outcome.REJECTED, "refused", "a row is not acceptable")
            return Receipts(receipt, refused_whole=len(batch) > 1)
        exceptions = dict(self._write(batch))
        if number in dials.crash:
            raise CrashError(f"the process dies during request {number}")
        if number in dials.lose_answer:
            return Receipts(Receipt(Outcome.UNKNOWN, "timeout", "no answer"))
        if number in dials.unread:
            receipt = Receipt(Outcome.UNKNOWN, REPLY_NOT_READ, "the reply reports per-row results")
            return Receipts(receipt, stop=ConfigurationError(receipt.message, todo="set `results`"))
        left = None if dials.left_today is None else max(0, dials.left_today - number)
        return Receipts(ACCEPTED, exceptions, left_today=left)

    def _write(self, batch: Batch) -> Iterable[tuple[str, Receipt]]:
        for key, record in zip(batch.keys, batch.records, strict=True):
            if key in self.dials.reject:
                yield key, Receipt(Outcome.REJECTED, "rejected", "the row is not acceptable")
            elif self.table.is_taken(self.dials.unique, key, record):
                yield key, Receipt(Outcome.CONFLICT, self.dials.unique, "another record has this value")
            elif not self.table.write(batch.operation, key, record):
                yield key, Receipt(Outcome.SKIPPED, "not_found", "row not found")
