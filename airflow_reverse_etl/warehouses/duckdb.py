"""DuckDB as a warehouse: rows come out as Arrow, without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError, ReverseEtlError, UnreachableError
from airflow_reverse_etl.sync.ports import Column, Warehouse

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


class DuckDBWarehouse(Warehouse):
    """Reads from a DuckDB connection, which it closes.

    :param connection: is used by one thread at a time; each call takes a cursor of it.
    :param conn_id: names the connection in errors.
    """

    dialect = "duckdb"

    def __init__(self, connection: duckdb.DuckDBPyConnection, conn_id: str | None = None) -> None:
        self._connection = connection
        self._conn_id = conn_id

    def columns(self, query: str) -> Sequence[Column]:
        relation = self._relation(self._connection.cursor(), query)
        return [Column(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        import pyarrow as pa

        cursor = self._connection.cursor()
        reader = self._relation(cursor, query).to_arrow_reader(batch_rows)
        return pa.RecordBatchReader.from_batches(reader.schema, self._batches(reader, cursor))

    def close(self) -> None:
        self._connection.close()

    def _batches(self, reader: pa.RecordBatchReader, cursor: Any) -> Iterator[pa.RecordBatch]:
        import duckdb

        try:
            yield from reader
        except (duckdb.Error, OSError) as error:
            raise self._explained(error) from None
        finally:
            cursor.close()

    def _relation(self, cursor: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
        import duckdb

        try:
            return cursor.sql(query)
        except duckdb.Error as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> ReverseEtlError:
        """Our error. DuckDB's words name tables and columns where a name is wrong, and may quote values elsewhere."""
        import duckdb

        first = str(error).splitlines()[0]
        if isinstance(error, duckdb.CatalogException | duckdb.BinderException):
            return ModelNotFoundError(first, todo="build the model, or correct the name", connection=self._conn_id)
        if isinstance(error, duckdb.IOException | duckdb.ConnectionException):
            return UnreachableError(first, todo="check the database file", connection=self._conn_id)
        if isinstance(error, duckdb.ParserException):
            return ConfigurationError(first, todo="correct the model's query", connection=self._conn_id)
        return ConfigurationError(
            f"the model's query fails while it is read ({type(error).__name__})",
            todo="run the query in DuckDB to see which row it is",
            connection=self._conn_id,
        )
