"""A database with an ADBC driver as a warehouse: rows arrive as Arrow."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_reverse_etl.errors import ConfigurationError, ReverseEtlError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.sync.ports import Warehouse
from airflow_reverse_etl.warehouses import postgres, snowflake
from airflow_reverse_etl.warehouses.arrow import (
    ArrowColumn,
    RunningQuery,
    cast,
    column_for,
    field_of,
    kind_of_field,
    unified_type,
)
from airflow_reverse_etl.warehouses.connection import ThreadedConnection, query_failed, unreachable

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Reading:
    """A cursor and its stream, which one thread closes together."""

    cursor: Any
    reader: pa.RecordBatchReader | None = None

    def adbc_cancel(self) -> None:
        self.cursor.adbc_cancel()

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
        self.cursor.close()


class AdbcWarehouse(Warehouse):
    """A reader through an ADBC connection with the interface of DB-API.

    Columns have the types and values that the cursor of a DB-API driver returns, so the result does not depend on the
    drivers that a worker has.

    :param connect: makes a connection.
    :param dialect: sqlglot's name of the database's SQL.
    :param conn_id: names the connection in errors.
    :param dbapi: the same database through its DB-API driver. It reads, or reports an error, when ADBC fails.
    :param options: of each statement, by the driver's names.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        dialect: str,
        conn_id: str,
        dbapi: Warehouse | None = None,
        options: Mapping[str, str | int] | None = None,
    ) -> None:
        self.dialect = dialect
        self._conn_id = conn_id
        self._dbapi = dbapi
        self._options = options
        self._adbc_failed = False
        self._connection = ThreadedConnection(connect, dialect, conn_id)

    def columns(self, query: str) -> Sequence[Column]:
        from adbc_driver_manager import NotSupportedError

        def describe(connection: Any) -> list[Column] | None:
            with contextlib.closing(connection.cursor()) as cursor:
                try:
                    return [Column(field.name) for field in cursor.adbc_execute_schema(query)]
                except NotSupportedError:  # BigQuery's driver (1.11) returns columns only with rows
                    return None

        return self._try_adbc(describe) or self._fallback.columns(query)

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        """Read the rows of a query.

        :param batch_rows: used by the DB-API driver only. Batches of ADBC have the driver's own size, a few megabytes.
        """
        import pyarrow as pa

        started = self._try_adbc(lambda connection: self._start(connection, query))
        if started is None:
            return self._fallback.read(query, batch_rows=batch_rows)
        cursor, schema, first, following = started
        return pa.RecordBatchReader.from_batches(schema, self._connection.ahead(cursor, first, following))

    def close(self) -> None:
        self._connection.close()
        if self._dbapi:
            self._dbapi.close()

    def _try_adbc(self, action: Callable[[Any], T | None]) -> T | None:
        """Return what ``action`` returns for the ADBC connection; None if the other driver must be used instead."""
        if self._adbc_failed:
            return None
        try:
            found = self._connection.call(action)
        except Exception as error:  # any class: if the cause is real, the other driver reports it next
            if self._dbapi is None:
                raise
            self._adbc_failed = True  # do not try again: a login may take long to fail, and lock an account
            why = error.what if isinstance(error, ReverseEtlError) else type(error).__name__
            _log.info("Reading connection %r without ADBC: %s", self._conn_id, why)
            return None
        if found is None and self._dbapi is None:
            raise ConfigurationError(
                "the ADBC driver cannot report the columns of the query",
                todo="use the database's own connection type, which has another driver as well",
                connection=self._conn_id,
            )
        return found

    @property
    def _fallback(self) -> Warehouse:
        assert self._dbapi is not None
        return self._dbapi

    def _start(self, connection: Any, query: str) -> RunningQuery | None:
        reading = _Reading(connection.cursor())
        started = None
        self._connection.runs(reading)
        try:
            started = self._run(reading, query)
        finally:
            if started is None:
                reading.close()
        return started

    def _run(self, reading: _Reading, query: str) -> RunningQuery | None:
        """Run a query and fetch its first batches. Returns None if the driver does not report the columns."""
        cursor = reading.cursor
        columns: list[postgres.PostgresColumn] = []
        if self.dialect == "postgres":
            columns = [postgres.PostgresColumn.from_field(field) for field in cursor.adbc_execute_schema(query)]
            query = postgres.with_text_casts(query, columns)
        if self._options:
            cursor.adbc_statement.set_options(**self._options)
        cursor.execute(query)
        reading.reader = reader = cursor.fetch_record_batch()
        if not reader.schema.names:
            return None
        # Two batches: the first types the columns, the second shows whether there are more values than those.
        batches = self._batches(reader, cursor.rowcount)
        first = next(batches, None)
        second = next(batches, None)
        kinds = [column.data_type for column in columns] or [unified_type(field.type) for field in reader.schema]
        if self.dialect == "snowflake":
            kinds = [snowflake.integer_if_possible(kind, at, first) for at, kind in enumerate(kinds)]
        stands_for = [column.stands_for for column in columns] or [kind_of_field(field) for field in reader.schema]
        schema = _schema(reader.schema, kinds, stands_for, first, complete=second is None)

        def unify(batch: pa.RecordBatch | None) -> pa.RecordBatch | None:
            return batch if batch is None else cast(batch, schema, conn_id=self._conn_id)

        fetched = [] if second is None else [second]
        following = itertools.chain(fetched, batches)
        return reading, schema, unify(first), lambda: unify(next(following, None))

    def _batches(self, reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the batches of a stream.

        :param rows: number of rows of the query; negative if the driver does not know it.
        """
        import pyarrow as pa

        try:
            for batch in reader:
                rows -= batch.num_rows
                yield batch
        except (pa.ArrowException, OSError) as error:  # ADBC's errors arrive as Arrow's, without their SQLSTATE
            if "ERROR:" in str(error):  # the server's text, which may quote a value
                raise query_failed(type(error).__name__, self._conn_id) from None
            raise unreachable("the connection was lost while rows were read", self._conn_id) from None
        if rows > 0:  # BigQuery's driver (1.11) ends an interrupted stream like a complete one
            raise unreachable(f"the stream ended {rows} rows early", self._conn_id)


def _schema(
    given: pa.Schema,
    kinds: Sequence[pa.DataType | None],
    stands_for: Sequence[str],
    first: pa.RecordBatch | None,
    *,
    complete: bool,
) -> pa.Schema:
    """Return the schema of the columns. A numeric without a declared scale is typed by its first values, given as text.

    :param complete: no values follow the first batch.
    """
    import pyarrow as pa

    fields = []
    for at, (name, kind) in enumerate(zip(given.names, kinds, strict=True)):
        if kind is None:
            texts = first.column(at).storage.to_pylist() if first else []
            values = [None if text is None else Decimal(text) for text in texts]
            found = column_for((name, *[None] * 6), values, complete=complete) or ArrowColumn.text(name)
            kind = found.data_type
        fields.append(field_of(name, kind, stands_for[at]))
    return pa.schema(fields)
