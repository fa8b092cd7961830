"""Destination type ``table``: a table in any SQL database that has a DB-API driver."""

# ruff: noqa: BLE001 - PEP 249 gives every driver exceptions of the same names, and no common root to catch
from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from uuid import UUID

from pydantic import Field

from airflow_reverse_etl.destinations.base import DestinationOptions, Setup
from airflow_reverse_etl.destinations.info import Info
from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps
from airflow_reverse_etl.destinations.unique_groups import UniqueGroups
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ReverseEtlError, UnreachableError
from airflow_reverse_etl.http.redaction import clean
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import UNIQUE_CYCLE, Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sql.dialects.base import Dialect, ErrorKind
from airflow_reverse_etl.sql.dialects.registry import writable_dialect
from airflow_reverse_etl.sql.driver_errors import classify, paramstyle
from airflow_reverse_etl.sql.statements.write import Statement, Writer
from airflow_reverse_etl.sync.ports import Capabilities, Limiter, ObjectField, ObjectSchema, ShownRequest, usual

T = TypeVar("T")

#: Errors that no row and no later time can mend.
_CONFIGURATION = frozenset({ErrorKind.MISSING, ErrorKind.WRONG, ErrorKind.DENIED})
#: Errors of a row's values.
_REJECTED = frozenset({ErrorKind.UNIQUE, ErrorKind.DATA})
#: Rows in one statement, on databases whose statements take many.
_ROWS_AT_ONCE = 250
#: Most values in one statement. SQLite allows 32,766, Postgres 65,535.
_PARAMETERS = 32_000
#: Numbers of Postgres' array types: of booleans, bytes, names, numbers, texts, dates, times, UUIDs and JSON.
_POSTGRES_ARRAYS = frozenset(
    (1000, 1001, 1003, 1005, 1007, 1016, 1009, 1014, 1015, 1021, 1022, 1231, 1182, 1183, 1115, 1185, 2951, 199, 3807)
)


class TableOptions(DestinationOptions):
    """Options of destination type ``table``."""

    connection: str
    object: Annotated[str, Field(min_length=1)]
    dialect: Annotated[
        str | None, Field(description="sqlglot's name of the database; default: derived from the connection's type")
    ] = None
    max_batch_rows: Annotated[int, Field(ge=1, description="maximum number of rows in a transaction")] = 1000


@dataclass(slots=True)
class _Session:
    """A database connection and the thread that uses it: some drivers refuse to be used from several threads."""

    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reverse-etl-table"))
    connection: Any = None
    cursor: Any = None

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    def disconnect(self) -> None:
        """Close the connection, which may be broken. The next use opens a new one."""
        connection = self.connection
        self.connection = None
        self.cursor = None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


INFO = Info(
    type="table",
    title="a table in a SQL database",
    connection="The connection is one of any provider whose hook is a SQL hook (common-sql), such as Postgres.",
    example="""\
name: scores_to_app
model: customer_scores
source: warehouse
primary_key: customer_id
mode: mirror
mapping:
  id: customer_id
  score: score
destination: {type: table, connection: app_database, object: public.scores, match_on: id}
""",
)


class TableDestination:
    """Writes each batch in one transaction: all of it or nothing.

    A transaction that was not committed leaves nothing behind, so rows are retryable or rejected after a failure before
    ``COMMIT``, and unknown after a failure during ``COMMIT``. On databases without transactions, rows are also unknown
    after a failed insert of several rows.

    In mode ``replace``, the rows go to the table ``<object>__replacement`` first. At the end, one transaction deletes
    the rows of the object, and inserts those. The object itself stays, with its grants, indexes, views and columns that
    the mapping does not have. Readers see the old rows or the new ones. A table that others refer to by foreign keys is
    refused, as their rows could be deleted, too. The mode works on DuckDB, MySQL, Postgres, Redshift, Snowflake, SQL
    Server and SQLite; on MySQL only with tables of an engine that has transactions.
    """

    info = INFO
    Options: ClassVar[type[DestinationOptions]] = TableOptions
    needs_match_on: ClassVar[frozenset[Operation]] = frozenset({Operation.UPSERT, Operation.UPDATE, Operation.DELETE})
    describes_fields = True

    def __init__(self, setup: Setup) -> None:
        if setup.connection is None or setup.connect is None:
            raise CredentialsError(
                "destination type 'table' needs a connection to a database",
                todo="set destination.connection to a connection of a common-sql provider",
                sync=setup.sync.name,
            )
        options: TableOptions = setup.options
        self._options = options
        self._sync = setup.sync
        self._operations = setup.operations
        self._dialect = _dialect(options.dialect or setup.connection.conn_type, options.connection)
        if setup.sync.mode == "replace" and self._dialect.references is None:
            raise ConfigurationError(
                f"mode replace cannot swap all rows of a table in {self._dialect.name} in one transaction",
                todo="use mode mirror",
                connection=options.connection,
                sync=setup.sync.name,
            )
        self._connect: Callable[[], Any] = setup.connect
        self._secret = setup.connection.password or ""
        self._statements: dict[tuple[Operation, tuple[str, ...], int], Statement] = {}
        self._free: list[_Session] = []
        self._sessions: list[_Session] = []
        self._columns: tuple[str, ...] | None = None
        self._arrays: frozenset[str] = frozenset()
        self._staged: _Session | None = None
        self._staged_rows = 0
        self.address = setup.address(setup.connection.port)
        self.capabilities = Capabilities(
            usual(options.max_batch_rows),  # a statement that succeeds has written all its rows
            ignore_case=self._dialect.ignores_case,
            removes_first=True,
            json=False,
        )

    async def open(self, limiter: Limiter) -> None:
        """Open the first connection, and check the statements if the database can do so without running them.

        :raises ConfigurationError: the table, a column, or the unique constraint on ``match_on`` does not exist.
        :raises CredentialsError: the database refused the credentials.
        :raises UnreachableError: no connection could be made.
        """
        self._limiter = limiter
        session = self._new_session()
        try:
            await session.run(self._check, session)
        except BaseException:
            await self.close()
            raise
        self._free.append(session)

    async def describe(self) -> ObjectSchema:
        """Return the table's columns. Every name is allowed if the user may not read the table."""
        if self._columns is None:
            return ObjectSchema((), open=True)
        # Give a column the spelling of the mapping where the database sees no difference.
        mapped = {self._compared(name.partition(".")[0]): name.partition(".")[0] for name in self._sync.mapping}
        return ObjectSchema([ObjectField(mapped.get(self._compared(name), name)) for name in self._columns])

    async def close(self) -> None:
        """Close every connection. Drops a new content that was not shown."""
        if self._staged is not None:
            await self._staged.run(self._drop_staging, self._staged)
            self._staged = None
        sessions = self._sessions
        self._sessions = []
        self._free = []
        for session in sessions:
            await session.run(session.disconnect)
            session.thread.shutdown(wait=False)

    async def send(self, batch: Batch) -> Receipts:
        """Write a batch in one transaction."""
        receipts = await self._use_session(self._write, batch)
        self._staged_rows += sum(receipts.of(key).outcome is Outcome.ACCEPTED for key in batch.keys)
        return receipts

    async def begin(self) -> None:
        """Make an empty table for the new content.

        :raises ConfigurationError: other tables refer to this one; or the user may not create a table.
        :raises UnreachableError: the database does not answer.
        """
        await self._limiter.acquire()
        session = self._free[-1]
        await session.run(self._make_staging, session)
        self._staged = session
        self._staged_rows = 0

    async def finish(self) -> None:
        """Replace the rows by the new content, in one transaction.

        :raises ConfigurationError: the database refused the new content.
        :raises UnreachableError: the database did not answer; or another load has written to the new content.
        """
        await self._limiter.acquire()
        assert self._staged is not None, "begin() comes first"
        await self._staged.run(self._show_staging, self._staged)

    def first_request(self, batch: Batch) -> ShownRequest:
        """Return the first statement of a batch's transaction, and its parameters as JSON."""
        connection = self._sessions[0].connection
        names = tuple(batch.records[0])
        statement = self._statement(batch.operation, names, connection)
        alike = [record for record in batch.records if tuple(record) == names]
        rows = [self._values(statement, record) for record in alike]
        notes = [] if len(alike) == len(batch) else ["rows with other fields have statements of their own"]
        if self._sync.mode == "replace":
            staging = self._object_writer(connection).staging().table
            notes.append(f"the rows go to {staging} first; one transaction then replaces those of the object by them")
        if batch.operation is Operation.UPDATE or not self._writer(connection).takes_many:
            if len(rows) > 1:
                notes.insert(0, "the statement is executed once for each list of parameters")
            return ShownRequest(statement.sql, body="\n".join(map(_json, rows)), notes=tuple(notes))
        key = [statement.columns.index(name) for name in self._options.match_on if name in statement.columns]
        chunk = next(_chunks(rows, key))
        statement = self._statement(batch.operation, names, connection, rows=len(chunk))
        return ShownRequest(statement.sql, body="\n".join(map(_json, chunk)), notes=tuple(notes))

    async def resolve(self, batch: Batch) -> Receipts:
        """Write rows that take each other's unique values, each group of such rows in one transaction.

        That needs a deferrable constraint, or a column of it that takes null, which is then null until the new values
        are written. Known for Postgres, SQLite and DuckDB, without constraints on expressions.
        """
        return await self._use_session(self._resolve, batch)

    async def _use_session(self, function: Callable[[_Session, Batch], Receipts], batch: Batch) -> Receipts:
        await self._limiter.acquire()
        session = self._free.pop() if self._free else self._new_session()
        try:
            return await session.run(function, session, batch)
        finally:
            self._free.append(session)

    def _new_session(self) -> _Session:
        session = _Session()
        self._sessions.append(session)
        return session

    # -- in the session's thread ---------------------------------------------------------------------------------

    def _cursor(self, session: _Session) -> Any:
        if session.cursor is None:
            session.connection = self._connect()
            session.cursor = session.connection.cursor()
        return session.cursor

    def _transaction(self, session: _Session, step: Literal["BEGIN", "COMMIT", "ROLLBACK"]) -> None:
        if self._dialect.autocommits:  # on the cursor, because a cursor of DuckDB has a transaction of its own
            session.cursor.execute(step)
        elif step != "BEGIN":
            getattr(session.connection, step.lower())()

    def _check(self, session: _Session) -> None:
        where = {"connection": self._options.connection, "sync": self._sync.name, "table": self._options.object}
        try:
            self._cursor(session)
        except ReverseEtlError:
            raise
        except Exception as error:
            text = clean(str(error), (self._secret,))
            if self._kind(error) in (ErrorKind.LOGIN, ErrorKind.DENIED):
                raise CredentialsError(
                    f"the database refused the credentials: {text}",
                    todo="correct the user name and password of the connection",
                    **where,
                ) from None
            raise UnreachableError(
                f"cannot connect to the database: {text}",
                todo="check that the database is running and can be reached from the worker",
                **where,
            ) from None
        self._columns = self._described(session, where)
        known = {self._compared(name) for name in self._columns or ()}
        columns = tuple(dict.fromkeys(name.partition(".")[0] for name in self._sync.mapping))
        missing = self._columns is not None and not known.issuperset(map(self._compared, columns))
        # The check of the mapping names missing columns better than the database does.
        if self._dialect.explains and not missing:
            self._explain(session, columns, where)
        if not self._dialect.autocommits:
            session.connection.rollback()

    def _described(self, session: _Session, where: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return the names of the table's columns, or None if the user may not read the table."""
        try:
            session.cursor.execute(self._writer(session.connection).columns().sql)
            columns = tuple(column[0] for column in session.cursor.description)
            arrays = (column[0] for column in session.cursor.description if _is_array(column[1], self._dialect.name))
            self._arrays = frozenset(map(self._compared, arrays))
            session.cursor.fetchall()
        except Exception as error:
            if self._kind(error) is not ErrorKind.DENIED:
                raise self._refused(error, "a look at the table", where) from None
            # A failed statement ends the transaction on some databases.
            if not self._dialect.autocommits:
                session.connection.rollback()
            return None
        return columns

    def _explain(self, session: _Session, columns: tuple[str, ...], where: Mapping[str, Any]) -> None:
        """Explain one statement for each operation: the database refuses it if a constraint is missing."""
        for operation in sorted(self._operations):
            statement = self._statement(operation, columns, session.connection)
            try:
                session.cursor.execute(f"EXPLAIN {statement.sql}", [None] * len(statement.columns))
                session.cursor.fetchall()
            except Exception as error:
                raise self._refused(error, f"a statement for {operation}", where) from None

    def _refused(self, error: Exception, what: str, where: Mapping[str, Any]) -> ReverseEtlError:
        """Return the error of a statement that the database refused before a row was written."""
        if self._kind(error) in _CONFIGURATION | _REJECTED:
            return ConfigurationError(
                f"the database refused {what}: {clean(str(error), (self._secret,))}",
                todo="correct the table's name or columns; upsert needs a unique constraint on match_on",
                **where,
            )
        text = clean(str(error), (self._secret,))
        return UnreachableError(text, todo="try again when the database is free", **where)

    def _compared(self, column: str) -> str:
        """Return a column's name as the database compares it when it is quoted."""
        return column if self._dialect.name_case in ("lower", "upper") else column.lower()

    def _statement(
        self, operation: Operation, columns: tuple[str, ...], connection: Any, *, rows: int = 1
    ) -> Statement:
        statement = self._statements.get((operation, columns, rows))
        if statement is None:
            statement = self._writer(connection).statement(operation, columns, rows=rows)
            self._statements[operation, columns, rows] = statement
        return statement

    def _writer(self, connection: Any) -> Writer:
        """Return the builder of the statements on the table that batches go to."""
        writer = self._object_writer(connection)
        return writer.staging() if self._staged is not None else writer

    def _object_writer(self, connection: Any) -> Writer:
        return Writer(self._dialect.name, paramstyle(connection), self._options.object, self._options.match_on)

    def _make_staging(self, session: _Session) -> None:
        where = {"connection": self._options.connection, "sync": self._sync.name, "table": self._options.object}
        writer = self._object_writer(session.connection)
        try:
            self._check_references(session, writer, where)
            self._run_together(session, writer.make_staging())
        except ReverseEtlError:
            raise
        except Exception as error:
            raise self._refused(error, "a table for the new content", where) from None
        self._statements.clear()

    def _check_references(self, session: _Session, writer: Writer, where: Mapping[str, Any]) -> None:
        """Refuse a table that others refer to: their rows could be deleted with those of this one."""
        query = writer.references()
        if not query:
            return
        session.cursor.execute(query)
        if tables := [str(row[0]) for row in session.cursor.fetchall()]:
            raise ConfigurationError(
                f"mode replace deletes every row for a moment, and other tables refer to this one: {', '.join(tables)}",
                todo="use mode mirror",
                **where,
            )

    def _show_staging(self, session: _Session) -> None:
        where = {"connection": self._options.connection, "sync": self._sync.name, "table": self._options.object}
        columns = tuple(dict.fromkeys(name.partition(".")[0] for name in self._sync.mapping))
        try:
            self._cursor(session)
            writer = self._object_writer(session.connection)
            self._run_together(session, writer.show_staging(columns), lambda: self._check_count(session, writer, where))
        except ReverseEtlError:
            raise
        except Exception as error:
            raise self._refused(error, "the new content", where) from None

    def _check_count(self, session: _Session, writer: Writer, where: Mapping[str, Any]) -> None:
        """Make sure that the new content has the rows of this load only, after they were inserted.

        An earlier try that still lives for a moment writes to the same table.
        """
        session.cursor.execute(writer.count_staging())
        [(rows,)] = session.cursor.fetchall()
        if rows != self._staged_rows:
            raise UnreachableError(
                f"the new content has {rows:,} rows instead of {self._staged_rows:,}: another load writes to it",
                todo="try again",
                **where,
            )

    def _run_together(
        self, session: _Session, statements: Sequence[str], check: Callable[[], None] | None = None
    ) -> None:
        """Run statements in one transaction, which ends without effect if the check raises."""
        try:
            self._transaction(session, "BEGIN")
            for sql in statements:
                session.cursor.execute(sql)
            if check:
                check()
            self._transaction(session, "COMMIT")
        except BaseException:
            with contextlib.suppress(Exception):
                self._transaction(session, "ROLLBACK")
            raise

    def _drop_staging(self, session: _Session) -> None:
        with contextlib.suppress(Exception):  # the next load drops it
            self._run_together(session, [self._object_writer(session.connection).drop_staging()])
        self._statements.clear()

    def _write(self, session: _Session, batch: Batch, before: Sequence[tuple[str, Sequence[Any]]] = ()) -> Receipts:
        """Write a batch in one transaction.

        :param before: statements that are executed first, with their parameters.
        """
        try:
            self._cursor(session)
            self._transaction(session, "BEGIN")
        except Exception as error:
            return self._failed(session, error, batch, wrote=False)
        try:
            for sql, values in before:
                session.cursor.execute(sql, values)
            exceptions = self._execute(session, batch)
        except Exception as error:
            return self._failed(session, error, batch, wrote=not self._dialect.transactions)
        try:
            self._transaction(session, "COMMIT")
        except Exception as error:
            name = type(error).__name__
            if self._kind(error) in _REJECTED:  # a deferred constraint failed, so the database rolled back
                return self._failed(session, error, batch, wrote=False)
            # Harmless if the transaction was committed; otherwise it releases the locks.
            with contextlib.suppress(Exception):
                self._transaction(session, "ROLLBACK")
            session.disconnect()
            return Receipts(Receipt(Outcome.UNKNOWN, name, "the connection failed while the transaction was committed"))
        return Receipts(exceptions=exceptions)

    def _execute(self, session: _Session, batch: Batch) -> dict[str, Receipt]:
        """Write a batch; return the receipts of rows that were left out."""
        exceptions: dict[str, Receipt] = {}
        # Rows with the same fields share a statement.
        groups: dict[tuple[str, ...], list[tuple[str, Sequence[Any]]]] = {}
        for key, record in zip(batch.keys, batch.records, strict=True):
            names = tuple(record)
            statement = self._statement(batch.operation, names, session.connection)
            try:
                values = self._values(statement, record)
            except NotJsonError as error:
                exceptions[key] = Receipt(Outcome.REJECTED, "no_sql_value", str(error))
                continue
            groups.setdefault(names, []).append((key, values))
        # Only an update needs a statement for each row, to find out whether the row exists.
        for names, rows in groups.items():
            statement = self._statement(batch.operation, names, session.connection)
            if batch.operation is Operation.UPDATE:
                for key, row in rows:
                    if not self._update(session, statement, row):
                        exceptions[key] = Receipt(Outcome.SKIPPED, "not_found", "row not found")
            else:
                self._send_many(session, batch.operation, names, [row for _, row in rows])
        return exceptions

    def _send_many(
        self, session: _Session, operation: Operation, names: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> None:
        statement = self._statement(operation, names, session.connection)
        if not self._writer(session.connection).takes_many:
            session.cursor.executemany(statement.sql, rows)
            return
        key = [statement.columns.index(name) for name in self._options.match_on if name in statement.columns]
        for chunk in _chunks(rows, key):
            statement = self._statement(operation, names, session.connection, rows=len(chunk))
            session.cursor.execute(statement.sql, [value for row in chunk for value in row])

    def _update(self, session: _Session, statement: Statement, values: Sequence[Any]) -> bool:
        """Update a row; return whether it exists."""
        # Drivers count matched rows, changed rows or nothing. A count of 0 proves nothing, so look for the row.
        session.cursor.execute(statement.sql, values)
        if session.cursor.rowcount > 0:
            return True
        key = values[len(statement.columns) - len(self._options.match_on) :]
        session.cursor.execute(self._writer(session.connection).look_up().sql, key)
        return session.cursor.fetchone() is not None

    def _resolve(self, session: _Session, batch: Batch) -> Receipts:
        exceptions: dict[str, Receipt] = {}
        written: set[int] = set()
        try:
            groups = UniqueGroups(self._cursor(session), self._writer(session.connection), batch, self._value)
            for row, key in enumerate(batch.keys):
                if row in written:
                    continue
                rows, before = groups.group(row)
                receipts = self._write(session, batch.only(rows), before)
                receipt = receipts.default
                if receipt.outcome is Outcome.ACCEPTED:
                    exceptions.update(receipts.exceptions)
                    written.update(rows)
                    groups.written(rows)
                    continue
                # The other rows of the group come later, and may have a smaller group.
                if receipt.outcome is Outcome.CONFLICT and len(rows) > 1:
                    text = f"{receipt.code}: {len(rows)} rows need each other's values, and the constraint forbids it"
                    receipt = Receipt(Outcome.REJECTED, UNIQUE_CYCLE, text)
                exceptions[key] = receipt
        except Exception as error:
            return self._failed(session, error, batch, wrote=False)
        return Receipts(exceptions=exceptions)

    def _failed(self, session: _Session, error: Exception, batch: Batch, *, wrote: bool) -> Receipts:
        """Roll back, and return what an error means for the rows of the batch.

        :param wrote: whether rows may have been written that the rollback does not remove.
        :raises ConfigurationError: the statement cannot succeed with any row.
        """
        found = classify(error, self._dialect)
        kind = found.kind if found else None
        name = type(error).__name__
        message = clean(str(error), (self._secret,), batch.records)
        try:
            self._transaction(session, "ROLLBACK")
        except Exception:  # the connection is broken: the next batch gets a new one
            session.disconnect()
        if isinstance(error, ReverseEtlError):
            raise error
        if kind in _CONFIGURATION:
            raise ConfigurationError(
                f"the database refused the statement: {message}",
                todo="correct the table's columns, or the permissions of the connection's user",
                connection=self._options.connection,
                sync=self._sync.name,
                table=self._options.object,
            ) from None
        if wrote and batch.operation is Operation.INSERT and len(batch) > 1:
            return Receipts(Receipt(Outcome.UNKNOWN, name, message))
        if found and kind is ErrorKind.UNIQUE:
            conflict = Receipt(Outcome.CONFLICT, found.constraint, "another record has a value that must be unique")
            return Receipts(conflict, refused_whole=len(batch) > 1)
        if kind in _REJECTED:
            return Receipts(Receipt(Outcome.REJECTED, name, message), refused_whole=len(batch) > 1)
        if kind or isinstance(error, OSError):
            return Receipts(Receipt(Outcome.RETRYABLE, name, message))
        if isinstance(error, ValueError | OverflowError):
            # Drivers raise these for values that they cannot send, such as psycopg for a text with NUL.
            refused = Receipt(Outcome.REJECTED, "no_sql_value", "the database's driver cannot send a value of this row")
            return Receipts(refused, refused_whole=len(batch) > 1)
        raise error

    def _kind(self, error: Exception) -> ErrorKind | None:
        """Return the meaning of a driver's error, or None for any other exception."""
        found = classify(error, self._dialect)
        return found.kind if found else None

    def _values(self, statement: Statement, record: Mapping[str, Any]) -> list[Any]:
        """Return the parameters of a record's statement.

        :raises NotJsonError: a value has no form in SQL.
        """
        return [self._value(record.get(name), name) for name in statement.columns]

    def _value(self, value: Any, column: str = "") -> Any:
        """Return a value that the driver accepts: JSON for objects and lists; text for types that it lacks.

        A list goes as such into a column that is an array, and so does the JSON text of one.
        """
        if self._arrays and self._compared(column) in self._arrays:
            value = _list_of(value)
            if isinstance(value, list):
                return _array_literal(value) if self._dialect.name == "postgres" else value
        if isinstance(value, Mapping | list | tuple):
            return dumps(value).decode()
        if self._dialect.stores_as_text:
            if isinstance(value, datetime | date | time):
                return value.isoformat()
            if isinstance(value, Decimal):
                return f"{value:f}"
            if isinstance(value, UUID):
                return str(value)
        return value


def _json(values: Sequence[Any]) -> str:
    return dumps(list(values)).decode()


def _chunks(rows: Sequence[Sequence[Any]], key: Sequence[int]) -> Iterator[list[Sequence[Any]]]:
    """Yield the rows in order, in chunks without duplicate keys, because one statement cannot write a row twice.

    A chunk has as many rows as a statement has room for their values.

    :param key: positions of the key's values in a row.
    """
    most = min(_ROWS_AT_ONCE, max(1, _PARAMETERS // len(rows[0]))) if rows else 1
    chunk: list[Sequence[Any]] = []
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        values = tuple(row[position] for position in key)
        if len(chunk) == most or (key and values in seen):
            yield chunk
            chunk = []
            seen = set()
        chunk.append(row)
        seen.add(values)
    yield chunk


def _is_array(type_code: Any, dialect: str) -> bool:
    """Return whether a type in a cursor's description is an array, as far as the database's driver says it."""
    if dialect == "postgres":
        return type_code in _POSTGRES_ARRAYS
    return dialect == "duckdb" and str(type_code).endswith("]")


def _list_of(value: Any) -> Any:
    """Return the list that JSON text stands for; other values as they are."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return json.loads(value, parse_float=Decimal)
    except ValueError:
        return value


def _array_literal(items: Sequence[Any]) -> str:
    """Return the text of an array in Postgres, which fits arrays of any type: a driver's list of texts is a text[]."""
    texts = []
    for item in items:
        if isinstance(item, list):
            texts.append(_array_literal(item))
        elif item is None:
            texts.append("NULL")
        else:
            escaped = _item_text(item).replace("\\", "\\\\").replace('"', '\\"')
            texts.append(f'"{escaped}"')
    return "{" + ",".join(texts) + "}"


def _item_text(item: Any) -> str:
    if isinstance(item, bytes):
        return f"\\x{item.hex()}"
    if isinstance(item, Mapping):
        return dumps(item).decode()
    return f"{item:f}" if isinstance(item, Decimal) else str(item)


def _dialect(name: str, conn_id: str) -> Dialect:
    """Return the facts about the database.

    :raises ConfigurationError: sqlglot cannot write its SQL.
    """
    if dialect := writable_dialect(name):
        return dialect
    raise ConfigurationError(
        f"no SQL dialect found for connections of type {name!r}",
        todo="set destination.dialect to one of sqlglot's: postgres, mysql, snowflake …",
        connection=conn_id,
    )
