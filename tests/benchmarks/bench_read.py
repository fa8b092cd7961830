"""Rows of Postgres as Arrow, beside psycopg alone. ``python -m tests.benchmarks.bench_read [rows]``.

Peers: psycopg 3 with a named cursor, its rows left as they are and made Arrow by ``pyarrow``. Ours checks types and
values besides. Best of rounds that take turns; the peak of memory is of a process of its own, which reads all rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from tests.peak import peak
from tests.stores.warehouses import postgres_place, postgres_server

ROWS = 1_000_000
ROUNDS = 3
BATCH = 65_536
QUERY = "SELECT * FROM customers"


def main(rows: int = ROWS) -> list[dict[str, Any]]:
    """Rows a second, and what reading adds to a process's memory."""
    with postgres_server() as uri:
        dsn = _filled(uri, rows)
        best: dict[str, dict[str, float]] = {}
        for _ in range(ROUNDS):
            for way in WAYS:
                found = _in_process(way, dsn)
                assert found["rows"] == rows, way
                best[way] = max(best.get(way, found), found, key=lambda one: one["speed"])
    results = []
    for way, name in (("adbc", "ADBC"), ("cursor", "named cursor")):
        read = f"Postgres read by {name}, {rows:,} rows"
        results += [
            _result(read, "rows/s", "speed", best, way, peer) for peer in ("psycopg, tuples", "psycopg to Arrow")
        ]
        results.append(_result("memory that this adds", "MB", "added", best, way, "psycopg to Arrow"))
    return results


def _result(name: str, unit: str, what: str, best: dict[str, dict[str, float]], way: str, peer: str) -> dict[str, Any]:
    value, peer_value = best[way][what], best[peer][what]
    ratio = value / peer_value if what == "speed" else peer_value / value
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "peer": peer,
        "peer_value": peer_value,
        "ratio": round(ratio, 2),
    }


def _filled(uri: str, rows: int) -> str:
    """The DSN of a database with the table."""
    from airflow_reverse_etl.warehouses.postgres import conninfo

    place = postgres_place(uri)
    place.run(
        "CREATE TABLE customers AS SELECT i AS id, 'user' || i || '@example.com' AS email, i % 100 AS score,"
        " (i % 1000 / 10.0)::NUMERIC(10, 2) AS spent, TIMESTAMPTZ '2026-01-01' + i * INTERVAL '1 s' AS seen"
        f" FROM generate_series(1, {rows}) AS t(i)",
        "ANALYZE customers",
    )
    return conninfo(place.connect())


def _in_process(way: str, dsn: str) -> dict[str, float]:
    words = [sys.executable, "-m", "tests.benchmarks.bench_read", "--one", way, dsn]
    found: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


# -- in a process of its own -------------------------------------------------------------------------------------------


def _ours(dsn: str, *, adbc: bool) -> Iterator[int]:
    import adbc_driver_postgresql.dbapi
    import psycopg

    from airflow_reverse_etl.warehouses.adbc import AdbcWarehouse
    from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse

    warehouse: Any = DbApiWarehouse(lambda: psycopg.connect(dsn), dialect="postgres", conn_id="pg")
    if adbc:
        connect = adbc_driver_postgresql.dbapi.connect
        warehouse = AdbcWarehouse(lambda: connect(dsn), dialect="postgres", conn_id="pg", dbapi=warehouse)
    for batch in warehouse.read(QUERY, batch_rows=BATCH):
        yield batch.num_rows
    warehouse.close()


def _psycopg(dsn: str, *, arrow: bool) -> Iterator[int]:
    import psycopg

    with psycopg.connect(dsn) as connection, connection.cursor(name="bench") as cursor:
        cursor.execute(QUERY)
        while rows := cursor.fetchmany(BATCH):
            if arrow:
                pa.RecordBatch.from_arrays(
                    [pa.array(column) for column in zip(*rows, strict=True)], names=list("abcde")
                )
            yield len(rows)


WAYS: dict[str, Callable[[str], Iterator[int]]] = {
    "adbc": lambda dsn: _ours(dsn, adbc=True),
    "cursor": lambda dsn: _ours(dsn, adbc=False),
    "psycopg, tuples": lambda dsn: _psycopg(dsn, arrow=False),
    "psycopg to Arrow": lambda dsn: _psycopg(dsn, arrow=True),
}


def _one(way: str, dsn: str) -> dict[str, float]:
    import adbc_driver_postgresql.dbapi  # noqa: F401
    import psycopg  # noqa: F401
    import sqlglot  # noqa: F401

    # the imports above are not what is measured
    before, started = peak(), time.perf_counter()
    rows = sum(WAYS[way](dsn))
    return {"rows": rows, "speed": round(rows / (time.perf_counter() - started)), "added": (peak() - before) // 2**20}


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(_one(sys.argv[2], sys.argv[3])))
    else:
        for line in main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS):
            print(line)
