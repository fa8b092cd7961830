"""DuckDB as a warehouse: rows come out as Arrow, without a copy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError, ReverseEtlError, UnreachableError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.sql.read_only import files_closed
from airflow_reverse_etl.sync.ports import Warehouse

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def without_files(connect: Callable[[], Any]) -> Any:
    """A new connection to a DuckDB that is kept from files, for all its connections in this process and for good.

    Its own file, what is attached, and its temporary folder stay. MotherDuck would be cut off with the rest of what is
    outside: there only local files are closed.

    :param connect: makes a DB-API connection, of DuckDB itself or of its ADBC driver.
    """
    connection = connect()
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1 FROM duckdb_settings() WHERE name = 'motherduck_token'")
        motherduck = cursor.fetchone()
        cursor.execute(
            "SET disabled_filesystems = 'LocalFileSystem'" if motherduck else "SET enable_external_access = false"
        )
    return connection


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
        import duckdb
        import pyarrow as pa

        cursor = self._connection.cursor()
        relation = self._relation(cursor, query)
        try:
            reader = relation.to_arrow_reader(batch_rows)
        except duckdb.Error as error:
            raise self._explained(error) from None
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
        if isinstance(error, duckdb.PermissionException):
            return files_closed(connection=self._conn_id)
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
