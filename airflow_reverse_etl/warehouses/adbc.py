"""A database with an ADBC driver as a warehouse: Arrow from the wire on, where its types are Arrow's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_reverse_etl.sync.ports import Column, Warehouse
from airflow_reverse_etl.warehouses.dbapi import explained

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


class AdbcWarehouse(Warehouse):
    """Reads through an ADBC connection, made when it is first needed.

    A query with a column that Arrow has no type for (numeric, JSON, UUID, intervals, arrays) or that Python has none
    for (single precision) is read by ``other``, so that its values are the same whatever drivers a worker has.

    :param connect: makes an ADBC connection with the interface of DB-API.
    :param other: the same database through its DB-API driver; is closed with this.
    """

    def __init__(self, connect: Callable[[], Any], *, other: Warehouse, conn_id: str) -> None:
        self.dialect = other.dialect
        self._connect, self._other, self._conn_id = connect, other, conn_id
        self._connection: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warehouse")

    def columns(self, query: str) -> Sequence[Column]:
        return self._other.columns(query)

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        import pyarrow as pa

        if not self._call(lambda: self._suits(query)):
            return self._other.read(query, batch_rows=batch_rows)
        cursor, reader = self._call(lambda: self._start(query))
        return pa.RecordBatchReader.from_batches(reader.schema, self._batches(cursor, reader))

    def close(self) -> None:
        if self._connection is not None:
            self._call(self._connection.close)
        self._thread.shutdown()
        self._other.close()

    def _suits(self, query: str) -> bool:
        """Whether the driver gives these columns exactly. What it refuses, the other driver may do, or can say why."""
        try:
            with contextlib.closing(self._open().cursor()) as cursor:
                schema = cursor.adbc_execute_schema(query)
        except Exception:  # noqa: BLE001 - of whatever class: it is not lost, the other driver meets it next
            if self._connection is not None:
                self._connection.rollback()
            return False
        return all(_is_exact(field.type) for field in schema)

    def _start(self, query: str) -> tuple[Any, pa.RecordBatchReader]:
        cursor = self._open().cursor()
        cursor.execute(query)
        return cursor, cursor.fetch_record_batch()

    def _batches(self, cursor: Any, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        def following() -> pa.RecordBatch | None:
            return next(reader, None)

        try:
            batch = self._call(following)
            while batch is not None:
                ahead = self._thread.submit(following)
                yield batch
                batch = self._explained(ahead.result)
        finally:
            with contextlib.suppress(RuntimeError):  # the connection is closed already, and the cursor with it
                self._thread.submit(cursor.close)

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _call(self, action: Callable[[], T]) -> T:
        return self._explained(lambda: self._thread.submit(action).result())

    def _explained(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:  # drivers raise their own classes; what is not theirs is raised as it is
            found = explained(error, self._conn_id)
            if found is error:
                raise
            raise found from None


def _is_exact(kind: pa.DataType) -> bool:
    import pyarrow as pa

    plain = {
        pa.bool_(), pa.int16(), pa.int32(), pa.int64(), pa.float64(), pa.string(), pa.binary(), pa.date32(),
        pa.timestamp("us"), pa.timestamp("us", "UTC"),
    }  # fmt: skip
    return kind in plain
