"""Mode replace with real files and tables, through the engine."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from airflow_reverse_etl.destinations.file import _texts
from airflow_reverse_etl.destinations.new_file import NewFile
from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.destinations.table import TableDestination
from airflow_reverse_etl.errors import ConfigurationError, FailurePolicyError, TryLaterError, UnreachableError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.testing import (
    CountingLimiter,
)
from tests.destinations.replacing import Replacing, names, read
from tests.stores.warehouses import Place, duckdb_place, postgres_place


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
async def test_a_file_has_all_rows_and_nothing_else_is_left(tmp_path: Path, kind: str) -> None:
    replacing = Replacing({"type": "file", "url": str(tmp_path), "format": kind})
    file = tmp_path / f"people.{kind}"
    for rows in ([(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")], [(2, "b"), (5, "x")]):
        report = await replacing.run(rows)  # type: ignore[arg-type]
        assert report.accepted == len(rows)
        assert read(file) == [{"id": id_, "v": v} for id_, v in rows]
        assert names(tmp_path) == [file.name]
    changed_at = file.stat().st_mtime_ns
    assert (await replacing.run([(2, "b"), (5, "x")])).accepted == 0
    assert file.stat().st_mtime_ns == changed_at, "nothing differs, nothing is written"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
async def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path, kind: str) -> None:
    sync = Replacing({"type": "file", "url": str(tmp_path), "format": kind}, rate={"batch_size": 1000})
    await sync.run([(1, "a")])
    file = tmp_path / f"people.{kind}"
    before = file.read_bytes()
    with small_files(10_000), pytest.raises(TryLaterError, match="the worker's disk is full"):
        await sync.run([(at, f"{at}" * 9) for at in range(3000)])
    assert file.read_bytes() == before
    await sync.run([(at, f"{at}" * 9) for at in range(3000)])
    assert file.read_bytes() != before


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
async def test_an_empty_model_leaves_an_empty_file(tmp_path: Path, kind: str) -> None:
    replacing = Replacing({"type": "file", "url": str(tmp_path), "format": kind})
    await replacing.run([(1, "a")])
    await replacing.run([])
    assert read(tmp_path / f"people.{kind}") == []


async def test_a_column_of_a_parquet_file_has_a_type_for_all_rows(tmp_path: Path) -> None:
    """The first batch has nulls only, the second whole numbers, the third fractions."""
    replacing = Replacing({"type": "file", "url": str(tmp_path), "format": "parquet"})
    values = [None, None, Decimal(1), Decimal(2), Decimal("2.50")]
    await replacing.run(list(enumerate(values)), pa.decimal128(10, 2))
    table = pyarrow.parquet.read_table(tmp_path / "people.parquet")
    assert [None if v is None else Decimal(v) for v in table["v"].to_pylist()] == values


def test_a_column_whose_values_no_type_has_room_for_becomes_texts() -> None:
    """A fraction has no room for a large whole number: it would be rounded."""
    content = NewFile("parquet", ["v"], _texts)
    content.add_table(pa.table({"v": [9_007_199_254_740_993]}))
    content.add_table(pa.table({"v": [0.5]}))
    assert pyarrow.parquet.read_table(content.complete())["v"].to_pylist() == ["9007199254740993", "0.5"]
    content.close()


# -- tables ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    place = postgres_place(request.getfixturevalue("postgres"))
    place.run(
        "CREATE TABLE people (id int PRIMARY KEY, v text CHECK (v <> 'bad'), made timestamptz NOT NULL DEFAULT now())",
        "CREATE INDEX by_v ON people (v)",
        "CREATE VIEW seen AS SELECT id, v FROM people",
        "INSERT INTO people VALUES (7, 'old')",
    )
    return place


@pytest.fixture
def table(place: Place) -> Callable[..., Replacing]:
    destination = {"type": "table", "connection": "db", "object": "people"}
    return lambda **more: Replacing(destination, place=place, **more)


def seen(place: Place) -> dict[int, str]:
    return dict(place.run("SELECT id, v FROM seen ORDER BY 1"))


async def test_the_table_stays_with_its_index_view_and_default_and_gets_all_rows(
    place: Place, table: Callable[..., Replacing]
) -> None:
    replacing = table()
    for rows in ([(1, "a"), (2, "b"), (3, "c")], [(2, "B"), (3, "c"), (4, "d")], []):
        assert (await replacing.run(rows)).accepted == len(rows)  # type: ignore[arg-type]
        assert seen(place) == dict(rows)  # type: ignore[arg-type]
    assert place.run("SELECT indexname FROM pg_indexes WHERE tablename = 'people' ORDER BY 1") == [
        ("by_v",),
        ("people_pkey",),
    ]
    assert place.run("SELECT to_regclass('people__replacement')") == [(None,)]


async def test_a_row_that_violates_a_constraint_is_found_by_itself_and_the_old_rows_stay(
    place: Place, table: Callable[..., Replacing]
) -> None:
    replacing = table()
    with pytest.raises(FailurePolicyError, match="1 of 3 rows rejected"):
        await replacing.run([(1, "a"), (2, "bad"), (3, "c")])
    assert seen(place) == {7: "old"}
    replacing.values["failure"] = {"max_rejected": 1}
    assert (await replacing.run([(1, "a"), (2, "bad"), (3, "c")])).rejected == 1
    assert seen(place) == {1: "a", 3: "c"}


async def test_the_request_that_is_shown_says_where_the_rows_go_first(
    place: Place, table: Callable[..., Replacing]
) -> None:
    destination: Any = create(
        Sync.load(table().values), connection=ConnectionInfo("db", "postgres"), connect=place.connect
    )
    await destination.open(CountingLimiter())
    shown = destination.first_request(Batch(Operation.INSERT, [1], ["1"], [{"id": 1, "v": "a"}], "run"))
    await destination.close()
    assert shown.line.startswith('INSERT INTO people ("id", "v")')
    assert "the rows go to people__replacement first" in shown.notes[0]


async def test_a_table_that_others_refer_to_is_refused(place: Place, table: Callable[..., Replacing]) -> None:
    place.run("CREATE TABLE orders (person int REFERENCES people ON DELETE CASCADE)", "INSERT INTO orders VALUES (7)")
    with pytest.raises(ConfigurationError, match=r"other tables refer to this one: orders"):
        await table().run([(1, "a")])
    assert place.run("SELECT * FROM orders") == [(7,)]


async def test_a_table_of_sqlite_that_others_refer_to_is_refused(tmp_path: Path) -> None:
    place = Place("sqlite", lambda: sqlite3.connect(tmp_path / "db"), Mock())
    place.run(
        "CREATE TABLE people (id int PRIMARY KEY, v text, chief int REFERENCES people)",
        "CREATE TABLE orders (person int REFERENCES people ON DELETE CASCADE)",
    )
    destination = {"type": "table", "connection": "db", "object": "people"}
    with pytest.raises(ConfigurationError, match=r"other tables refer to this one: orders"):
        await Replacing(destination, place=place).run([(1, "a")])
    place.run("DROP TABLE orders")
    assert (await Replacing(destination, place=place).run([(1, "a")])).accepted == 1


@pytest.mark.parametrize("dialect", ["trino", "bigquery", "hive", "oracle"])
async def test_a_database_that_is_not_known_to_swap_rows_in_one_transaction_is_refused(dialect: str) -> None:
    destination = {"type": "table", "connection": "db", "object": "people", "dialect": dialect}
    place = Place("sqlite", Mock(), Mock())
    with pytest.raises(ConfigurationError, match=f"cannot swap all rows of a table in {dialect} in one transaction"):
        await Replacing(destination, place=place).run([(1, "a")])


@pytest.mark.long
@pytest.mark.parametrize("name", ["m.people", '"My ""People"""'])
async def test_many_rows_with_the_same_keys_replace_those_of_a_duckdb_table(tmp_path: Path, name: str) -> None:
    place = duckdb_place(tmp_path / "db")
    place.run("CREATE SCHEMA m", f"CREATE TABLE {name} (id int PRIMARY KEY, v text, made timestamp DEFAULT now())")
    destination = {"type": "table", "connection": "db", "object": name}
    replacing = Replacing(destination, place=place, rate={"batch_size": 1_000})
    for value in "ab":
        await replacing.run([(number, value) for number in range(3_000)])
        found = place.run(f"SELECT count(*), min(v), max(v), count(made) FROM {name}")
        assert found == [(3_000, value, value, 3_000)]


async def test_rows_of_another_load_in_the_new_content_keep_the_old_one(tmp_path: Path) -> None:
    """An earlier try that still lives wrote them. The next try begins with a new content."""
    place = duckdb_place(tmp_path / "db")
    place.run("CREATE TABLE people (id int, v text)", "INSERT INTO people VALUES (7, 'old')")
    replacing = Replacing({"type": "table", "connection": "db", "object": "people"}, place=place)
    finish = TableDestination.finish

    async def after_another(self: TableDestination) -> None:
        place.run("INSERT INTO people__replacement VALUES (1, 'a')")
        await finish(self)

    with patch.object(TableDestination, "finish", after_another), pytest.raises(UnreachableError, match="3 rows"):
        await replacing.run([(1, "a"), (2, "b")])
    assert place.run("SELECT * FROM people") == [(7, "old")]
    await replacing.run([(1, "a"), (2, "b")])
    assert place.run("SELECT * FROM people ORDER BY id") == [(1, "a"), (2, "b")]


async def test_readers_of_a_transaction_see_the_old_rows_or_the_new_ones(
    place: Place, table: Callable[..., Replacing]
) -> None:
    reader = place.connect()
    cursor = reader.cursor()
    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    cursor.execute("SELECT id FROM people")
    await table().run([(1, "a")])
    cursor.execute("SELECT id FROM people")
    assert cursor.fetchall() == [(7,)]
    reader.rollback()
    cursor.execute("SELECT id FROM people")
    assert cursor.fetchall() == [(1,)]
    reader.close()
