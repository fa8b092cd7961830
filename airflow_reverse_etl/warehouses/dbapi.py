"""Any database with a DB-API driver as a warehouse: Arrow out, by server-side cursors if the driver has them."""

# ruff: noqa: S608 - the query is the model, and the user's own; names are quoted

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.spec.columns import JSON, Column
from airflow_reverse_etl.sql.quoting import quoted
from airflow_reverse_etl.sync.ports import Warehouse
from airflow_reverse_etl.warehouses import postgres
from airflow_reverse_etl.warehouses.arrow import (
    ArrowColumn,
    RunningQuery,
    batch_of,
    cast,
    column_for,
    field_of,
    kind_of_field,
    schema_of,
    unified_type,
)
from airflow_reverse_etl.warehouses.connection import ThreadedConnection

if TYPE_CHECKING:
    import pyarrow as pa


#: Dialect → type codes in a cursor's description of columns that a driver returns as JSON text: Snowflake's VARIANT,
#: OBJECT and ARRAY (snowflake-connector-python 4), Redshift's SUPER (redshift_connector 2), MySQL's JSON (PyMySQL 1).
_JSON_CODES: Mapping[str, Sequence[object]] = {"snowflake": (5, 9, 10), "redshift": (4000,), "mysql": (245,)}


#: Bytes of rows that are fetched at a time, about. In Python the same rows take several times as much.
_BATCH_BYTES = 16 * 1024 * 1024
#: Rows that are fetched before their size is known.
_STEP_ROWS = 1_024


class DbApiWarehouse(Warehouse):
    """A reader through a DB-API 2.0 connection: the driver's Arrow, or without Arrow rows of a server-side cursor.

    :param connect: makes a connection.
    :param dialect: sqlglot's name of the database's SQL.
    :param conn_id: names the connection in errors.
    """

    def __init__(self, connect: Callable[[], Any], *, dialect: str, conn_id: str) -> None:
        self.dialect = dialect
        self._connect = connect
        self._conn_id = conn_id
        self._connection = ThreadedConnection(self._open, dialect, conn_id)

    def columns(self, query: str) -> Sequence[Column]:
        described = self._connection.call(lambda connection: _described(connection, query))
        return [Column(column[0]) for column in described]

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        import pyarrow as pa

        cursor, schema, first, following = self._connection.call(
            lambda connection: self._start(connection, query, batch_rows)
        )
        return pa.RecordBatchReader.from_batches(schema, self._connection.ahead(cursor, first, following))

    def close(self) -> None:
        self._connection.close()

    def _open(self) -> Any:
        connection = self._connect()
        return postgres.mark_unsupported_dates(connection) if self.dialect == "postgres" else connection

    def _start(self, connection: Any, query: str, batch_rows: int) -> RunningQuery:
        """Run a query and fetch its first batch."""
        # Postgres has types that drivers read differently: the server casts those to text.
        known: list[postgres.PostgresColumn] = []
        if self.dialect == "postgres":
            known = [postgres.PostgresColumn.from_description(column) for column in _described(connection, query)]
            query = postgres.with_text_casts(query, known)
        cursor = _server_side(connection)
        self._connection.runs(cursor)
        try:
            cursor.execute(query)
            batches = _arrow_batches(cursor, batch_rows)
            if batches is None:
                return self._read_rows(cursor, query, batch_rows, known)
            return self._read_arrow(cursor, batches)
        except Exception:
            with contextlib.suppress(Exception):
                cursor.close()
            raise

    def _read_rows(
        self, cursor: Any, query: str, batch_rows: int, known: Sequence[postgres.PostgresColumn]
    ) -> RunningQuery:
        rows, complete = _first_rows(cursor, batch_rows)
        columns = self._columns(query, cursor.description, rows, known, complete=complete)
        first = batch_of(columns, rows, conn_id=self._conn_id)
        size = _rows_of(first, batch_rows)

        def following() -> pa.RecordBatch | None:
            nonlocal size
            batch = batch_of(columns, cursor.fetchmany(size), conn_id=self._conn_id)
            size = _rows_of(batch, batch_rows)
            return batch

        return cursor, schema_of(columns), first, following

    def _columns(
        self,
        query: str,
        described: Sequence[Any],
        rows: Sequence[Any],
        known: Sequence[postgres.PostgresColumn],
        *,
        complete: bool,
    ) -> list[ArrowColumn]:
        """Type the columns.

        :param known: what is known of each column, or an empty list.
        :param complete: no rows follow these.
        """
        columns = []
        all_values = list(zip(*rows, strict=True)) or [()] * len(described)
        for at, (description, values) in enumerate(zip(described, all_values, strict=True)):
            name = description[0]
            if known and (kind := known[at].data_type):
                columns.append(ArrowColumn.of(name, kind, known[at].stands_for))
                continue
            found = column_for(description, values, complete=complete)
            if found is None and not complete:
                found = column_for(description, self._probe(query, name), complete=False)
            found = found or ArrowColumn.text(name)
            if description[1] in _JSON_CODES.get(self.dialect, ()):
                found = replace(found, kind=JSON)
            columns.append(found)
        return columns

    def _probe(self, query: str, column: str) -> list[Any]:
        """Return a value from later rows, for a column with nulls only so far; an empty list without one."""
        name = quoted(column, self.dialect)
        # Another connection, because some can have one cursor only.
        with contextlib.closing(self._open()) as connection, contextlib.closing(_server_side(connection)) as cursor:
            cursor.execute(f"SELECT {name} FROM (\n{query}\n) AS model WHERE {name} IS NOT NULL")
            return [row[0] for row in cursor.fetchmany(1)]

    def _read_arrow(self, cursor: Any, batches: Iterator[pa.RecordBatch]) -> RunningQuery:
        import pyarrow as pa

        first = next(batches, None)
        if first is None:  # no rows, and so no types
            no_rows = pa.schema([(column[0], pa.string()) for column in cursor.description])
            return cursor, no_rows, None, lambda: None
        kinds = [
            JSON if description[1] == "JSON" else kind_of_field(field)
            for description, field in zip(cursor.description, first.schema, strict=True)
        ]
        schema = pa.schema(
            [
                field_of(field.name, unified_type(field.type), kind)
                for field, kind in zip(first.schema, kinds, strict=True)
            ]
        )

        def following() -> pa.RecordBatch | None:
            batch = next(batches, None)
            return batch if batch is None else cast(batch, schema, conn_id=self._conn_id)

        return cursor, schema, cast(first, schema, conn_id=self._conn_id), following


def _first_rows(cursor: Any, batch_rows: int) -> tuple[list[Any], bool]:
    """Fetch the first rows of a query, and return whether no rows follow.

    These rows decide the columns' types, so there are many of them unless they are wide.
    """
    rows: list[Any] = []
    size = 0
    while len(rows) < batch_rows and size < _BATCH_BYTES:
        wanted = min(_STEP_ROWS, batch_rows - len(rows))
        found = cursor.fetchmany(wanted)
        rows += found
        if len(found) < wanted:
            return rows, True
        size += sum(len(value) for row in found for value in row if isinstance(value, str | bytes | list | dict))
    return rows, False


def _rows_of(batch: pa.RecordBatch | pa.Table | None, most: int) -> int:
    """Return the number of rows to fetch next, given the rows before: few if they are wide."""
    if batch is None or not batch.num_rows:
        return most
    row_bytes: int = max(1, batch.nbytes // batch.num_rows)
    return max(1, min(most, _BATCH_BYTES // row_bytes))


def _described(connection: Any, query: str) -> Sequence[Any]:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(f"SELECT * FROM (\n{query}\n) AS model WHERE 1 = 0")
        return list(cursor.description)


def _server_side(connection: Any) -> Any:
    """Return a cursor whose rows stay on the server until they are fetched."""
    modules = {cls.__module__.partition(".")[0] for cls in type(connection).__mro__}
    if modules & {"psycopg", "psycopg2"}:
        return connection.cursor(name=f"reverse_etl_{secrets.token_hex(4)}")
    if "pymysql" in modules:
        return connection.cursor(import_module("pymysql.cursors").SSCursor)
    if "MySQLdb" in modules:
        return connection.cursor(import_module("MySQLdb.cursors").SSCursor)
    if hasattr(type(connection), "arrow_number_to_decimal_setter"):  # Snowflake would return decimals as floats
        connection.arrow_number_to_decimal_setter = True
    return connection.cursor()


def _arrow_batches(cursor: Any, batch_rows: int) -> Iterator[pa.RecordBatch] | None:
    """Return the rows of an executed query as the driver's own Arrow; None if the driver does not support Arrow.

    Sources: ``SnowflakeCursor`` of snowflake-connector-python, ``Cursor`` of databricks-sql-connector.
    """
    if hasattr(cursor, "fetch_arrow_batches"):
        return (batch for table in cursor.fetch_arrow_batches() for batch in table.to_batches())
    if hasattr(cursor, "fetchmany_arrow"):
        return _until_empty(cursor.fetchmany_arrow, batch_rows)
    return None


def _until_empty(fetch: Callable[[int], pa.Table], most: int) -> Iterator[pa.RecordBatch]:
    size = min(_STEP_ROWS, most)
    while (table := fetch(size)).num_rows:
        size = _rows_of(table, most)
        yield from table.to_batches()
