"""The change set in a warehouse: read in short statements, and read on after a cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from airflow_reverse_etl.errors import ModelNotFoundError, RunConflictError, StateError, UnreachableError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores.warehouse.change_reading import ChangeReading
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, Warehouse
from tests.stores.warehouses import Place, postgres_place

NAMES = ("seq", "change", "key", "f0", "identifiers")


class Cut(Warehouse):
    """A warehouse of a change set, whose sessions are cut after so many batches of ten rows."""

    dialect = "postgres"

    def __init__(self, rows: int, *, width: int = 1, cuts: Sequence[int] = (), error: Exception | None = None) -> None:
        self.rows = rows
        self.width = width
        self.cuts = list(cuts)
        self.error = error or UnreachableError("server closed the connection unexpectedly")
        self.open = 0
        self.queries: list[tuple[int, int]] = []

    def opened(self) -> Cut:
        self.open += 1
        return self

    def query(self, after: int, until: int) -> str:
        self.queries.append((after, until))
        return f"{after} {until}"

    def columns(self, query: str) -> Sequence[Column]:
        return []

    def read(self, query: str, *, batch_rows: int = 10) -> pa.RecordBatchReader:
        after, until = map(int, query.split())
        schema = pa.schema([(name, pa.int64() if name == "seq" else pa.string()) for name in NAMES])
        left = self.cuts.pop(0) if self.cuts else None

        def batches() -> Iterator[pa.RecordBatch]:
            for count, first in enumerate(range(after + 1, min(until, self.rows) + 1, 10)):
                if count == left:
                    raise self.error
                seqs = range(first, min(first + 10, until + 1, self.rows + 1))
                rows = [{"seq": at, "change": "added", "key": str(at), "f0": "x" * self.width} for at in seqs]
                yield pa.RecordBatch.from_pylist(rows, schema)
            if left is not None:
                raise self.error

        return pa.RecordBatchReader.from_batches(schema, batches())

    def close(self) -> None:
        self.open -= 1


def reading(warehouse: Cut, pauses: list[float], *, range_rows: int = 1_000) -> ChangeReading:
    return ChangeReading(warehouse.opened, warehouse.query, NAMES, range_rows=range_rows, sleep=pauses.append)


@pytest.mark.parametrize("range_rows", [0, 30, 1_000])
@pytest.mark.parametrize("cuts", [(), (0,), (2,), (3, 1, 0, 2), (0, 0, 0, 0, 0)])
def test_a_cut_session_is_read_on_where_it_was(range_rows: int, cuts: Sequence[int]) -> None:
    """Every row comes once, in order."""
    warehouse = Cut(205, cuts=cuts)
    pauses: list[float] = []
    batches = list(reading(warehouse, pauses, range_rows=range_rows).read(5, 205))
    seqs = [seq for batch in batches for seq in batch.column("seq").to_pylist()]
    assert seqs == list(range(6, 206))
    assert len(pauses) == len(cuts)
    assert warehouse.open == 0


def test_a_warehouse_that_does_not_come_back_is_unreachable() -> None:
    warehouse = Cut(100, cuts=[0] * 20)
    pauses: list[float] = []
    with pytest.raises(UnreachableError):
        list(reading(warehouse, pauses).read(0, 100))
    assert pauses == [1, 2, 5, 10, 20]


def test_other_errors_are_not_tried_again() -> None:
    pauses: list[float] = []
    with pytest.raises(ZeroDivisionError):
        list(reading(Cut(100, cuts=[1], error=ZeroDivisionError()), pauses).read(0, 100))
    with pytest.raises(RunConflictError, match="the plan is gone"):
        list(reading(Cut(100, cuts=[1], error=ModelNotFoundError("no table")), pauses).read(0, 100))
    with pytest.raises(StateError, match="rows of the plan are missing, from row 101"):
        list(reading(Cut(100), pauses).read(0, 200))
    assert pauses == []


def test_no_statement_is_open_while_rows_of_a_range_are_sent() -> None:
    warehouse = Cut(5_000)
    for batch in reading(warehouse, []).read(0, 5_000):
        assert batch.num_rows
        assert warehouse.open == 0
    assert len(warehouse.queries) == 5


@pytest.mark.long
def test_ranges_of_wide_rows_are_short() -> None:
    """Rows of 100,000 characters come about 32 MB at a time, and the first range ends early."""
    warehouse = Cut(2_000, width=100_000)
    batches = list(reading(warehouse, [], range_rows=65_536).read(0, 2_000))
    assert sum(batch.num_rows for batch in batches) == 2_000
    after = [after for after, _ in warehouse.queries]
    assert max(second - first for first, second in pairwise(after)) <= 680
    assert {until - start for start, until in warehouse.queries[1:-1]} == {335}


def test_a_caller_that_stops_leaves_nothing_open() -> None:
    for range_rows in (0, 50):
        warehouse = Cut(100)
        changes = reading(warehouse, [], range_rows=range_rows).read(0, 100)
        next(changes)
        changes.close()
        assert warehouse.open == 0


# -- a real Postgres ---------------------------------------------------------------------------------------------------


@pytest.fixture
def place(postgres: str) -> Place:
    place = postgres_place(postgres)
    place.run("CREATE TABLE m AS SELECT i AS id, repeat('x', 100) AS email FROM generate_series(1, 5000) AS t(i)")
    return place


def planned(place: Place, store: Any) -> Plan:
    sync = Sync.load(
        {
            "name": "s",
            "model": "m",
            "source": "w",
            "mode": "upsert",
            "destination": {"type": "file"},
            "mapping": {"email": "email"},
        }
    )
    warehouse = place.open_warehouse()
    plan: Plan = store.plan(PlanRequest(sync, "SELECT * FROM m", ("id",), "r", datetime.now(UTC)), warehouse)
    warehouse.close()
    return plan


def test_a_slow_destination_holds_no_session_of_the_warehouse(place: Place) -> None:
    """While rows are sent, no session has a statement or a transaction that a timeout could end."""
    store = place.store()
    plan = planned(place, store)
    busy = (
        "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state <> 'idle'"
    )
    seqs: list[int] = []
    for batch in store.changes(plan):
        assert place.run(busy) == []
        seqs += batch.column("seq").to_pylist()
    assert seqs == list(range(1, 5001))
    store.close()


def test_a_session_that_postgres_ends_is_replaced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator, or a timeout, ends the session in the middle of a range."""
    store = place.store()
    plan = planned(place, store)
    warehouse_of = store._open_warehouse
    ended: list[int] = []

    def open_warehouse() -> Warehouse:
        warehouse = warehouse_of()
        read = warehouse.read

        def ending(query: str, **more: Any) -> pa.RecordBatchReader:
            if len(ended) in (1, 2):
                place.run(f"ALTER DATABASE {database} SET statement_timeout = '1ms'")
                try:
                    ended.append(1)
                    return read(f"SELECT *, pg_sleep(1)::text FROM ({query}) AS slow")
                finally:
                    place.run(f"ALTER DATABASE {database} RESET statement_timeout")
            ended.append(0)
            return read(query, **more)

        warehouse.read = ending  # type: ignore[method-assign]
        return warehouse

    [(database,)] = place.run("SELECT current_database()")
    monkeypatch.setattr(store, "_open_warehouse", open_warehouse)
    seqs = [seq for batch in store.changes(plan) for seq in batch.column("seq").to_pylist()]
    assert seqs == list(range(1, 5001))
    assert ended[:3] == [0, 1, 1]
    store.close()
