"""DuckDB as a warehouse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock, call

import duckdb
import pytest

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError, UnreachableError
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse, opened, without_files


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
def test_a_missing_model_is_named(warehouse: DuckDBWarehouse, query: str) -> None:
    with pytest.raises(ModelNotFoundError, match="nope") as caught:
        warehouse.columns(query)
    assert caught.value.where == {"connection": "warehouse"}


def test_an_error_while_reading_does_not_quote_the_value(warehouse: DuckDBWarehouse) -> None:
    with pytest.raises(ConfigurationError) as caught:
        warehouse.read("SELECT CASE WHEN i > 70000 THEN 'secret' ELSE '1' END::INT FROM range(99999) t(i)").read_all()
    assert "secret" not in str(caught.value)


def test_an_error_in_the_first_batch_does_not_quote_the_value_either(warehouse: DuckDBWarehouse) -> None:
    with pytest.raises(ConfigurationError, match="fails while it is read") as caught:
        warehouse.read("SELECT CAST('row-value-7' AS INTEGER) AS a")
    assert "row-value-7" not in str(caught.value)


@pytest.mark.long
def test_a_query_that_does_not_fit_into_memory_is_reported() -> None:
    warehouse = DuckDBWarehouse(duckdb.connect(config={"memory_limit": "20MB", "max_temp_directory_size": "0MB"}))
    with pytest.raises(ConfigurationError, match="OutOfMemory"):
        warehouse.read("SELECT i, hash(i) AS h FROM range(9000000) AS t(i) ORDER BY h").read_all()


@pytest.mark.parametrize("first", [0, 70_000])
@pytest.mark.parametrize("value", ["CAST('row-value-' || i AS INTEGER)", "error('row-value')"])
def test_an_error_for_a_row_is_one_of_the_model_and_quotes_no_value(first: int, value: str) -> None:
    """This holds for the first rows and for later ones."""
    query = f"SELECT CASE WHEN i < {first} THEN 1 ELSE {value} END AS v FROM range(100000) AS t(i)"
    with pytest.raises(ConfigurationError, match="query fails while it is read") as caught:
        DuckDBWarehouse(duckdb.connect()).read(query, batch_rows=2048).read_all()
    assert "row-value" not in str(caught.value)


@pytest.fixture
def closed(tmp_path: Path) -> DuckDBWarehouse:
    """Open a database without files: with a table ``t``, a view ``v`` over a file, and ``other.t``, attached."""
    file = tmp_path / "rows.csv"

    def connect() -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(str(tmp_path / "w.duckdb"), config={"memory_limit": "60MB"})
        connection.execute("CREATE TABLE t AS SELECT 1 AS id")
        connection.execute(f"COPY t TO '{file}'")
        connection.execute(f"CREATE VIEW v AS FROM '{file}'")
        connection.execute(f"ATTACH '{tmp_path / 'other.duckdb'}' AS other")
        connection.execute("CREATE TABLE other.t AS SELECT 2 AS id")
        return connection

    return DuckDBWarehouse(without_files(connect), "duck")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM v",
        "FROM '{folder}/rows.csv'",
        "SELECT * FROM read_csv('{folder}/rows.csv')",
        "SELECT content FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    ],
)
def test_a_model_over_files_is_refused_with_the_option_that_allows_it(
    closed: DuckDBWarehouse, tmp_path: Path, query: str
) -> None:
    for ask in (closed.columns, closed.read):
        with pytest.raises(ConfigurationError, match=r"\[reverse_etl\] duckdb_external_access") as caught:
            ask(query.format(folder=tmp_path))
        assert caught.value.where == {"connection": "duck"}


def test_without_files_a_database_has_all_that_is_its_own(closed: DuckDBWarehouse, tmp_path: Path) -> None:
    """It can read its own and attached tables, spill, and write tables."""
    assert closed.read("SELECT t.id, o.id AS o FROM t, other.t AS o").read_all().to_pylist() == [{"id": 1, "o": 2}]
    spilled = "SELECT count(h) AS n FROM (SELECT i, hash(i) AS h FROM range(6000000) AS t(i) ORDER BY h)"
    assert closed.read(spilled).read_all().to_pylist() == [{"n": 6_000_000}]
    same = without_files(lambda: duckdb.connect(str(tmp_path / "w.duckdb"), config={"memory_limit": "60MB"}))
    same.execute("CREATE TABLE state AS SELECT 3 AS id")
    assert closed.read("SELECT * FROM state").read_all().to_pylist() == [{"id": 3}]
    with pytest.raises(duckdb.InvalidInputException, match="Cannot enable external access"):
        same.execute("SET enable_external_access = true")


def test_of_motherduck_only_local_files_are_closed() -> None:
    """MotherDuck itself is external to the worker's DuckDB."""
    connection = Mock()
    cursor = connection.cursor.return_value
    cursor.fetchone.return_value = (1,)
    assert without_files(lambda: connection) is connection
    assert cursor.execute.call_args == call("SET disabled_filesystems = 'LocalFileSystem'")
    local = duckdb.connect()
    local.execute(cursor.execute.call_args.args[0])
    with pytest.raises(duckdb.PermissionException):
        local.execute("FROM read_text('/etc/hostname')")


def test_a_file_is_free_after_close(tmp_path: Path) -> None:
    path = str(tmp_path / "w.duckdb")
    warehouse = DuckDBWarehouse(duckdb.connect(path))
    warehouse.read("SELECT 1 AS a").read_all()
    warehouse.close()
    duckdb.connect(path).execute("CREATE TABLE t (a INT)")


def test_a_file_that_another_process_has_open_is_locked_and_tried_later(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    code = f"import duckdb; c = duckdb.connect({str(file)!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(UnreachableError, match="locked: another process has it open") as error:
            opened(lambda: duckdb.connect(str(file)), "warehouse")
        assert error.value.where == {"connection": "warehouse"}
        other.communicate(b"\n", timeout=60)
    opened(lambda: duckdb.connect(str(file))).close()


def test_a_file_that_is_not_a_database_says_so(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    file.write_text("id,email\n1,a@example.com\n" * 1000)
    with pytest.raises(UnreachableError, match="warehouse"):
        opened(lambda: duckdb.connect(str(file)), "warehouse")
