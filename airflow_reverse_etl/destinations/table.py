"""Destination type ``table``: rows into a table of any SQL database that has a DB-API driver."""

# ruff: noqa: BLE001 - PEP 249 gives every driver exceptions of the same names, and no common root to catch
from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from uuid import UUID

from pydantic import Field

from airflow_reverse_etl.destinations.base import DestinationOptions, Setup
from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ReverseEtlError, UnreachableError
from airflow_reverse_etl.http.redaction import clean
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sql.statements.write import Statement, Writer
from airflow_reverse_etl.sync.ports import Capabilities, Limiter

T = TypeVar("T")

#: Airflow connection type → sqlglot dialect, where they differ.
_DIALECTS = {
    "gcpbigquery": "bigquery",
    "google_cloud_platform": "bigquery",
    "mssql": "tsql",
    "odbc": "tsql",
    "postgresql": "postgres",
}
#: Databases where a transaction must be begun by a statement, as their drivers commit each one by themselves.
_BEGIN = frozenset({"duckdb", "snowflake", "sqlite"})
#: Databases without transactions over several statements: what a failed batch has written stays.
_NO_TRANSACTION = frozenset({"bigquery", "clickhouse", "databricks", "spark", "trino"})
#: Databases whose ``EXPLAIN`` checks a statement against tables, columns and constraints without running it.
_EXPLAIN = frozenset({"duckdb", "mysql", "postgres", "sqlite"})
#: Rows in one statement, where it takes many.
_ROWS_AT_ONCE = 250


class TableOptions(DestinationOptions):
    """Options of destination type ``table``."""

    connection: str
    object: Annotated[str, Field(min_length=1)]
    dialect: Annotated[
        str | None, Field(description="sqlglot's name of the database, where the connection's type does not tell")
    ] = None
    max_batch_rows: Annotated[int, Field(ge=1, description="most rows in a transaction")] = 1000


@dataclass(slots=True)
class _Sender:
    """A thread with a connection of its own: some drivers let no other thread near it."""

    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reverse-etl-table"))
    connection: Any = None
    cursor: Any = None

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    def hang_up(self) -> None:
        """Close the connection, which may be broken; the next use makes a new one."""
        connection, self.connection, self.cursor = self.connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


class TableDestination:
    """Writes each batch in one transaction: all of it or nothing.

    What a failure means: a transaction that was not committed leaves nothing behind, so a failure before ``COMMIT`` is
    sent is retryable, or the row's own fault; one during ``COMMIT`` is unknown. On databases without transactions a
    failed insert of several rows is unknown, too.
    """

    Options: ClassVar[type[DestinationOptions]] = TableOptions
    needs_match_on: ClassVar[frozenset[Operation]] = frozenset({Operation.UPSERT, Operation.UPDATE, Operation.DELETE})

    def __init__(self, setup: Setup) -> None:
        if setup.connection is None or setup.connect is None:
            raise CredentialsError(
                "destination type 'table' needs a connection to a database",
                todo="set destination.connection to a connection of a common-sql provider",
                sync=setup.sync.name,
            )
        options: TableOptions = setup.options
        self._options, self._sync = options, setup.sync
        self._operations = setup.operations
        conn_type = setup.connection.conn_type
        self._dialect = _dialect(options.dialect or _DIALECTS.get(conn_type, conn_type), options.connection)
        self._connect: Callable[[], Any] = setup.connect
        self._secret = setup.connection.password or ""
        self._statements: dict[tuple[Operation, tuple[str, ...], int], Statement] = {}
        self._free: list[_Sender] = []
        self._senders: list[_Sender] = []
        self.capabilities = Capabilities(frozenset(Operation), max_batch_rows=options.max_batch_rows)

    async def open(self, limiter: Limiter) -> None:
        """Connect once, and check the statements where the database can.

        :raises ConfigurationError: no such table or column, or no unique constraint on ``match_on``.
        :raises CredentialsError: the database refused the credentials.
        :raises UnreachableError: there is no connection.
        """
        self._limiter = limiter
        sender = self._sender()
        try:
            await sender.run(self._check, sender)
        except BaseException:
            await self.close()
            raise
        self._free.append(sender)

    async def close(self) -> None:
        """Close every connection."""
        senders, self._senders, self._free = self._senders, [], []
        for sender in senders:
            await sender.run(sender.hang_up)
            sender.thread.shutdown(wait=False)

    async def send(self, batch: Batch) -> Receipts:
        """One transaction."""
        await self._limiter.acquire()
        sender = self._free.pop() if self._free else self._sender()
        try:
            return await sender.run(self._write, sender, batch)
        finally:
            self._free.append(sender)

    def _sender(self) -> _Sender:
        sender = _Sender()
        self._senders.append(sender)
        return sender

    # -- in the sender's thread ----------------------------------------------------------------------------------

    def _cursor(self, sender: _Sender) -> Any:
        if sender.cursor is None:
            sender.connection = self._connect()
            sender.cursor = sender.connection.cursor()
        return sender.cursor

    def _transaction(self, sender: _Sender, step: Literal["BEGIN", "COMMIT", "ROLLBACK"]) -> None:
        if self._dialect in _BEGIN:  # on the cursor: DuckDB's has a transaction of its own
            sender.cursor.execute(step)
        elif step != "BEGIN":
            getattr(sender.connection, step.lower())()

    def _check(self, sender: _Sender) -> None:
        where = {"connection": self._options.connection, "sync": self._sync.name, "table": self._options.object}
        try:
            cursor = self._cursor(sender)
        except ReverseEtlError:
            raise
        except Exception as error:  # any driver's, and none of them share a root
            text = clean(str(error), (self._secret,))
            if any(word in text.lower() for word in ("password", "authentication", "access denied", "login failed")):
                raise CredentialsError(
                    f"the database refused the credentials: {text}", todo="check the connection", **where
                ) from None
            raise UnreachableError(
                f"no connection to the database: {text}", todo="check that it is up and can be reached", **where
            ) from None
        if self._dialect not in _EXPLAIN:
            return
        columns = tuple(dict.fromkeys(name.partition(".")[0] for name in self._sync.mapping))
        for operation in sorted(self._operations):
            statement = self._statement(operation, columns, sender.connection)
            try:
                cursor.execute(f"EXPLAIN {statement.sql}", [None] * len(statement.columns))
                cursor.fetchall()
            except Exception as error:
                if _is_configuration(error):
                    raise ConfigurationError(
                        f"the database does not accept {operation} into the table: {clean(str(error), ())}",
                        todo="check the table's name and columns; upsert needs a unique constraint on match_on",
                        **where,
                    ) from None
                raise UnreachableError(str(error), todo="try again when the database is free", **where) from None
        if self._dialect not in _BEGIN:
            sender.connection.rollback()

    def _statement(
        self, operation: Operation, columns: tuple[str, ...], connection: Any, *, rows: int = 1
    ) -> Statement:
        if (known := self._statements.get((operation, columns, rows))) is None:
            known = self._writer(connection).statement(operation, columns, rows=rows)
            self._statements[operation, columns, rows] = known
        return known

    def _writer(self, connection: Any) -> Writer:
        return Writer(self._dialect, _paramstyle(connection), self._options.object, self._options.match_on)

    def _write(self, sender: _Sender, batch: Batch) -> Receipts:
        try:
            self._cursor(sender)
            self._transaction(sender, "BEGIN")
        except Exception as error:
            return self._failed(sender, error, batch, wrote=False)
        try:
            exceptions = self._execute(sender, batch)
        except Exception as error:
            return self._failed(sender, error, batch, wrote=self._dialect in _NO_TRANSACTION)
        try:
            self._transaction(sender, "COMMIT")
        except Exception as error:
            name = type(error).__name__
            if "IntegrityError" in _kinds(error):  # a deferred constraint: the database says that it rolled back
                return self._failed(sender, error, batch, wrote=False)
            with contextlib.suppress(Exception):  # harmless after a commit, and frees what is locked without one
                self._transaction(sender, "ROLLBACK")
            sender.hang_up()
            return Receipts(Receipt(Outcome.UNKNOWN, name, "the connection failed while the transaction was committed"))
        return Receipts(exceptions=exceptions)

    def _execute(self, sender: _Sender, batch: Batch) -> dict[str, Receipt]:
        exceptions: dict[str, Receipt] = {}
        groups: dict[tuple[str, ...], list[tuple[str, Sequence[Any]]]] = {}
        for key, record in zip(batch.keys, batch.records, strict=True):
            names = tuple(record)
            statement = self._statement(batch.operation, names, sender.connection)
            try:
                found = [self._value(record.get(name)) for name in statement.columns]
            except NotJsonError as error:
                exceptions[key] = Receipt(Outcome.REJECTED, "no_sql_value", str(error))
                continue
            groups.setdefault(names, []).append((key, found))
        for names, rows in groups.items():
            statement = self._statement(batch.operation, names, sender.connection)
            if batch.operation is Operation.UPDATE:
                for key, values in rows:
                    if not self._update(sender, statement, values):
                        exceptions[key] = Receipt(Outcome.SKIPPED, "not_found", "there is no such row")
            else:
                self._send_many(sender, batch.operation, names, [values for _, values in rows])
        return exceptions

    def _send_many(
        self, sender: _Sender, operation: Operation, names: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> None:
        statement = self._statement(operation, names, sender.connection)
        if not self._writer(sender.connection).takes_many:
            sender.cursor.executemany(statement.sql, rows)
            return
        key = [statement.columns.index(name) for name in self._options.match_on if name in statement.columns]
        for chunk in _chunks(rows, key):
            statement = self._statement(operation, names, sender.connection, rows=len(chunk))
            sender.cursor.execute(statement.sql, [value for row in chunk for value in row])

    def _update(self, sender: _Sender, statement: Statement, values: Sequence[Any]) -> bool:
        """Whether there is such a row. Drivers count matched rows, changed rows or nothing: only a count is certain."""
        sender.cursor.execute(statement.sql, values)
        if sender.cursor.rowcount > 0:
            return True
        key = values[len(statement.columns) - len(self._options.match_on) :]
        sender.cursor.execute(self._writer(sender.connection).look_up().sql, key)
        return sender.cursor.fetchone() is not None

    def _failed(self, sender: _Sender, error: Exception, batch: Batch, *, wrote: bool) -> Receipts:
        kinds, name = _kinds(error), type(error).__name__
        message = clean(str(error), (self._secret,), batch.records)
        try:
            self._transaction(sender, "ROLLBACK")
        except Exception:  # broken: the next batch gets a new connection
            sender.hang_up()
        if isinstance(error, ReverseEtlError):
            raise error
        if "ProgrammingError" in kinds or _is_configuration(error):
            raise ConfigurationError(
                f"the database does not accept the statement: {message}",
                todo="check the table's columns and the permissions of the connection's user",
                connection=self._options.connection,
                sync=self._sync.name,
                table=self._options.object,
            ) from None
        if wrote and batch.operation is Operation.INSERT and len(batch) > 1:
            return Receipts(Receipt(Outcome.UNKNOWN, name, message))
        if kinds & {"IntegrityError", "DataError"}:
            return Receipts(Receipt(Outcome.REJECTED, name, message), refused_whole=len(batch) > 1)
        if kinds & {"Error", "OSError"}:
            return Receipts(Receipt(Outcome.RETRYABLE, name, message))
        raise error

    def _value(self, value: Any) -> Any:
        """A value as drivers take it: objects and lists as JSON; for SQLite, which has few types, as text."""
        if isinstance(value, Mapping | list | tuple):
            return dumps(value).decode()
        if self._dialect == "sqlite" and isinstance(value, datetime | date | time | Decimal | UUID):
            return value.isoformat() if isinstance(value, datetime | date | time) else str(value)
        return value


def _chunks(rows: Sequence[Sequence[Any]], key: Sequence[int]) -> Iterator[list[Sequence[Any]]]:
    """The rows in order, in chunks that have no key twice: one statement cannot write a row twice."""
    chunk: list[Sequence[Any]] = []
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        values = tuple(row[at] for at in key)
        if len(chunk) == _ROWS_AT_ONCE or (key and values in seen):
            yield chunk
            chunk, seen = [], set()
        chunk.append(row)
        seen.add(values)
    yield chunk


def _kinds(error: Exception) -> set[str]:
    """The names of an exception's classes: PEP 249 gives every driver the same ones, without a common root."""
    return {cls.__name__ for cls in type(error).__mro__}


def _is_configuration(error: Exception) -> bool:
    """Wrong tables and columns that a driver calls an operational error, or that have no other cause."""
    if "ProgrammingError" in _kinds(error):
        return True
    if getattr(error, "sqlite_errorname", None) == "SQLITE_ERROR":
        return True
    code = error.args[0] if error.args else None
    # MySQL: no such database, column, table
    return "OperationalError" in _kinds(error) and code in (1049, 1054, 1146)


def _paramstyle(connection: Any) -> str:
    """The PEP 249 ``paramstyle`` of the driver that a connection comes from."""
    module = type(connection).__module__
    while module:
        if style := getattr(sys.modules.get(module), "paramstyle", None):
            return str(style)
        module = module.rpartition(".")[0]
    return "qmark"


def _dialect(name: str, conn_id: str) -> str:
    from sqlglot.dialects.dialect import Dialect

    if name and Dialect.get(name):
        return name
    raise ConfigurationError(
        f"no SQL dialect is known for connections of type {name!r}",
        todo="set destination.dialect to one of sqlglot's: postgres, mysql, snowflake …",
        connection=conn_id,
    )
