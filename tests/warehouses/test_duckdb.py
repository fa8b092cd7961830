"""DuckDB as a warehouse."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse


@pytest.fixture
def warehouse() -> DuckDBWarehouse:
    return DuckDBWarehouse(duckdb.connect(), "warehouse")


def test_columns_are_known_without_reading_rows(warehouse: DuckDBWarehouse) -> None:
    columns = warehouse.columns("SELECT 1 AS id, error('read')::VARCHAR AS b, 1.5::DECIMAL(5, 2) AS c")
    assert [(column.name, column.data_type) for column in columns] == [
        ("id", "INTEGER"),
        ("b", "VARCHAR"),
        ("c", "DECIMAL(5,2)"),
    ]


def test_rows_come_in_batches(warehouse: DuckDBWarehouse) -> None:
    reader = warehouse.read("SELECT i FROM range(200000) t(i)", batch_rows=50_000)
    sizes = [batch.num_rows for batch in reader]
    assert sum(sizes) == 200_000
    assert max(sizes) <= 50_000


def test_two_queries_can_be_read_at_once(warehouse: DuckDBWarehouse) -> None:
    one, other = (iter(warehouse.read("SELECT i FROM range(100000) t(i)", batch_rows=2048)) for _ in range(2))
    assert sum(a.num_rows + b.num_rows for a, b in zip(one, other, strict=True)) == 200_000


@pytest.mark.parametrize("query", ["SELECT * FROM nope", "SELECT nope FROM range(1)"])
def test_a_model_that_is_not_there_is_named(warehouse: DuckDBWarehouse, query: str) -> None:
    with pytest.raises(ModelNotFoundError, match="nope") as caught:
        warehouse.columns(query)
    assert caught.value.where == {"connection": "warehouse"}


def test_an_error_while_reading_does_not_tell_the_value(warehouse: DuckDBWarehouse) -> None:
    with pytest.raises(ConfigurationError) as caught:
        warehouse.read("SELECT CASE WHEN i > 70000 THEN 'secret' ELSE '1' END::INT FROM range(99999) t(i)").read_all()
    assert "secret" not in str(caught.value)


def test_a_file_is_free_after_close(tmp_path: Path) -> None:
    path = str(tmp_path / "w.duckdb")
    warehouse = DuckDBWarehouse(duckdb.connect(path))
    warehouse.read("SELECT 1 AS a").read_all()
    warehouse.close()
    duckdb.connect(path).execute("CREATE TABLE t (a INT)")
