"""The tables of docs/reference/values.md, value by value, with each warehouse that can be run and both planners."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import pytest
import sqlglot

from airflow_reverse_etl import wiring
from airflow_reverse_etl.destinations.json_encoding import dumps
from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.load.records import RecordBuilder
from airflow_reverse_etl.sync.ports import PlanRequest, StateStore, Warehouse
from airflow_reverse_etl.testing.fakes import CountingLimiter
from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse
from tests.bigquery import BY_CLIENT, BigQuery, Hook
from tests.stores.warehouses import PLACES

if TYPE_CHECKING:
    import pyarrow as pa

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "values.md"


class Row(NamedTuple):
    """Row of a table: the SQL of a value, and what each kind of destination gets."""

    value: str
    json: str
    table: str
    csv: str


def rows_of(heading: str) -> list[Row]:
    """Return the rows of the table under a heading of the page, without the marks of code."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [Row(*(cell.strip().strip("`") for cell in line.strip("|").split(" | ")[1:])) for line in lines]


def record_of(store: StateStore, warehouse: Warehouse, values: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the record of a model's only row, with its columns c0, c1 …, for a JSON API and for other destinations."""
    names = [f"c{at}" for at in range(len(values))]
    query = f"SELECT 1 AS id, {', '.join(f'{sql} AS {name}' for sql, name in zip(values, names, strict=True))}"
    sync = sync_of(names)
    plan = store.plan(PlanRequest(sync, query, ("id",), "run", datetime(2026, 1, 1, tzinfo=UTC)), warehouse)
    [batch] = store.changes(plan)
    for parse_json in (True, False):
        [record], failures = RecordBuilder(sync, parse_json=parse_json).build(batch)
        assert failures == {}
        yield record
    store.discard(plan)


def sync_of(names: list[str], **destination: Any) -> Sync:
    mapping = {name: name for name in names}
    return Sync(name="s", model="m", source="w", destination={"type": "file", **destination}, mapping=mapping)


def cells_of(record: dict[str, Any], names: list[str], folder: Path) -> list[str]:
    """Return the cells of the CSV file that is written of a record."""

    async def write() -> None:
        destination = create(sync_of(names, url=str(folder), operation_column=None, object="csv"), connection=None)
        await destination.open(CountingLimiter())
        await destination.send(Batch(Operation.UPSERT, [1], ["1"], [record], run_id="run"))

    asyncio.run(write())
    [file] = folder.glob("csv/**/*.csv")
    line = file.read_text().splitlines()[1]
    return re.findall(r'(?:^|,)((?:"(?:[^"]|"")*")|[^,]*)', line)


def kind_of(sent: str, value: Any) -> str:
    """Return the word of the page for what a SQL driver gets."""
    if sent.startswith("["):
        return "array, or JSON text"
    if isinstance(value, dict) or (isinstance(value, str) and sent.startswith("{")):
        return "JSON text"
    words = {bool: "boolean", datetime: "time stamp", date: "date", time: "time", bytes: "bytes", str: "text"}
    words |= {int: "number", float: "number", Decimal: "number"}
    return words[type(value)]


def check(heading: str, store: StateStore, warehouse: Warehouse, folder: Path) -> None:
    rows = rows_of(heading)
    names = [f"c{at}" for at in range(len(rows))]
    as_json, other = record_of(store, warehouse, [row.value for row in rows])
    sent = [dumps(as_json[name]).decode() for name in names]
    kinds = [kind_of(text, other[name]) for text, name in zip(sent, names, strict=True)]
    cells = cells_of({name: other[name] for name in names}, names, folder)
    found = [Row(row.value, *cells) for row, *cells in zip(rows, sent, kinds, cells, strict=True)]
    assert found == rows


@pytest.mark.parametrize("planner", ["local", "warehouse"])
@pytest.mark.parametrize("heading", ["DuckDB", "Postgres", "Snowflake"])
def test_values_are_sent_as_the_page_says(
    heading: str, planner: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = PLACES[heading.lower()](request)
    store: Any = LakeStore(str(tmp_path / "state"), memory_limit="500MB", threads=1)
    if planner == "warehouse":
        store = place.store()
    check(heading, store, place.open_warehouse(), tmp_path)


class ArrowOfSpark:
    """A cursor of Spark with the method by which Databricks' driver returns Arrow."""

    def __init__(self) -> None:
        self.description: list[tuple[Any, ...]] = []

    def cursor(self) -> ArrowOfSpark:
        return self

    def close(self) -> None:
        return

    def execute(self, statement: str) -> None:
        from tests.stores.spark import spark

        spark().sql("SET TIME ZONE 'UTC'")
        self._found = spark().sql(statement).toArrow()
        self.description = [(name, *[None] * 6) for name in self._found.column_names]

    def fetchmany_arrow(self, size: int) -> pa.Table:
        found, self._found = self._found[:size], self._found[size:]
        return found


def test_values_of_databricks_are_sent_as_the_page_says(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    PLACES["databricks"](request)
    store = LakeStore(str(tmp_path / "state"), memory_limit="500MB", threads=1)
    warehouse = DbApiWarehouse(ArrowOfSpark, dialect="databricks", conn_id="spark")
    with closing(warehouse):
        check("Databricks", store, warehouse, tmp_path)


#: Type number and value of redshift_connector 2, in the order of the page.
OF_REDSHIFT: list[tuple[int, Any]] = [
    (23, 42), (1700, Decimal("1.50")), (701, 1.5), (16, True), (1043, "[text]"), (1082, date(2026, 1, 31)),
    (1083, time(12, 0, 0, 500_000)), (1114, datetime(2026, 1, 31, 12)),  # noqa: DTZ001 - a time without a zone
    (1184, datetime(2026, 1, 31, 10, tzinfo=UTC)), (4000, '{"a":[1,null]}'),
]  # fmt: skip


class RowOfRedshift:
    """A cursor that returns the only row of the page's values as redshift_connector does."""

    def __init__(self) -> None:
        self._columns = [("id", 23, 1), *((f"c{at}", *found) for at, found in enumerate(OF_REDSHIFT))]
        self.description: list[tuple[Any, ...]] = []
        self._rows: list[tuple[Any, ...]] = []

    def cursor(self) -> RowOfRedshift:
        return self

    def close(self) -> None:
        return

    def execute(self, statement: str) -> None:
        known = {name: (kind, value) for name, kind, value in self._columns}
        wanted = sqlglot.parse_one(statement, read="redshift").selects
        names = [(item.alias_or_name, item.this.name if item.alias else item.name) for item in wanted]
        names = list(zip(known, known, strict=True)) if names == [("*", "*")] else names
        found = [(name, *known[column]) for name, column in names]
        self.description = [(name, kind, *[None] * 5) for name, kind, _ in found]
        self._rows = [] if "1 = 0" in statement else [tuple(value for *_, value in found)]

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows


def test_values_of_redshift_are_sent_as_the_page_says(tmp_path: Path) -> None:
    assert len(OF_REDSHIFT) == len(rows_of("Redshift"))
    store = LakeStore(str(tmp_path / "state"), memory_limit="500MB", threads=1)
    with closing(DbApiWarehouse(RowOfRedshift, dialect="redshift", conn_id="rs")) as warehouse:
        check("Redshift", store, warehouse, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("extra", [{}, BY_CLIENT], ids=["driver", "client"])
def test_values_of_bigquery_are_sent_as_the_page_says(extra: dict[str, Any], tmp_path: Path) -> None:
    """A process of its own reads, because drivers see only the variables that their process started with."""
    service = tmp_path / "service"
    service.mkdir()
    with BigQuery().running(service) as environment, patch.dict(os.environ, environment):
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            pool.submit(check_bigquery, extra, tmp_path).result(timeout=120)
        finally:  # one that hangs would be waited for
            for child in list(pool._processes.values()):
                child.kill()


def check_bigquery(extra: dict[str, Any], folder: Path) -> None:
    info = SimpleNamespace(conn_type="google_cloud_platform", conn_id="bq", extra=extra)
    given = {"connection_info": lambda conn_id: info, "_sql_hook": lambda info: Hook()}
    with patch.multiple(wiring, **given), closing(wiring.open_warehouse("bq")) as warehouse:
        store = LakeStore(str(folder / "state"), memory_limit="500MB", threads=1)
        check("BigQuery", store, warehouse, folder)
