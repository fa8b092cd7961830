"""A database with an ADBC driver as a warehouse: Arrow from the wire on."""

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
from airflow_reverse_etl.warehouses.arrow import ArrowColumn, Started, cast, column_for, settled
from airflow_reverse_etl.warehouses.connection import Connected, failed, unreachable

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Reading:
    """A cursor and the stream from it, which one thread closes together."""

    cursor: Any
    reader: pa.RecordBatchReader | None = None

    def adbc_cancel(self) -> None:
        self.cursor.adbc_cancel()

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
        self.cursor.close()


class AdbcWarehouse(Warehouse):
    """Reads through an ADBC connection with the interface of DB-API.

    Columns have the types and values that the cursor of a DB-API driver gives, so that it makes no difference which
    drivers a worker has.

    :param connect: makes a connection.
    :param dialect: sqlglot's name of the database's SQL.
    :param conn_id: names the connection in errors.
    :param other: the same database through its DB-API driver. What ADBC refuses, it may do, or can say why.
    :param options: of each statement, in the driver's own words.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        dialect: str,
        conn_id: str,
        other: Warehouse | None = None,
        options: Mapping[str, str | int] | None = None,
    ) -> None:
        self.dialect, self._conn_id, self._other, self._options = dialect, conn_id, other, options
        self._refused = False
        self._connected = Connected(connect, conn_id)

    def columns(self, query: str) -> Sequence[Column]:
        from adbc_driver_manager import NotSupportedError

        def describe(connection: Any) -> list[Column] | None:
            with contextlib.closing(connection.cursor()) as cursor:
                try:
                    return [Column(field.name) for field in cursor.adbc_execute_schema(query)]
                except NotSupportedError:  # BigQuery's driver (1.11) tells columns only with rows
                    return None

        return self._tried(describe) or self._instead.columns(query)

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        """Batches have the driver's own size, a few megabytes; ``batch_rows`` is for where it cannot read."""
        import pyarrow as pa

        started = self._tried(lambda connection: self._start(connection, query))
        if started is None:
            return self._instead.read(query, batch_rows=batch_rows)
        cursor, schema, first, following = started
        return pa.RecordBatchReader.from_batches(schema, self._connected.ahead(cursor, first, following))

    def close(self) -> None:
        self._connected.close()
        if self._other:
            self._other.close()

    def _tried(self, action: Callable[[Any], T | None]) -> T | None:
        """What ``action`` makes of the connection; None where the other driver is to do it instead."""
        if self._refused:
            return None
        try:
            found = self._connected.call(action)
        except Exception as error:  # of whatever class: the other driver meets its cause next
            if self._other is None:
                raise
            self._refused = True  # a login may take long to fail, and lock an account
            why = error.what if isinstance(error, ReverseEtlError) else type(error).__name__
            _log.info("Read without ADBC, because of: %s (connection %r)", why, self._conn_id)
            return None
        if found is None and self._other is None:
            raise ConfigurationError(
                "the ADBC driver does not tell the columns of the query",
                todo="use the connection type of the database itself, which has another driver as well",
                connection=self._conn_id,
            )
        return found

    @property
    def _instead(self) -> Warehouse:
        assert self._other is not None
        return self._other

    def _start(self, connection: Any, query: str) -> Started | None:
        reading, started = _Reading(connection.cursor()), None
        self._connected.runs(reading)
        try:
            started = self._started(reading, query)
        finally:
            if started is None:
                reading.close()
        return started

    def _started(self, reading: _Reading, query: str) -> Started | None:
        cursor = reading.cursor
        columns: list[postgres.PostgresColumn] = []
        if self.dialect == "postgres":
            columns = [postgres.PostgresColumn.of_field(field) for field in cursor.adbc_execute_schema(query)]
            query = postgres.as_read(query, columns)
        if self._options:
            cursor.adbc_statement.set_options(**self._options)
        cursor.execute(query)
        reading.reader = reader = cursor.fetch_record_batch()
        if not reader.schema.names:
            return None
        batches = self._batches(reader, cursor.rowcount)
        first, second = next(batches, None), next(batches, None)
        kinds = [column.data_type for column in columns] or [settled(field.type) for field in reader.schema]
        if self.dialect == "snowflake":
            kinds = [snowflake.whole(kind, at, first) for at, kind in enumerate(kinds)]
        schema = _schema(reader.schema, kinds, first, whole=second is None)

        def settle(batch: pa.RecordBatch | None) -> pa.RecordBatch | None:
            return batch if batch is None else cast(batch, schema, conn_id=self._conn_id)

        ahead = itertools.chain(() if second is None else (second,), batches)
        return reading, schema, settle(first), lambda: settle(next(ahead, None))

    def _batches(self, reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.RecordBatch]:
        """:param rows: how many there are, if the driver knows; else below 0."""
        import pyarrow as pa

        try:
            for batch in reader:
                rows -= batch.num_rows
                yield batch
        except (pa.ArrowException, OSError) as error:  # ADBC's own have become Arrow's here, without their SQLSTATE
            if "ERROR:" in str(error):  # the server's word, which may quote a value
                raise failed(type(error).__name__, self._conn_id) from None
            raise unreachable("the connection was lost while rows were read", self._conn_id) from None
        if rows > 0:  # BigQuery's driver (1.11) ends a stream that broke off as it ends one that is complete
            raise unreachable(f"{rows} rows fewer came than the query has", self._conn_id)


def _schema(
    given: pa.Schema, kinds: Sequence[pa.DataType | None], first: pa.RecordBatch | None, *, whole: bool
) -> pa.Schema:
    """The types of columns; of a numeric that has no declared scale, by its first values, which come as text."""
    import pyarrow as pa

    fields = []
    for at, (name, kind) in enumerate(zip(given.names, kinds, strict=True)):
        if kind is None:
            texts = first.column(at).storage.to_pylist() if first else []
            values = [None if text is None else Decimal(text) for text in texts]
            found = column_for((name, *[None] * 6), values, whole=whole) or ArrowColumn.text(name)
            kind = found.data_type
        fields.append((name, kind))
    return pa.schema(fields)
