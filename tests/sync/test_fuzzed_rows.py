"""Rows of odd values through whole runs: no error but the package's own, and no row suffers for another's value."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import FrozenClock, MemoryWarehouse, RecordingObserver
from tests.http.local_server import Answer, Received, serving
from tests.stores.warehouses import postgres_place

DECIMAL = pa.decimal128(38, 2)
DEEP = 3_000
#: Column → its type in Arrow, type in a table, and values: plain ones, and odd ones, as numbers for dates and times.
COLUMNS: dict[str, tuple[pa.DataType, str, list[Any], list[Any]]] = {
    "text": (pa.string(), "text", ["a", "ä"], ["\0", "a\0b", "\ud7ff\ue000\uffff", "x" * 100_000, "'\\\"\n\r\u2028"]),
    "whole": (pa.int64(), "bigint", [0, -5], [2**63 - 1, -(2**63)]),
    "float": (pa.float64(), "float8", [0.5, -1.0], [float("nan"), float("inf"), float("-inf"), 5e-324, -0.0, 1e308]),
    "number": (DECIMAL, "numeric", [100, -1], [10**38 - 1, 1 - 10**38, 1 - 2**127]),
    "day": (pa.date32(), "date", [0, 20_000], [2**31 - 1, -(2**31) + 2, 2_932_897, -719_163]),
    "moment": (
        pa.timestamp("us"),
        "timestamp",
        [0, 10**15],
        [2**63 - 1, 1 - 2**63, -9_223_372_022_400_000_000, 253_402_300_800_000_000],
    ),
    "instant": (pa.timestamp("us", "UTC"), "timestamptz", [0, 10**15], [2**63 - 1, -62_135_596_800_000_001]),
    "clock": (pa.time64("us"), "time", [0, 86_399_999_999], [86_400_000_000]),
    "blob": (pa.binary(), "bytea", [b"", b"ab"], [bytes(range(256)), b"\xff" * 70_000]),
    "json": (
        pa.string(),
        "jsonb",
        ['{"a": [1, null]}', '"x"'],
        [
            '"\\ud800"', '{"a\\u0000": "\\u0000"}', "9" * 5_000, "1e400", "-0.0", "[" * DEEP + "]" * DEEP,
            '{"a":' * DEEP + "1" + "}" * DEEP, '{"a": 1, "a": 2}', "123456789012345678901234567890.5", '""',
        ],
    ),
}  # fmt: skip


def model(rows: int, seed: int) -> tuple[MemoryWarehouse, set[int]]:
    """Return a model, and the keys of its rows without an odd value: half of them."""
    chance = random.Random(seed)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    odd: set[int] = set()
    for at in range(rows):
        some = chance.sample(sorted(COLUMNS), chance.choice([0, 0, 0, 1, 1, 2]))
        odd |= {at} if some else set()
        for name, (_, _, plain, odd_values) in COLUMNS.items():
            columns[name].append(chance.choice(odd_values if name in some else [None, *plain]))
    arrays = [array_of(COLUMNS[name][0], values) for name, values in columns.items()]
    table = pa.Table.from_arrays([pa.array(range(rows)), *arrays], ["id", *columns])
    warehouse = MemoryWarehouse({"texts": table})
    # DuckDB has no JSON with half a surrogate: such a value is null.
    warehouse._database.execute('CREATE TABLE m AS SELECT * REPLACE (TRY_CAST("json" AS JSON) AS "json") FROM texts')
    return warehouse, set(range(rows)) - odd


def array_of(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """Build a column; values that Python has not are given as numbers."""
    if kind == DECIMAL:
        numbers = b"".join((value or 0).to_bytes(16, "little", signed=True) for value in values)
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(numbers)])
    if pa.types.is_date(kind):
        return pa.array(values, pa.int32()).view(kind)
    if pa.types.is_temporal(kind):
        return pa.array(values, pa.int64()).view(kind)
    return pa.array(values, kind)


class Taking:
    """An API that takes every row, and remembers their ids."""

    def __init__(self) -> None:
        self.taken: set[int] = set()

    def answer(self, request: Received) -> Answer:
        self.taken |= {row["id"] for row in orjson.loads(request.body)}
        return Answer(200, {})


@contextmanager
def http(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Any, ...]]:
    api = Taking()
    with serving(api.answer) as server:
        options = {"type": "http", "connection": "api", "path": "/rows", "match_on": "id"}
        yield options, {"connection": ConnectionInfo("api", "http", host=server.url)}, lambda: api.taken


@contextmanager
def table(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Any, ...]]:
    place = postgres_place(request.getfixturevalue("postgres"))
    place.run(f"CREATE TABLE rows (id int PRIMARY KEY, {', '.join(f'{n} {c[1]}' for n, c in COLUMNS.items())})")
    options = {"type": "table", "connection": "db", "object": "rows", "match_on": "id"}
    given = {"connection": ConnectionInfo("db", place.dialect), "connect": place.connect}
    yield options, given, lambda: {id_ for (id_,) in place.run("SELECT id FROM rows")}


def files(kind: str) -> Callable[..., Any]:
    @contextmanager
    def opened(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Any, ...]]:
        options = {"type": "file", "url": str(tmp_path / "out"), "format": kind}
        yield options, {"connection": None}, None

    return opened


DESTINATIONS = {"http": http, "table": table, **{kind: files(kind) for kind in ("csv", "jsonl", "parquet")}}


async def run(options: dict[str, Any], given: dict[str, Any], warehouse: MemoryWarehouse, folder: Path) -> RunReport:
    sync = Sync.load(
        {
            "name": "s", "model": "m", "source": "w", "primary_key": "id", "destination": options,
            "mapping": {name: name for name in ("id", *COLUMNS)}, "failure": {"max_rejected": "100%"},
        }
    )  # fmt: skip
    store = LakeStore(str(folder / "state"), memory_limit="500MB", threads=1)
    context = RunContext("run", store, observer=RecordingObserver(), clock=FrozenClock())
    return await run_sync(sync, SourceModel("SELECT * FROM m", ("id",), warehouse), create(sync, **given), context)


async def check(kind: str, rows: int, seed: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    warehouse, plain = model(rows, seed)
    with DESTINATIONS[kind](tmp_path, request) as (options, given, taken):
        report = await run(options, given, warehouse, tmp_path)
        assert report.accepted + report.rejected == rows, report
        assert 0 < report.rejected <= rows - len(plain)
        if taken:
            assert plain <= taken()
            assert len(taken()) == report.accepted


@pytest.mark.long
@pytest.mark.parametrize("kind", DESTINATIONS)
async def test_an_odd_value_rejects_its_row_at_most(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    await check(kind, 60, 1, tmp_path, request)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DESTINATIONS)
async def test_10_000_rows_of_odd_values(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    await check(kind, 10_000, 2, tmp_path, request)
