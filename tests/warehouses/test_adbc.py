"""Rows through DuckDB's own ADBC driver; the tests of Postgres's driver are in test_postgres.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import pyarrow as pa
import pytest
from adbc_driver_manager import NotSupportedError
from adbc_driver_manager import dbapi as manager

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError
from airflow_reverse_etl.warehouses.adbc import AdbcWarehouse
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse, without_files


class Other(DuckDBWarehouse):
    """A warehouse that records whether it was used."""

    asked = 0

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        self.asked += 1
        return super().read(query, batch_rows=batch_rows)


@pytest.fixture
def other() -> Other:
    return Other(duckdb.connect())


def connect() -> Any:
    library = str(next(Path(duckdb.__file__).parent.parent.glob("_duckdb*.so")))
    return manager.connect(driver=library, entrypoint="duckdb_adbc_init")


@pytest.fixture
def warehouse(other: Other) -> Iterator[AdbcWarehouse]:
    opened = AdbcWarehouse(connect, dialect="duckdb", conn_id="wh", dbapi=other)
    yield opened
    opened.close()


def test_duckdb_is_kept_from_files_through_this_driver_too() -> None:
    with closing(AdbcWarehouse(partial(without_files, connect), dialect="duckdb", conn_id="wh")) as warehouse:
        for ask in (warehouse.columns, warehouse.read):
            with pytest.raises(ConfigurationError, match="duckdb_external_access"):
                ask("FROM read_text('/etc/hostname')")
        assert warehouse.read("SELECT 1 AS id").read_all().to_pylist() == [{"id": 1}]


def test_rows_come_as_arrow_from_the_driver(warehouse: AdbcWarehouse, other: Other) -> None:
    query = "SELECT i AS id, 'u' || i AS name, TRUE AS flag, CAST(i AS DOUBLE) AS n FROM range(200000) AS t(i)"
    table = warehouse.read(query).read_all()
    assert (table.num_rows, other.asked) == (200_000, 0)
    assert table.slice(1, 1).to_pylist() == [{"id": 1, "name": "u1", "flag": True, "n": 1.0}]
    assert [column.name for column in warehouse.columns(query)] == table.column_names


@pytest.mark.parametrize(
    ("value", "data_type", "expected"),
    [
        ("1::TINYINT", pa.int64(), 1),
        ("1::UINTEGER", pa.int64(), 1),
        ("0.1::FLOAT", pa.float64(), 0.1),
        ("1.5::DECIMAL(9, 2)", pa.decimal128(38, 2), Decimal("1.50")),
        ("TIMESTAMP_NS '2026-01-31 12:00:00.123456789'", pa.timestamp("us"), datetime(2026, 1, 31, 12, 0, 0, 123456)),  # noqa: DTZ001
        ("DATE '2026-01-31'", pa.date32(), date(2026, 1, 31)),
        ("'x'::ENUM ('x', 'y')", pa.string(), "x"),
        ("'\\x00'::BLOB", pa.binary(), b"\0"),
        ("NULL::INTEGER", pa.int64(), None),
    ],
)  # fmt: skip
def test_widths_and_units_are_the_same_whatever_the_driver(
    warehouse: AdbcWarehouse, other: Other, value: str, data_type: pa.DataType, expected: Any
) -> None:
    table = warehouse.read(f"SELECT {value} AS x").read_all()
    assert (table.schema.field("x").type, table.to_pylist(), other.asked) == (data_type, [{"x": expected}], 0)


def test_what_has_no_value_in_these_types_is_refused(warehouse: AdbcWarehouse) -> None:
    query = "SELECT CASE WHEN i > 150000 THEN 18446744073709551615::UBIGINT END AS x FROM range(200000) AS t(i)"
    rows = warehouse.read(query)
    with pytest.raises(ConfigurationError, match="'x'"):
        rows.read_all()


def test_readers_that_are_left_early_hold_nothing(warehouse: AdbcWarehouse) -> None:
    """Streams are closed in the connection's thread: a driver crashes when two threads close one."""
    for _ in range(10):
        reader = warehouse.read("SELECT i FROM range(1000000) AS t(i)")
        assert next(iter(reader)).num_rows
        del reader
        assert warehouse.read("SELECT 1 AS x").read_all().num_rows == 1


def test_an_error_of_the_driver_is_reported_by_the_other_driver(warehouse: AdbcWarehouse) -> None:
    with pytest.raises(ModelNotFoundError, match="nothing"):
        warehouse.read("SELECT * FROM nothing").read_all()
    assert warehouse.read("SELECT 1 AS x").read_all().num_rows == 1


def test_a_login_that_fails_is_not_tried_again_and_again(other: Other) -> None:
    tried: list[int] = []

    def refuse() -> Any:
        tried.append(1)
        raise OSError

    warehouse = AdbcWarehouse(refuse, dialect="duckdb", conn_id="wh", dbapi=other)
    assert [column.name for column in warehouse.columns("SELECT 1 AS x")] == ["x"]
    assert warehouse.read("SELECT 1 AS x").read_all().num_rows == 1
    assert (tried, other.asked) == ([1], 1)
    warehouse.close()


def test_a_driver_that_cannot_report_columns_is_named_as_the_cause() -> None:
    """BigQuery's driver behind a connection of type ``adbc``, which has no other driver, is an example."""
    connection = Mock()
    connection.cursor().adbc_execute_schema.side_effect = NotSupportedError("")
    warehouse = AdbcWarehouse(lambda: connection, dialect="bigquery", conn_id="wh")
    with closing(warehouse), pytest.raises(ConfigurationError, match="cannot report the columns"):
        warehouse.columns("SELECT 1 AS x")
