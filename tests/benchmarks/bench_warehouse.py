"""A plan in Postgres beside the bare SQL it cannot do without. ``python -m tests.benchmarks.bench_warehouse [rows]``.

Peer: the same comparison of hashes in one statement, the change set written to a table: no checks of keys, no numbers,
nothing recorded. ``ratio`` above 1: ours is better; 0.77 is 1.3 times the peer's time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.statements.plan import plan_statement
from airflow_reverse_etl.stores.warehouse.schema import prefix
from airflow_reverse_etl.sync.ports import Plan, PlanRequest
from airflow_reverse_etl.sync.progress import Checkpoint
from tests.stores.warehouses import Place, postgres_place, postgres_server

ROWS = 1_000_000
ROUNDS = 5
NAMES = ("id", "email", "first_name", "score")
SYNC = Sync(
    name="bench",
    model="customers",
    source="warehouse",
    destination={"type": "file"},
    mapping={name: name for name in NAMES},
)
QUERY = "SELECT * FROM customers"


def main(rows: int = ROWS) -> list[dict[str, Any]]:
    """The best of rounds that take turns."""
    with postgres_server() as uri:
        place = postgres_place(uri)
        place.run(
            "CREATE TABLE customers AS SELECT i AS id, 'user' || i || '@example.com' AS email,"
            f" 'First' || (i % 1000) AS first_name, i % 100 AS score FROM generate_series(1, {rows}) AS t(i)",
            "ANALYZE customers",
        )
        store = place.store()
        first, first_seconds = _plan(place, store)
        assert first.planned.added == rows, first
        _, first_commit = _timed(lambda: _commit(store, first))
        place.run(f"UPDATE customers SET score = score + 1 WHERE id % {rows // (rows // 100)} = 7", "VACUUM ANALYZE")
        ours, bare = [], []
        for _ in range(ROUNDS):
            bare.append(_bare(place, rows))
            plan, seconds = _plan(place, store)
            assert plan.planned.changed == plan.total == rows // 100, plan
            ours.append(seconds)
            store.discard(plan)
        plan, _ = _plan(place, store)
        read, reading = _timed(lambda: sum(batch.num_rows for batch in store.changes(plan)))
        assert read == plan.total
        _, commit = _timed(lambda: _commit(store, plan))
        store.close()
    many = f"{rows:,} rows"
    return [
        _result(f"plan in Postgres, {many}, 1% changed", min(ours), "s", "bare SQL join", min(bare)),
        _result(f"change set read, {read:,} rows", reading, "s"),
        _result(f"commit in Postgres, {many}, 1% changed", commit, "s"),
        _result(f"first plan in Postgres, {many}", first_seconds, "s"),
        _result(f"first commit in Postgres, {many}", first_commit, "s"),
    ]


def _plan(place: Place, store: Any) -> tuple[Plan, float]:
    warehouse = place.open_warehouse()
    request = PlanRequest(SYNC, QUERY, ("id",), "run", datetime.now(UTC))
    found = _timed(lambda: store.plan(request, warehouse))
    warehouse.close()
    return found


def _commit(store: Any, plan: Plan) -> None:
    checkpoint = Checkpoint(announced=plan.total)
    checkpoint.settled.add(1, plan.total)
    store.commit(plan, checkpoint, RunReport("run", plan.planned, plan.total, 0, 0, 0, 0, 1, 1.0), SYNC)


def _bare(place: Place, rows: int) -> float:
    statement = plan_statement(
        SYNC,
        query=QUERY,
        primary_key=["id"],
        columns=[Column(name) for name in NAMES],
        source="postgres",
        planner="postgres",
    )
    types = {"k0": "integer", "f0": "integer", "f1": "text", "f2": "text", "f3": "integer"}
    values = ", ".join(f"m.{name}" for name in ("row_key", *statement.values))
    sql = (
        f"CREATE TABLE bare AS WITH extracted AS ({statement.extract}), mapped AS ({statement.mapped}),"
        f" model AS ({statement.model(types)}) SELECT {values} FROM model AS m"
        f" FULL JOIN reverse_etl.{prefix(SYNC.name)}_snapshot AS s ON m.key_hi = s.key_hi AND m.key_lo = s.key_lo"
        " WHERE m.key_hi IS NULL OR s.key_hi IS NULL OR m.fingerprint <> s.fingerprint"
    )
    _, seconds = _timed(lambda: place.run(sql))
    assert place.run("SELECT count(*) FROM bare") == [(rows // 100,)]
    place.run("DROP TABLE bare")
    return seconds


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = action()
    return result, round(time.perf_counter() - started, 3)


def _result(name: str, value: float, unit: str, peer: str = "", peer_value: float | None = None) -> dict[str, Any]:
    ratio = round(peer_value / value, 2) if peer_value else None
    return {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}


if __name__ == "__main__":
    for line in main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS):
        print(line)
