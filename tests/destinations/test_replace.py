"""Mode replace with real files and tables, through the engine."""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.errors import ConfigurationError, FailurePolicyError, TryLaterError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import FrozenClock, MemoryStateStore, MemoryWarehouse, RecordingObserver
from tests.stores.warehouses import Place, postgres_place


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Replacing:
    """A sync in mode replace, its model and its state."""

    def __init__(self, destination: dict[str, Any], *, place: Place | None = None, **more: Any) -> None:
        self.place = place
        self.store = MemoryStateStore()
        self.warehouse = MemoryWarehouse({})
        self.runs = 0
        self.values = {
            "name": "people",
            "model": "people",
            "source": "warehouse",
            "primary_key": "id",
            "mode": "replace",
            "mapping": {"id": "id", "v": "v"},
            "guards": {"min_rows": 0, "max_removed": "100%"},
            "rate": {"batch_size": 2},
            "destination": destination,
            **more,
        }

    async def run(self, rows: list[tuple[Any, Any]], kind: pa.DataType | None = None) -> RunReport:
        self.runs += 1
        ids = pa.array([row[0] for row in rows], pa.int64())
        self.warehouse.set(
            "people", pa.table({"id": ids, "v": pa.array([row[1] for row in rows], kind or pa.string())})
        )
        sync = Sync.load(self.values)
        connect = self.place.connect if self.place else None
        connection = ConnectionInfo("db", self.place.dialect) if self.place else None
        destination = create(sync, connection=connection, connect=connect)
        context = RunContext(f"run-{self.runs}", self.store, observer=RecordingObserver(), clock=FrozenClock())
        return await run_sync(sync, SourceModel("SELECT * FROM people", ("id",), self.warehouse), destination, context)


# -- files -----------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pyarrow.parquet.read_table(path).to_pylist())
    if path.suffix == ".csv":
        return list(pyarrow.csv.read_csv(path).to_pylist())
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


async def test_a_table_that_others_refer_to_is_refused(place: Place, table: Callable[..., Replacing]) -> None:
    place.run("CREATE TABLE orders (person int REFERENCES people ON DELETE CASCADE)", "INSERT INTO orders VALUES (7)")
    with pytest.raises(ConfigurationError, match=r"other tables refer to this one: orders"):
        await table().run([(1, "a")])
    assert place.run("SELECT * FROM orders") == [(7,)]


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
