"""Destination type ``table``: rows that need a unique value of another record."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipts
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.testing.fakes import CountingLimiter
from tests.stores.warehouses import postgres_place

#: Ways to declare the column ``email``.
NULLABLE = "email varchar unique"
NOT_NULL = "email varchar not null unique"
DEFERRABLE = "email varchar not null unique deferrable"


class People:
    """A table ``people`` with columns ``id``, ``email``, ``team`` and ``n``, and a destination that writes to it."""

    def __init__(self, dialect: str, connect: Callable[[], Any], stack: AsyncExitStack) -> None:
        self.dialect = dialect
        self._connect = connect
        self._stack = stack

    def run(self, *statements: str) -> list[Any]:
        connection = self._connect()
        try:
            cursor = connection.cursor()
            for sql in statements:
                cursor.execute(sql)
            rows = cursor.fetchall() if sql.startswith("select") else []
            connection.commit()
        finally:
            connection.close()
        return rows

    async def open(self, columns: str, *rows: str, mode: str = "upsert", fields: str = "id email n") -> Any:
        """Create the table with these rows, and open the destination."""
        self.run(f"create table people (id integer primary key, team integer not null default 0, n integer, {columns})")
        for row in rows:
            self.run(f"insert into people (id, email, team, n) values ({row})")
        sync = Sync.load(
            {
                "name": "people",
                "model": "people",
                "source": "warehouse",
                "mode": mode,
                "mapping": {name: name for name in fields.split()},
                "destination": {"type": "table", "connection": "db", "object": "people", "match_on": "id"},
            }
        )
        destination = create(sync, connection=ConnectionInfo("db", self.dialect), connect=self._connect)
        await destination.open(CountingLimiter())
        self._stack.push_async_callback(destination.close)
        return destination

    @property
    def emails(self) -> Mapping[int, str]:
        return dict(self.run("select id, email from people"))


@pytest.fixture(params=["sqlite", "duckdb", "postgres"])
async def people(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[People]:
    connect: Callable[[], Any]
    if request.param == "sqlite":
        connect = lambda: sqlite3.connect(tmp_path / "db")  # noqa: E731
    elif request.param == "duckdb":
        connect = lambda: duckdb.connect(str(tmp_path / "db"))  # noqa: E731
    else:
        connect = postgres_place(request.getfixturevalue("postgres")).connect
    async with AsyncExitStack() as stack:
        yield People(request.param, connect, stack)


def batch(*rows: tuple[Any, ...], operation: Operation = Operation.UPSERT, fields: str = "id email n") -> Batch:
    records = [dict(zip(fields.split(), row, strict=True)) for row in rows]
    return Batch(operation, range(1, len(rows) + 1), [str(row[0]) for row in rows], records, "run-1")


def outcomes(receipts: Receipts, *keys: str) -> list[str]:
    return [receipts.of(key).outcome.value for key in keys]


def codes(receipts: Receipts, *keys: str) -> list[str]:
    return [receipts.of(key).code for key in keys]


async def test_a_value_of_another_record_is_a_conflict_that_names_the_constraint(people: People) -> None:
    destination = await people.open(NULLABLE, "1, 'ada@shop.example', 0, 0", "2, 'bo@shop.example', 0, 0")
    receipts = await destination.send(batch((3, "ada@shop.example", 1)))
    receipt = receipts.of("3")
    assert receipt.outcome is Outcome.CONFLICT
    names = {"sqlite": "people.email", "duckdb": "unique", "postgres": "people_email_key"}
    assert receipt.code == names[people.dialect]
    assert "ada" not in receipt.code + receipt.message
    receipts = await destination.send(batch((1, "cy@shop.example", 1), (3, "bo@shop.example", 1)))
    assert receipts.refused_whole
    assert people.emails == {1: "ada@shop.example", 2: "bo@shop.example"}


async def test_a_key_that_exists_is_a_conflict_of_an_insert(people: People) -> None:
    destination = await people.open(NULLABLE, "1, 'a', 0, 0", mode="insert")
    receipts = await destination.send(batch((1, "b", 1), operation=Operation.INSERT))
    assert outcomes(receipts, "1") == ["conflict"]


async def test_another_constraint_is_not_a_conflict(people: People) -> None:
    destination = await people.open(f"{NULLABLE} check (email <> 'nobody')", "1, 'a', 0, 0")
    assert outcomes(await destination.send(batch((1, "nobody", 1))), "1") == ["rejected"]


@pytest.mark.parametrize("operation", [Operation.UPSERT, Operation.UPDATE])
async def test_a_swap_and_a_longer_cycle_are_written_through_null(people: People, operation: Operation) -> None:
    rows = [f"{number}, 'e{number}', 7, 0" for number in range(1, 6)]
    destination = await people.open(NULLABLE, *rows, mode=operation)
    receipts = await destination.resolve(
        batch((1, "e2", 1), (2, "e1", 1), (3, "e4", 1), (4, "e5", 1), (5, "e3", 1), operation=operation)
    )
    assert outcomes(receipts, *"12345") == ["accepted"] * 5
    assert people.emails == {1: "e2", 2: "e1", 3: "e4", 4: "e5", 5: "e3"}
    assert people.run("select distinct team, n from people") == [(7, 1)], "columns that are not mapped stay"


@pytest.mark.parametrize("people", ["sqlite", "postgres"], indirect=True)  # DuckDB checks at the end of a statement
async def test_a_cycle_needs_a_column_that_takes_null(people: People) -> None:
    destination = await people.open(NOT_NULL, "1, 'e1', 0, 0", "2, 'e2', 0, 0")
    receipts = await destination.resolve(batch((1, "e2", 1), (2, "e1", 1)))
    assert outcomes(receipts, "1", "2") == ["rejected", "rejected"]
    assert codes(receipts, "1", "2") == ["unique_cycle", "unique_cycle"]
    assert "e1" not in receipts.of("1").message
    assert people.emails == {1: "e1", 2: "e2"}


@pytest.mark.parametrize("people", ["postgres"], indirect=True)
@pytest.mark.parametrize("more", ["", " initially deferred"])
async def test_a_deferrable_constraint_is_checked_at_the_end(people: People, more: str) -> None:
    destination = await people.open(DEFERRABLE + more, "1, 'e1', 0, 0", "2, 'e2', 0, 0", "3, 'e3', 0, 0")
    receipts = await destination.resolve(batch((1, "e2", 1), (2, "e1", 1), (4, "e3", 1)))
    assert outcomes(receipts, "1", "2", "4") == ["accepted", "accepted", "conflict"]
    assert codes(receipts, "4") == ["people_email_key"]
    assert people.emails == {1: "e2", 2: "e1", 3: "e3"}


async def test_a_record_of_no_row_stops_only_the_rows_that_need_it(people: People) -> None:
    rows = [f"{number}, 'e{number}', 0, 0" for number in range(1, 7)]
    destination = await people.open(NULLABLE, *rows)
    # 1 and 2 swap; 3 needs 4's value, which needs that of 6; 5 needs the value of 1, which 2 takes.
    moves = batch((3, "e4", 1), (4, "e6", 1), (5, "e1", 1), (1, "e2", 1), (2, "e1", 1))
    receipts = await destination.resolve(moves)
    assert outcomes(receipts, *"12345") == ["accepted", "accepted", "conflict", "conflict", "rejected"]
    assert codes(receipts, "5") == ["unique_cycle"]
    assert people.emails == {1: "e2", 2: "e1", 3: "e3", 4: "e4", 5: "e5", 6: "e6"}


async def test_columns_that_are_unique_together_are_looked_up_together(people: People) -> None:
    fields = "id email team n"
    rows = "1, 'a', 1, 0", "2, 'b', 1, 0", "3, 'a', 2, 0"
    destination = await people.open("email varchar, unique (team, email)", *rows, fields=fields)
    receipts = await destination.resolve(batch((1, "b", 1, 1), (2, "a", 1, 1), fields=fields))
    assert outcomes(receipts, "1", "2") == ["accepted", "accepted"]
    assert people.emails == {1: "b", 2: "a", 3: "a"}
