"""A real Postgres, read with psycopg 2, psycopg 3 and ADBC: the results must be equal."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    ModelNotFoundError,
    ReverseEtlError,
    UnreachableError,
)
from airflow_reverse_etl.spec.columns import no_decimal
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.ports import PlanRequest, Warehouse
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.warehouses.postgres import conninfo
from tests.stores.warehouses import Place, postgres_place
from tests.warehouses.postgres import WAYS, open_way


@pytest.fixture(scope="module")
def place(postgres: str) -> Place:
    place = postgres_place(postgres)
    place.run("CREATE TYPE colour AS ENUM ('red')", "CREATE DOMAIN price AS NUMERIC(5, 2)")
    # of the whole server: a worker that is given tests of this module twice makes its databases twice
    place.run("DROP ROLE IF EXISTS nobody", "CREATE ROLE nobody LOGIN")
    return place


@pytest.fixture(scope="module")
def dsn(place: Place) -> str:
    with closing(place.connect()) as connection:
        return conninfo(connection)


@pytest.fixture(params=WAYS)
def warehouse(request: pytest.FixtureRequest, dsn: str) -> Iterator[Warehouse]:
    with closing(open_way(request.param, dsn)) as opened:
        yield opened


UUID = "6b0d5a44-0000-4000-8000-000000000000"
JSON = '{"b":1.10,"a":"ä\\u00e4"}'
DECIMAL = pa.decimal128(38, 2)

#: A SQL value, its Arrow type, and what it is there.
VALUES: list[tuple[str, pa.DataType, Any]] = [
    ("true", pa.bool_(), True),
    ("7::SMALLINT", pa.int64(), 7),
    ("7", pa.int64(), 7),
    ("9223372036854775807", pa.int64(), 2**63 - 1),
    ("0.1::REAL", pa.float64(), 0.1),
    ("'-infinity'::FLOAT8", pa.float64(), float("-inf")),
    ("1.50::NUMERIC(10, 2)", DECIMAL, Decimal("1.50")),
    ("-1.5::NUMERIC", pa.decimal128(38, 1), Decimal("-1.5")),
    (f"{'9' * 38}::NUMERIC", pa.decimal128(38, 0), Decimal("9" * 38)),
    ("5::price", DECIMAL, Decimal(5)),
    ("''", pa.string(), ""),
    ("E'a\\nä'::VARCHAR(9)", pa.string(), "a\nä"),
    ("'a'::CHAR(3)", pa.string(), "a  "),
    ("'\\x00ff'::BYTEA", pa.binary(), b"\x00\xff"),
    ("'9999-12-31'::DATE", pa.date32(), date(9999, 12, 31)),
    ("'0001-01-01'::DATE", pa.date32(), date(1, 1, 1)),
    ("'12:00:00.5'::TIME", pa.time64("us"), clock(12, 0, 0, 500_000)),
    ("'2026-01-31 12:00:00.000001'::TIMESTAMP", pa.timestamp("us"), datetime(2026, 1, 31, 12, 0, 0, 1)),  # noqa: DTZ001
    ("'2026-01-31 12:00+02'::TIMESTAMPTZ", pa.timestamp("us", "UTC"), datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ("'12:00+02'::TIMETZ", pa.string(), "12:00:00+02"),
    ("'1 mon 2 days'::INTERVAL", pa.string(), "1 mon 2 days"),
    (f"'{UUID}'::UUID", pa.string(), UUID),
    (f"'{JSON}'::JSON", pa.string(), JSON),
    ("'\"x\"'::JSONB", pa.string(), '"x"'),
    ("ARRAY[1, NULL]", pa.string(), "[1,null]"),
    ("ARRAY[['a', 'b\"']]", pa.string(), '[["a","b\\""]]'),
    ("ARRAY[1.50]", pa.string(), "[1.50]"),
    ("ROW(1, 'a')", pa.string(), '{"f1":1,"f2":"a"}'),
    ("'red'::colour", pa.string(), "red"),
    ("INT4RANGE(1, 5)", pa.string(), "[1,5)"),
    ("'10.0.0.1'::INET", pa.string(), "10.0.0.1"),
    ("1::MONEY", pa.string(), "$1.00"),
    ("B'101'", pa.string(), "101"),
    ("4294967295::OID", pa.string(), "4294967295"),
    ("NULL", pa.string(), None),
    ("NULL::INTEGER", pa.int64(), None),
    ("NULL::NUMERIC(10, 2)", DECIMAL, None),
    ("NULL::INTEGER[]", pa.string(), None),
]


def select(column: int, rows: str = "") -> str:
    return f"SELECT {VALUES[column][0]} AS v {rows}"


def test_each_type_is_one_in_arrow_whatever_the_driver(warehouse: Warehouse) -> None:
    """One query reads all columns, with values and with nulls."""
    columns = ", ".join(f"{value} AS c{at}" for at, (value, *_) in enumerate(VALUES))
    table = warehouse.read(f'SELECT * FROM (SELECT {columns}) AS "Some" -- all').read_all()
    assert [column.name for column in warehouse.columns(f"SELECT {columns}")] == table.column_names
    assert table.schema.types == [kind for _, kind, _ in VALUES]
    assert table.to_pylist() == [{f"c{at}": expected for at, (*_, expected) in enumerate(VALUES)}]


def test_an_empty_result_has_the_same_columns(warehouse: Warehouse) -> None:
    table = warehouse.read("SELECT 1::SMALLINT AS a, '1'::JSON AS b, 1::NUMERIC(9, 1) AS c WHERE 1 = 0").read_all()
    assert table.num_rows == 0
    assert table.schema == pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.decimal128(38, 1))])


@pytest.mark.parametrize(
    "value",
    [
        "'NaN'::NUMERIC", "1e38::NUMERIC", "'Infinity'::NUMERIC", "1e39::NUMERIC(50, 2)", "1e90::NUMERIC(99, 2)",
    ],
)  # fmt: skip
def test_a_numeric_that_arrow_has_not_is_marked_and_no_other_value_changes(warehouse: Warehouse, value: str) -> None:
    """This holds for the first rows and for later ones."""
    kind = "NUMERIC(50, 2)" if "," in value else "NUMERIC"
    for first in (0, 4000):
        query = f"SELECT CASE WHEN i > {first} THEN {value} ELSE 1.5::{kind} END AS v"
        table = warehouse.read(f"{query} FROM generate_series(1, 5000) AS t(i)", batch_rows=3000).read_all()
        column = table.column(0).combine_chunks()
        assert pc.equal(column, no_decimal(column.type)).to_pylist() == [False] * first + [True] * (5000 - first)
        assert set(column[:first].to_pylist()) <= {Decimal("1.5")}


@pytest.mark.parametrize(
    ("value", "infinite"),
    [
        ("'infinity'::DATE", 2**31 - 1),
        ("'10000-01-01'::DATE", 2**31 - 1),
        ("'0044-03-15 BC'::DATE", 2**31 - 1),
        ("'-infinity'::TIMESTAMP", 2**63 - 1),
        ("'294276-01-01'::TIMESTAMP", 2**63 - 1),
        ("'infinity'::TIMESTAMPTZ", 2**63 - 1),
        ("'24:00'::TIME", 86_400_000_000),
    ],
)
def test_dates_that_python_has_not_are_read_as_infinite(warehouse: Warehouse, value: str, infinite: int) -> None:
    """This holds for the first rows and for later ones; no other value changes."""
    kind = value.partition("::")[2]
    plain = "12:00" if kind == "TIME" else "2026-01-31"
    for first in (0, 4000):
        query = f"SELECT CASE WHEN i > {first} THEN {value} ELSE '{plain}'::{kind} END AS v"
        table = warehouse.read(f"{query} FROM generate_series(1, 5000) AS t(i)", batch_rows=3000).read_all()
        numbers = table.column(0).combine_chunks().view(pa.int32() if kind == "DATE" else pa.int64()).to_pylist()
        assert set(numbers[first:]) == {infinite}
        assert len(set(numbers[:first])) == min(first, 1)
        assert infinite not in numbers[:first]


MANY = "generate_series(1, 100000) AS t(i)"


def test_a_numeric_with_more_digits_further_down_is_read_if_there_is_room(warehouse: Warehouse) -> None:
    query = f"SELECT CASE WHEN i < 90000 THEN i ELSE i + 0.000000001 END::NUMERIC AS v FROM {MANY}"
    values = warehouse.read(query).read_all().column(0)
    assert (values[0].as_py(), values[-1].as_py()) == (1, Decimal("100000.000000001"))
    assert values.type == pa.decimal128(38, 9)


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_plan_does_not_see_which_driver_read(place: Place, dsn: str, tmp_path: Path, way: str) -> None:
    """The plan has all types as mapped values and some as keys; the expected plan was recorded with psycopg 2."""
    columns = {at: value for at, (value, *_) in enumerate(VALUES) if not value.startswith("ROW")}  # no column is one
    place.run(
        "DROP TABLE IF EXISTS model",
        "CREATE TABLE model AS SELECT i AS id, i::NUMERIC AS key2, "
        + ", ".join(f"CASE WHEN i % 3 > 0 THEN {value} END AS c{at}" for at, value in columns.items())
        + " FROM generate_series(1, 1000) AS t(i)",
    )
    names = [f"c{at}" for at in columns]
    sync = Sync(name="s", model="m", source="w", destination={"type": "file"}, mapping={name: name for name in names})
    store = LakeStore(str(tmp_path), memory_limit="200MB", threads=1)
    planned = []
    for used in ("psycopg2", way):
        with closing(open_way(used, dsn)) as warehouse:
            request = PlanRequest(sync, "SELECT * FROM model", ("id", "key2"), used, datetime.now(UTC))
            plan = store.plan(request, warehouse)
        planned.append(plan.total)
        checkpoint = Checkpoint(announced=plan.total)
        checkpoint.settled.add(1, plan.total)
        store.commit(plan, checkpoint, RunReport(used, plan.planned, plan.total, 0, 0, 0, 0, 1, 1.0), sync)
    assert planned == [1000, 0]


# -- memory, errors, leaving early -------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("way", [pytest.param("psycopg2", marks=pytest.mark.slow), *WAYS[1:]])
def test_a_large_result_is_never_in_memory(dsn: str, way: str) -> None:
    """A process of its own reads 400 MB of rows and measures its memory."""
    script = f"""
        from tests.peak import peak
        from tests.warehouses.postgres import open_way
        warehouse = open_way({way!r}, {dsn!r})
        warehouse.read("SELECT 1 AS i, REPEAT('x', 9) AS text").read_all()
        before = peak()
        rows = 0
        for batch in warehouse.read("SELECT i, REPEAT('x', 2000) AS text FROM generate_series(1, 200000) AS t(i)",
                                    batch_rows=10_000):
            rows += batch.num_rows
        warehouse.close()
        assert rows == 200_000
        print(peak() - before)
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200_000_000


@pytest.mark.parametrize(
    ("query", "expected", "told"),
    [
        ("SELECT * FROM nothing", ModelNotFoundError, "nothing"),
        ("SELECT nothing FROM pg_class", ModelNotFoundError, "nothing"),
        ("SELECT 1 FROM (SELEC)", ModelNotFoundError, "syntax error"),
        ("SELECT 'secret'::INTEGER AS v", ConfigurationError, ""),
        (f"SELECT CASE WHEN i > 80000 THEN 'secret' ELSE '1' END::INTEGER AS v FROM {MANY}", ConfigurationError, ""),
        (f"SELECT 1 / (90000 - i) AS v FROM {MANY}", ConfigurationError, ""),
    ],
)
def test_errors_of_the_query_name_what_is_missing_and_quote_no_value(
    warehouse: Warehouse, query: str, expected: type[ReverseEtlError], told: str
) -> None:
    with pytest.raises(expected) as caught:
        warehouse.read(query).read_all()
    assert told in str(caught.value)
    assert "connection 'pg'" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_a_table_that_may_not_be_read(place: Place, dsn: str, way: str) -> None:
    place.run("CREATE TABLE IF NOT EXISTS closed (id INTEGER)")
    refused = pytest.raises(CredentialsError, match="permission denied for table closed")
    with closing(open_way(way, dsn + " user=nobody")) as warehouse, refused:
        warehouse.read("SELECT * FROM closed").read_all()


@pytest.mark.parametrize("way", WAYS)
def test_a_missing_server(way: str) -> None:
    dsn = "host=127.0.0.1 port=1 user=u password='hidden'"
    with closing(open_way(way, dsn)) as warehouse, pytest.raises(UnreachableError) as caught:
        warehouse.columns("SELECT 1")
    assert "hidden" not in str(caught.value)


def test_a_server_that_goes_away_while_it_is_read(place: Place, warehouse: Warehouse) -> None:
    query = "SELECT i, REPEAT('x', 100) AS text FROM generate_series(1, 1000000) AS t(i)"
    reader = iter(warehouse.read(query, batch_rows=10_000))
    next(reader)
    place.run(f"SELECT PG_TERMINATE_BACKEND(pid) FROM {OTHERS}")
    with pytest.raises(UnreachableError):
        for _ in reader:
            pass


#: Other sessions of this database.
OTHERS = "pg_stat_activity WHERE datname = CURRENT_DATABASE() AND pid <> PG_BACKEND_PID()"
SLOW = f"SELECT i, REPEAT('x', 500) AS text, CASE WHEN i > 90000 THEN PG_SLEEP(60) END::TEXT AS slow FROM {MANY}"


@pytest.mark.long
def test_a_caller_that_leaves_need_not_wait_for_the_server(place: Place, warehouse: Warehouse) -> None:
    """The query is cancelled, and the connection can run another."""
    started = time.monotonic()
    rows = iter(warehouse.read(SLOW, batch_rows=80_000))
    assert next(rows).num_rows
    del rows
    assert warehouse.read("SELECT 1 AS v").read_all().to_pylist() == [{"v": 1}]
    rows = iter(warehouse.read(SLOW, batch_rows=80_000))
    assert next(rows).num_rows
    warehouse.close()  # while it is read
    assert time.monotonic() - started < 20
    assert place.run(f"SELECT COUNT(*) FROM {OTHERS} AND state = 'active'") == [(0,)]


def test_the_parameters_of_a_connection_can_be_used_again(postgres: str) -> None:
    """This holds for both drivers, and for quotes and backslashes in a password."""
    import psycopg
    import psycopg2

    text = psycopg.conninfo.make_conninfo(postgres, password="it's a \\ secret", application_name="a b")
    connects: list[Callable[[str], Any]] = [psycopg.connect, psycopg2.connect]
    for connect in connects:
        with closing(connect(text)) as connection:
            again = conninfo(connection)
        found = psycopg.conninfo.conninfo_to_dict(again)
        assert (found["password"], found["application_name"]) == ("it's a \\ secret", "a b")
        with closing(open_way("adbc", again)) as warehouse:
            assert warehouse.read("SELECT 1 AS v").read_all().num_rows == 1
