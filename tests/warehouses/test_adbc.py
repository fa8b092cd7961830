"""Rows through an ADBC driver: Arrow as the driver gives it, or the other reader where its types are not exact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from airflow_reverse_etl.errors import ModelNotFoundError
from airflow_reverse_etl.warehouses.adbc import AdbcWarehouse
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

if TYPE_CHECKING:
    import pyarrow as pa

manager = pytest.importorskip("adbc_driver_manager.dbapi")


class Other(DuckDBWarehouse):
    """Tells whether it was asked."""

    asked = 0

    def read(self, query: str, *, batch_rows: int = 65_536) -> pa.RecordBatchReader:
        self.asked += 1
        return super().read(query, batch_rows=batch_rows)


@pytest.fixture
def other() -> Other:
    return Other(duckdb.connect())


@pytest.fixture
def warehouse(other: Other) -> Any:
    """DuckDB's own ADBC driver."""
    library = str(next(Path(duckdb.__file__).parent.parent.glob("_duckdb*.so")))
    opened = AdbcWarehouse(
        lambda: manager.connect(driver=library, entrypoint="duckdb_adbc_init"), other=other, conn_id="wh"
    )
    yield opened
    opened.close()


def test_exact_types_come_as_arrow_from_the_driver(warehouse: AdbcWarehouse, other: Other) -> None:
    query = "SELECT i AS id, 'u' || i AS name, TRUE AS flag, CAST(i AS DOUBLE) AS n FROM range(200000) AS t(i)"
    table = warehouse.read(query).read_all()
    assert (table.num_rows, other.asked) == (200_000, 0)
    assert table.slice(1, 1).to_pylist() == [{"id": 1, "name": "u1", "flag": True, "n": 1.0}]


@pytest.mark.parametrize("value", ["1.5::DECIMAL(38, 2)", "0.1::FLOAT", "[1]", "INTERVAL 1 DAY"])
def test_other_types_are_read_as_without_the_driver(warehouse: AdbcWarehouse, other: Other, value: str) -> None:
    warehouse.read(f"SELECT {value} AS x").read_all()
    assert other.asked == 1


def test_a_reader_that_is_left_early_holds_nothing(warehouse: AdbcWarehouse) -> None:
    reader = warehouse.read("SELECT i FROM range(1000000) AS t(i)")
    assert next(iter(reader)).num_rows
    reader.close()
    assert warehouse.read("SELECT 1 AS x").read_all().num_rows == 1


def test_what_the_driver_refuses_is_told_in_the_other_ones_words(warehouse: AdbcWarehouse) -> None:
    with pytest.raises(ModelNotFoundError, match="nothing"):
        warehouse.read("SELECT * FROM nothing").read_all()
    assert warehouse.read("SELECT 1 AS x").read_all().num_rows == 1
