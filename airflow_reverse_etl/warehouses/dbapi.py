"""Any database with a DB-API driver as a warehouse: cursors on the server where the driver can, Arrow out."""

# ruff: noqa: S608 - the query is the model, and the user's own; names are quoted

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    ModelNotFoundError,
    ReverseEtlError,
    UnreachableError,
)
from airflow_reverse_etl.sync.dialects import quoted
from airflow_reverse_etl.sync.ports import Column, Warehouse
from airflow_reverse_etl.warehouses.arrow import ArrowColumn, batch_of, column_for

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


class DbApiWarehouse(Warehouse):
    """Reads through a DB-API 2.0 connection, made when it is first needed.

    The connection lives in one thread of its own: some drivers insist on it, and the next rows are fetched while the
    last ones are worked on.

    :param connect: makes a connection.
    :param dialect: sqlglot's name of the database's SQL.
    :param conn_id: names the connection in errors.
    """

    def __init__(self, connect: Callable[[], Any], *, dialect: str, conn_id: str) -> None:
        self.dialect = dialect
        self._connect = connect
        self._conn_id = conn_id
        self._connection: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warehouse")

    def columns(self, query: str) -> Sequence[Column]:
        def describe() -> list[Column]:
            with contextlib.closing(self._open().cursor()) as cursor:
                cursor.execute(f"SELECT * FROM (\n{query}\n) AS model WHERE 1 = 0")
                return [Column(column[0]) for column in cursor.description]

        return self._call(describe)

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        import pyarrow as pa

        cursor, columns, rows = self._call(lambda: self._start(query, batch_rows))
        schema = pa.schema([(column.name, column.data_type) for column in columns])
        return pa.RecordBatchReader.from_batches(schema, self._batches(cursor, columns, rows, batch_rows))

    def close(self) -> None:
        if self._connection is not None:
            self._call(self._connection.close)
        self._thread.shutdown()

    def _batches(
        self, cursor: Any, columns: list[ArrowColumn], rows: list[Any], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        try:
            while rows:
                ahead = self._thread.submit(cursor.fetchmany, batch_rows)
                yield batch_of(columns, rows, conn_id=self._conn_id)
                rows = self._explained(ahead.result)
        finally:
            with contextlib.suppress(RuntimeError):  # the connection is closed already, and the cursor with it
                self._thread.submit(cursor.close)

    def _start(self, query: str, batch_rows: int) -> tuple[Any, list[ArrowColumn], list[Any]]:
        connection = self._open()
        cursor = _server_side(connection)
        cursor.execute(query)
        rows = cursor.fetchmany(batch_rows)
        described = cursor.description  # a named cursor has none before the first fetch
        values = list(zip(*rows, strict=True)) or [()] * len(described)
        columns = []
        for description, column in zip(described, values, strict=True):
            whole = len(rows) < batch_rows
            found = column_for(description, column, whole=whole)
            if found is None and not whole:  # nothing but nulls so far: one value further down tells
                with contextlib.closing(_server_side(connection)) as probe:
                    name = quoted(description[0], self.dialect)
                    probe.execute(f"SELECT {name} FROM (\n{query}\n) AS model WHERE {name} IS NOT NULL")
                    found = column_for(description, [row[0] for row in probe.fetchmany(1)], whole=False)
            columns.append(found or ArrowColumn.text(description[0]))
        return cursor, columns, rows

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _call(self, action: Callable[[], T]) -> T:
        return self._explained(lambda: self._thread.submit(action).result())

    def _explained(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:  # drivers share no base class; what is not theirs is raised as it is
            found = explained(error, self._conn_id)
            if found is error:
                raise
            raise found from None


def _server_side(connection: Any) -> Any:
    """A cursor whose rows stay on the server until they are fetched."""
    modules = {cls.__module__.partition(".")[0] for cls in type(connection).__mro__}
    if modules & {"psycopg", "psycopg2"}:
        return connection.cursor(name=f"reverse_etl_{secrets.token_hex(4)}")
    if "pymysql" in modules:
        return connection.cursor(import_module("pymysql.cursors").SSCursor)
    if "MySQLdb" in modules:
        return connection.cursor(import_module("MySQLdb.cursors").SSCursor)
    return connection.cursor()


def explained(error: Exception, conn_id: str) -> Exception:
    """A driver's error in our words, by SQLSTATE or by PEP 249's class; any other error as it is.

    The driver's words are kept where they speak of names, and left out where they may quote a value.
    """
    classes = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, ReverseEtlError) or not classes & {"Error", "DatabaseError", "InterfaceError"}:
        return error
    state = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if state.startswith("28") or state == "42501" or any(word in text.lower() for word in _REFUSED):
        return CredentialsError(
            text, todo="correct the connection, or grant it SELECT on the model", connection=conn_id
        )
    if "ProgrammingError" in classes or state.startswith("42") or "no such" in text:
        return ModelNotFoundError(text, todo="build the model, or correct its name or query", connection=conn_id)
    if classes & {"OperationalError", "InterfaceError"}:
        return UnreachableError(text, todo="check that the warehouse is up and reachable", connection=conn_id)
    return ConfigurationError(
        f"the model's query fails while it is read ({type(error).__name__})",
        todo="run the query in the warehouse to see why",
        connection=conn_id,
    )


_REFUSED = ("authentication failed", "access denied", "permission denied", "not authorized")
