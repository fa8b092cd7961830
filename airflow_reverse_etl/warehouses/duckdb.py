"""DuckDB as a warehouse: rows are read as Arrow, without a copy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.spec.columns import INTEGER, JSON, Column, nested_kind
from airflow_reverse_etl.sql.column_types import json_places
from airflow_reverse_etl.sql.dialects.duckdb import DUCKDB
from airflow_reverse_etl.sql.quoting import quoted
from airflow_reverse_etl.sync.ports import Warehouse
from airflow_reverse_etl.warehouses.arrow import field_of
from airflow_reverse_etl.warehouses.connection import query_failed, translated

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


#: Types whose values Arrow has not, or has wrong.
_NOT_IN_ARROW = frozenset({"BIT", "TIME WITH TIME ZONE", "UHUGEINT", "BIGNUM"})
#: Names of these types, and of others that only nested values have wrong, in the name of a nested type.
_NESTED_NOT_IN_ARROW = re.compile(rf"(?<![^ (])(?:{'|'.join(_NOT_IN_ARROW)}|INTERVAL|UNION)(?=[ ,()\[\]])")
#: Type → what its text stands for.
_STANDS_FOR = {"UHUGEINT": INTEGER, "BIGNUM": INTEGER}


def _as_text(name: str, data_type: str) -> str:
    """Return SQL for the text of a column that Arrow has not, or has wrong; empty for other columns."""
    column = quoted(name, "duckdb")
    if data_type in _NOT_IN_ARROW:
        return f"CAST({column} AS VARCHAR)"
    if data_type.startswith("UNION(") and data_type.endswith(")"):  # the member's value, without its tag
        tag = f"""'$."' || REPLACE(union_tag({column})::VARCHAR, '"', '\\"') || '"'"""
        return f"CAST(TO_JSON({column}) -> ({tag}) AS VARCHAR)"
    if data_type.endswith((")", "]")) and _NESTED_NOT_IN_ARROW.search(data_type):
        return f"CAST(TO_JSON({column}) AS VARCHAR)"
    return ""


#: Rows that DuckDB makes at once. Larger batches are no faster, and those of wide rows would fill the memory.
_BATCH_ROWS = 2_048


def without_files(connect: Callable[[], Any]) -> Any:
    """Connect to a DuckDB, and close files to all its connections in this process, permanently.

    Its own file, attached databases and its temporary folder stay open. For MotherDuck only local files are closed,
    because closing all external access would close MotherDuck too.

    :param connect: makes a DB-API connection, of DuckDB itself or of its ADBC driver.
    """
    connection = connect()
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1 FROM duckdb_settings() WHERE name = 'motherduck_token'")
        motherduck = cursor.fetchone()
        if motherduck:
            cursor.execute("SET disabled_filesystems = 'LocalFileSystem'")
        else:
            cursor.execute("SET enable_external_access = false")
    return connection


def opened(connect: Callable[[], Any], conn_id: str | None = None) -> Any:
    """Open a connection of DuckDB.

    :param connect: makes it.
    :raises UnreachableError: another process has the file open, or it cannot be opened.
    """
    import duckdb

    try:
        return connect()
    except duckdb.IOException as error:
        if "lock on file" not in str(error):
            raise translated(error, DUCKDB, conn_id) from None
        raise UnreachableError(
            "the DuckDB file is locked: another process has it open",
            todo="let one process at a time open the file, or let all of them only read it; the next try continues",
            connection=conn_id,
        ) from None
    except duckdb.Error as error:
        raise translated(error, DUCKDB, conn_id) from None


class DuckDBWarehouse(Warehouse):
    """A reader of a DuckDB connection, which it closes.

    :param connection: used by one thread at a time; each call opens a cursor.
    :param conn_id: names the connection in errors.
    """

    dialect = "duckdb"

    def __init__(self, connection: duckdb.DuckDBPyConnection, conn_id: str | None = None) -> None:
        self._connection = connection
        self._conn_id = conn_id

    def columns(self, query: str) -> Sequence[Column]:
        relation = self._relation(self._connection.cursor(), query)
        return [Column(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]

    def read(self, query: str, *, batch_rows: int = _BATCH_ROWS) -> pa.RecordBatchReader:
        import duckdb
        import pyarrow as pa

        cursor = self._connection.cursor()
        relation = self._relation(cursor, query)
        kinds = {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}
        texts = {name: text for name, kind in kinds.items() if (text := _as_text(name, kind))}
        if texts:
            casts = ", ".join(f"{text} AS {quoted(name, 'duckdb')}" for name, text in texts.items())
            relation = self._relation(cursor, f"SELECT * REPLACE ({casts}) FROM (\n{query}\n) AS model")  # noqa: S608
        try:
            reader = relation.to_arrow_reader(batch_rows)
        except duckdb.Error as error:
            raise translated(error, DUCKDB, self._conn_id) from None
        stands_for = {
            name: _STANDS_FOR.get(kind) or nested_kind(json_places(kind, "duckdb")) for name, kind in kinds.items()
        }
        stands_for |= {name: JSON for name in texts if kinds[name] not in _NOT_IN_ARROW}
        fields = [field_of(field.name, field.type, stands_for[field.name]) for field in reader.schema]
        schema = pa.schema(fields)
        return pa.RecordBatchReader.from_batches(schema, self._batches(reader, schema, cursor))

    def close(self) -> None:
        self._connection.close()

    def _batches(self, reader: pa.RecordBatchReader, schema: pa.Schema, cursor: Any) -> Iterator[pa.RecordBatch]:
        import duckdb
        import pyarrow as pa

        try:
            for batch in reader:
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
        except duckdb.Error as error:
            raise translated(error, DUCKDB, self._conn_id) from None
        except OSError as error:  # an error of DuckDB, passed on by Arrow
            raise query_failed(type(error).__name__, self._conn_id) from None
        finally:
            cursor.close()

    def _relation(self, cursor: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
        import duckdb

        try:
            return cursor.sql(query)
        except duckdb.Error as error:
            raise translated(error, DUCKDB, self._conn_id) from None
