"""Databases behind a DB-API driver: SQLite for real, and a driver whose cursor returns what a test sets."""

from __future__ import annotations

import sqlite3
import sys
import threading
import types
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures.thread import _global_shutdown_lock
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ModelNotFoundError, UnreachableError
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.ports import PlanRequest
from airflow_reverse_etl.warehouses.bigquery import BigQueryConnection
from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse
from tests.stores.bench import NOW, sync_of


@pytest.fixture
def sqlite(tmp_path: Path) -> DbApiWarehouse:
    path = tmp_path / "w.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE m (id INTEGER, email TEXT, score REAL)")
        connection.executemany("INSERT INTO m VALUES (?, ?, ?)", [(i, f"u{i}", i / 2) for i in range(1000)])
    connection.close()
    return DbApiWarehouse(lambda: sqlite3.connect(path), dialect="sqlite", conn_id="lite")


def test_columns_and_rows(sqlite: DbApiWarehouse) -> None:
    assert [column.name for column in sqlite.columns("SELECT * FROM m -- all")] == ["id", "email", "score"]
    reader = sqlite.read("SELECT * FROM m", batch_rows=300)
    assert reader.schema == pa.schema([("id", pa.int64()), ("email", pa.string()), ("score", pa.float64())])
    assert [batch.num_rows for batch in reader] == [300, 300, 300, 100]
    sqlite.close()


def test_a_connection_stays_in_one_thread_while_a_plan_reads_it_from_others(
    sqlite: DbApiWarehouse, tmp_path: Path
) -> None:
    store = LakeStore(str(tmp_path / "state"), threads=2)
    plan = store.plan(PlanRequest(sync_of(), "SELECT * FROM m", ("id",), "run1", NOW), sqlite)
    assert plan.planned.added == 1000
    sqlite.close()


def test_a_reader_left_behind_is_closed_whatever_locks_the_garbage_collector_runs_under(
    sqlite: DbApiWarehouse,
) -> None:
    """It may run in a thread that is submitting work to an executor of the standard library."""
    reader = sqlite.read("SELECT * FROM m", batch_rows=10)
    reader.read_next_batch()

    def collect() -> None:
        nonlocal reader
        with _global_shutdown_lock:
            del reader

    collecting = threading.Thread(target=collect, daemon=True)
    collecting.start()
    collecting.join(10)
    assert not collecting.is_alive()
    sqlite.close()


def test_a_query_without_rows_has_columns(sqlite: DbApiWarehouse) -> None:
    table = sqlite.read("SELECT * FROM m WHERE 1 = 0").read_all()
    assert (table.num_rows, table.column_names) == (0, ["id", "email", "score"])
    sqlite.close()


def test_a_missing_model_is_named(sqlite: DbApiWarehouse) -> None:
    for query in ("SELECT * FROM nope", "SELECT nope FROM m"):
        with pytest.raises(ModelNotFoundError, match="nope"):
            sqlite.columns(query)
    sqlite.close()


# ── any driver ────────────────────────────────────────────────────────────────────────────────────────────────────────


class FakeCursor:
    """A cursor with rows of one column ``v``, which records how it was made."""

    def __init__(self, connection: FakeConnection, how: dict[str, Any]) -> None:
        self.connection, self.how, self.rows = connection, how, list[Any]()
        self.description: Any = None

    def execute(self, sql: str) -> None:
        self.connection.threads.add(threading.get_ident())
        if self.connection.error:
            raise self.connection.error
        self.rows = [(value,) for value in self.connection.values]
        if "IS NOT NULL" in sql:
            self.rows = [row for row in self.rows if row[0] is not None]
        if not self.how:
            self.description = [self.connection.described]

    def fetchmany(self, size: int) -> list[Any]:
        self.connection.threads.add(threading.get_ident())
        self.description = [self.connection.described]
        rows, self.rows = self.rows[:size], self.rows[size:]
        return rows

    def close(self) -> None:
        self.connection.closed += 1


class FakeConnection:
    def __init__(self, values: Sequence[Any] = (), error: Exception | None = None, described: Any = None) -> None:
        self.values, self.error = values, error
        self.described = described or ("v", None, None, None, None, None, None)
        self.threads: set[int] = set()
        self.closed = 0
        self.cursors: list[FakeCursor] = []

    def cursor(self, *arguments: Any, **how: Any) -> FakeCursor:
        made = {"class": arguments[0]} if arguments else how
        self.cursors.append(FakeCursor(self, made))
        return self.cursors[-1]

    def close(self) -> None: ...


def read(values: Sequence[Any], *, batch_rows: int = 2, described: Any = None) -> pa.Table:
    connection = FakeConnection(values, described=described)
    warehouse = DbApiWarehouse(lambda: connection, dialect="trino", conn_id="fake")
    table = warehouse.read("SELECT v FROM m", batch_rows=batch_rows).read_all()
    warehouse.close()
    assert connection.closed == len(connection.cursors)
    assert len(connection.threads) == 1
    return table


UUID = uuid.UUID("6b0d5a44-0000-4000-8000-000000000000")
AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "data_type", "expected"),
    [
        ([1, None, 3], pa.int64(), [1, None, 3]),
        ([None, None, None, 4], pa.int64(), [None, None, None, 4]),
        ([None, None, None], pa.string(), [None, None, None]),
        ([2**70, 1], pa.decimal128(38, 9), [Decimal(2**70), Decimal(1)]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([True, None], pa.bool_(), [True, None]),
        ([Decimal("1.50"), None, Decimal(2)], pa.decimal128(38, 9), [Decimal("1.5"), None, Decimal(2)]),
        ([AT, None], pa.timestamp("us", tz="UTC"), [AT, None]),
        ([AT.replace(tzinfo=None)], pa.timestamp("us"), [AT.replace(tzinfo=None)]),
        ([AT, AT.replace(tzinfo=None)], pa.string(), [str(AT), str(AT.replace(tzinfo=None))]),
        ([date(9999, 12, 31)], pa.date32(), [date(9999, 12, 31)]),
        ([time(12)], pa.time64("us"), [time(12)]),
        ([timedelta(days=1)], pa.string(), ["1 day, 0:00:00"]),
        ([UUID], pa.string(), [str(UUID)]),
        ([{"a": "ä"}, [1], None], pa.string(), ['{"a": "ä"}', "[1]", None]),
        ([memoryview(b"ab"), b"c"], pa.binary(), [b"ab", b"c"]),
        (["x", "", None], pa.string(), ["x", "", None]),
    ],
)
def test_values_get_the_type_that_holds_them(values: list[Any], data_type: pa.DataType, expected: list[Any]) -> None:
    table = read(values)
    assert table.schema.field("v").type == data_type
    assert table.column("v").to_pylist() == expected


def test_a_declared_scale_is_kept_and_a_whole_result_needs_no_room_for_more() -> None:
    assert read([Decimal(1)], described=("v", None, None, None, 10, 2, None)).schema.field("v").type == pa.decimal128(
        38, 2
    )
    assert read([Decimal("1.5"), Decimal(7)], batch_rows=9).schema.field("v").type == pa.decimal128(38, 1)


def test_a_column_that_changes_its_type_is_named_without_its_value() -> None:
    with pytest.raises(ConfigurationError, match="column 'v' is read as int64") as caught:
        read([1, 2, "secret"])
    assert "secret" not in str(caught.value)


def driver(name: str, **more: Any) -> type:
    return type("Connection", (FakeConnection,), {"__module__": f"{name}.connections", **more})


@pytest.mark.parametrize("name", ["pymysql", "MySQLdb"])
def test_mysql_rows_stay_on_the_server(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cursors = types.ModuleType(f"{name}.cursors")
    cursors.SSCursor = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, f"{name}.cursors", cursors)
    connection = driver(name)([1, 2, 3])
    warehouse = DbApiWarehouse(lambda: connection, dialect="mysql", conn_id="my")
    assert warehouse.read("SELECT 1", batch_rows=2).read_all().num_rows == 3
    assert connection.cursors[0].how == {"class": object}
    warehouse.close()


class ArrowCursor(FakeCursor):
    """A cursor with Arrow of its own, in the widths that its rows need."""

    tables = (pa.table({"v": pa.array([1, 2], pa.int8())}), pa.table({"v": pa.array([2**40], pa.int64())}))

    def __init__(self, connection: FakeConnection, how: dict[str, Any]) -> None:
        super().__init__(connection, how)
        self.left = iter((*self.tables, self.tables[0].slice(0, 0)))


class SnowflakeCursor(ArrowCursor):
    def fetch_arrow_batches(self) -> Iterator[pa.Table]:
        assert self.connection.arrow_number_to_decimal_setter is True
        return self.left


class DatabricksCursor(ArrowCursor):
    def fetchmany_arrow(self, size: int) -> pa.Table:
        return next(self.left)


@pytest.mark.parametrize("kind", [SnowflakeCursor, DatabricksCursor])
def test_arrow_of_a_driver_is_used(kind: type[ArrowCursor]) -> None:
    """Snowflake's widths differ from chunk to chunk; ours do not."""
    connection = driver("vendor", arrow_number_to_decimal_setter=False, cursor=lambda self: kind(self, {}))()
    warehouse = DbApiWarehouse(lambda: connection, dialect="snowflake", conn_id="w")
    reader = warehouse.read("SELECT v FROM m")
    assert reader.schema == pa.schema([("v", pa.int64())])
    assert reader.read_all().column("v").to_pylist() == [1, 2, 2**40]
    warehouse.close()


class BigQueryClient:
    """Google's client with the parts that are used: client, job and rows in one object."""

    schema = (types.SimpleNamespace(name="v", field_type="INTEGER"),)
    error: Exception | None = None
    asked: dict[str, Any]

    def query(self, sql: str) -> BigQueryClient:
        return self

    def result(self) -> BigQueryClient:
        if self.error:
            raise self.error
        return self

    def to_arrow_iterable(self, storage: Any, **limits: int) -> Iterator[pa.RecordBatch]:
        self.asked = {"storage": storage, **limits}
        return iter(pa.table({"v": [1, 2]}).to_batches())

    def close(self) -> None: ...


class GoogleError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def test_bigquery_is_read_with_its_client_in_bounded_memory() -> None:
    client = BigQueryClient()
    warehouse = DbApiWarehouse(lambda: BigQueryConnection(client, "storage"), dialect="bigquery", conn_id="bq")
    assert [column.name for column in warehouse.columns("SELECT v")] == ["v"]
    assert warehouse.read("SELECT v").read_all().to_pylist() == [{"v": 1}, {"v": 2}]
    assert client.asked == {"storage": "storage", "max_queue_size": 2, "max_stream_count": 1}
    for code, expected in ((404, ModelNotFoundError), (403, CredentialsError), (503, UnreachableError)):
        client.error = GoogleError(code, "Table t: no")
        with pytest.raises(expected, match="Table t"):
            warehouse.read("SELECT v")
    warehouse.close()


class Error(Exception): ...


class DatabaseError(Error): ...


class OperationalError(DatabaseError): ...


class ProgrammingError(DatabaseError): ...


class DataError(DatabaseError): ...


class UndefinedTableError(DatabaseError):
    sqlstate = "42P01"


class InsufficientPrivilegeError(DatabaseError):
    pgcode = "42501"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError("connection to server failed: timeout"), UnreachableError),
        (OperationalError('FATAL: password authentication failed for user "x"'), CredentialsError),
        (OperationalError("(1045, \"Access denied for user 'x'\")"), CredentialsError),
        (ProgrammingError("relation m does not exist"), ModelNotFoundError),
        (UndefinedTableError('relation "m" does not exist\nLINE 1: secret'), ModelNotFoundError),
        (InsufficientPrivilegeError("permission denied for table m"), CredentialsError),
        (DataError("invalid input syntax: 'secret'"), ConfigurationError),
    ],
)
def test_driver_errors_say_what_to_do_and_quote_no_value(error: Exception, expected: type[Exception]) -> None:
    warehouse = DbApiWarehouse(lambda: FakeConnection(error=error), dialect="postgres", conn_id="pg")
    with pytest.raises(expected) as caught:
        warehouse.columns("SELECT 1")
    assert "connection 'pg'" in str(caught.value)
    assert "secret" not in str(caught.value)
    warehouse.close()


def test_errors_that_are_not_the_drivers_come_out_as_they_are() -> None:
    def connect() -> Any:
        raise CredentialsError("connection 'pg' is not defined")

    with pytest.raises(CredentialsError, match="not defined"):
        DbApiWarehouse(connect, dialect="postgres", conn_id="pg").columns("SELECT 1")


@pytest.mark.parametrize(("width", "most"), [(10, 5_000), (20_000, 2_000)])
def test_wide_rows_are_fetched_few_at_a_time(tmp_path: Path, width: int, most: int) -> None:
    """Rows of 20,000 characters come 16 MB at a time. Narrow ones come in the usual batches."""
    with sqlite3.connect(tmp_path / "w.db") as connection:
        connection.execute("CREATE TABLE m (id INTEGER, text TEXT)")
        connection.executemany("INSERT INTO m VALUES (?, ?)", ((at, "x" * width) for at in range(8_000)))
    warehouse = DbApiWarehouse(
        lambda: sqlite3.connect(tmp_path / "w.db", check_same_thread=False), dialect="sqlite", conn_id="w"
    )
    sizes = [batch.num_rows for batch in warehouse.read("SELECT * FROM m", batch_rows=5_000)]
    warehouse.close()
    assert sum(sizes) == 8_000
    assert max(sizes) <= most
