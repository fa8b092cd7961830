"""Planners of different dialects agree on hashes: state could move, and a change is a change wherever it is seen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.statements import field_hashes
from airflow_reverse_etl.sql.statements.plan import plan_statement
from tests.property import examples
from tests.stores.warehouses import postgres_place

SYNC = Sync(
    name="s",
    model="m",
    source="w",
    destination={"type": "file"},
    mapping={"a": "value", "b": "more"},
    track={"fields": True},
)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
years = {"min_value": datetime(1, 1, 2), "max_value": datetime(9999, 12, 30)}  # noqa: DTZ001 - with and without zone


def floats(width: int) -> st.SearchStrategy[float]:
    """Return floats of which both databases write the same digits.

    Whole numbers beyond the precision are left out: for some, Postgres writes more digits than needed. So are values of
    REAL that have nine digits, as many of them lie halfway between two texts of eight.
    """
    precise, large = (2**53, 1e23) if width == 64 else (2**24, 1e12)
    some = st.floats(width=width, allow_nan=True, allow_infinity=True) | st.integers(-precise, precise).map(float)  # type: ignore[arg-type]
    found = some.filter(lambda value: not precise < abs(value) < large)
    return found if width == 64 else found.filter(lambda value: len(Decimal(value).normalize().as_tuple().digits) != 9)


#: Postgres type, DuckDB type, values.
TYPES: dict[str, tuple[str, str, st.SearchStrategy[Any]]] = {
    "text": ("TEXT", "VARCHAR", texts),
    "uuid": ("UUID", "UUID", st.uuids().map(str)),
    "small integer": ("SMALLINT", "SMALLINT", st.integers(-(2**15), 2**15 - 1)),
    "big integer": ("BIGINT", "BIGINT", st.integers(-(2**63), 2**63 - 1)),
    "boolean": ("BOOLEAN", "BOOLEAN", st.booleans()),
    "decimal": ("NUMERIC(20, 5)", "DECIMAL(20, 5)", st.decimals(-(10**14), 10**14, places=5)),
    "whole decimal": ("NUMERIC(38, 0)", "DECIMAL(38, 0)", st.decimals(-(10**37), 10**37, places=0)),
    "double": ("DOUBLE PRECISION", "DOUBLE", floats(64)),
    "real": ("REAL", "FLOAT", floats(32)),
    "date": ("DATE", "DATE", st.dates(date(1, 1, 1))),
    "time": ("TIME", "TIME", st.times()),
    "timestamp": ("TIMESTAMP", "TIMESTAMP", st.datetimes(**years)),
    "timestamp with zone": ("TIMESTAMPTZ", "TIMESTAMPTZ", st.datetimes(**years, timezones=st.just(UTC))),
    "binary": ("BYTEA", "BLOB", st.binary(max_size=20)),
    "list of integers": ("INTEGER[]", "INTEGER[]", st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)),
}


class Pair:
    """Two warehouses with the same rows, each of which hashes them."""

    def __init__(self, postgres: Any) -> None:
        self.postgres, self.duckdb = postgres.cursor(), duckdb.connect()
        self.postgres.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'")
        self.duckdb.execute("SET TimeZone = 'UTC'")

    def hashes(self, values: list[Any], postgres_type: str, duckdb_type: str) -> tuple[list[Any], list[Any]]:
        rows = [(at, value, values[-1 - at]) for at, value in enumerate(values)]
        for cursor, kind, mark in ((self.postgres, postgres_type, "%s"), (self.duckdb, duckdb_type, "?")):
            cursor.execute("DROP TABLE IF EXISTS m")
            cursor.execute(f"CREATE TABLE m (id BIGINT, value {kind}, more {kind})")
            cast = f"CAST({mark} AS {kind})"
            for row in rows:
                cursor.execute(f"INSERT INTO m VALUES ({mark}, {cast}, {cast})", row)
        return self._of(self.postgres, "postgres", postgres_type), self._of(self.duckdb, "duckdb", duckdb_type)

    @staticmethod
    def _of(cursor: Any, dialect: str, kind: str) -> list[Any]:
        statement = plan_statement(
            SYNC,
            query="SELECT * FROM m",
            primary_key=("id", "value"),
            columns=[Column(name) for name in ("id", "value", "more")],
            source=dialect,
            planner=dialect,
        )
        types = {"k0": "BIGINT", "k1": kind, "f0": kind, "f1": kind}
        hashes = field_hashes.hashes(SYNC, PLANNERS[dialect], types, model="model")
        cursor.execute(
            f"WITH extracted AS ({statement.extract}), mapped AS ({statement.mapped}), model AS ("
            f"{statement.model(types)}) SELECT row_key, key_hi, key_lo, fingerprint, {hashes} FROM model"
        )
        return sorted(cursor.fetchall(), key=lambda row: (row[3], str(row)))


@pytest.fixture(scope="module")
def pair(postgres: str) -> Iterator[Pair]:
    connection = postgres_place(postgres).connect()
    yield Pair(connection)
    connection.close()


@pytest.mark.long
@pytest.mark.parametrize("name", TYPES)
def test_postgres_and_duckdb_agree(pair: Pair, name: str) -> None:
    postgres_type, duckdb_type, values = TYPES[name]

    @settings(max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(st.lists(st.none() | values, min_size=1, max_size=12))
    def agree(rows: list[Any]) -> None:
        in_postgres, in_duckdb = pair.hashes(rows, postgres_type, duckdb_type)
        assert [row[1:] for row in in_postgres] == [row[1:] for row in in_duckdb]

    agree()


def test_halfway_between_two_texts_each_writes_a_real_in_its_own_way(pair: Pair) -> None:
    """Each always writes it in the same way, so a row does not change by itself."""
    in_postgres, in_duckdb = pair.hashes([131072.875, 17.5234375], "REAL", "FLOAT")
    assert {row[0] for row in in_postgres} == {'["0","131072.88"]', '["1","17.523438"]'}
    assert {row[0] for row in in_duckdb} == {'["0","131072.875"]', '["1","17.5234375"]'}


def test_null_never_equals_an_empty_text(pair: Pair) -> None:
    for found in pair.hashes(["", None], "TEXT", "VARCHAR"):
        assert len({row[3] for row in found}) == 2
        assert len({row[4][8:12] for row in found}) == 2


def test_times_are_those_of_a_clock(pair: Pair) -> None:
    """Both write a fraction of a second only if it is not zero."""
    values = [time(12), time(12, 0, 0, 500_000), time(12, 0, 0, 1)]
    in_postgres, in_duckdb = pair.hashes(values, "TIME", "TIME")
    assert in_postgres == in_duckdb
    assert {row[0] for row in in_duckdb} == {'["0","12:00:00"]', '["1","12:00:00.5"]', '["2","12:00:00.000001"]'}
