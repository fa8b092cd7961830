"""The local plan beside the bare join that it cannot do without. ``python -m tests.benchmarks.bench_plan [rows]``.

Peer: DuckDB comparing the same rows with the same snapshot in one SQL statement, the source attached as a database: no
checks of keys, no change set written, nothing recorded. ``ratio`` above 1: ours is better.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_reverse_etl.spec.model import DestinationSpec, Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.ports import Plan, PlanRequest
from airflow_reverse_etl.sync.progress import Checkpoint
from tests.peak import peak

ROWS = 10_000_000
QUERY = "SELECT * FROM customers"
SYNC = Sync(
    name="bench",
    model="customers",
    source="warehouse",
    destination={"type": "file"},
    mapping={"id": "id", "email": "email", "first_name": "first_name", "score": "score"},
)
#: The same, with records known by e-mail.
BY_RECORD = SYNC.model_copy(
    update={"name": "by_record", "destination": DestinationSpec(type="file", match_on=("email",))}
)


def main(rows: int = ROWS) -> list[dict[str, Any]]:
    """Each measurement in a process of its own, so that peak memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        _source(Path(folder), rows)
        _in_process(folder, "first", rows // 10)
        first = json.loads((Path(folder) / "first.json").read_text())
        shutil.rmtree(Path(folder) / "state")
        _in_process(folder, "first", rows)
        everything = json.loads((Path(folder) / "first.json").read_text())
        results = {}
        _in_process(folder, "first_by_record", rows)
        measured = ("one_percent", "bare", "one_percent_by_record")
        for name in ("same", "same_by_record", *measured, *measured):  # twice: the better one counts
            _in_process(folder, name, rows)
            found = json.loads((Path(folder) / f"{name}.json").read_text())
            results[name] = min(results.get(name, found), found, key=lambda one: one["plan"])
    plan = results["one_percent"]
    bare = results["bare"]
    by_record = results["one_percent_by_record"]
    many, few = f"{rows:,} rows", f"{rows // 10:,} rows"
    return [
        _result(f"local plan, {many}, 1% changed", plan["plan"], "s", "bare DuckDB join", bare["plan"]),
        _result(f"peak memory of that plan, {many}", plan["peak"], "MB", "bare DuckDB join", bare["peak"]),
        _result(f"commit of 1% changed, {many}", plan["commit"], "s"),
        _result(f"local plan without a change, {many}", results["same"]["plan"], "s"),
        _result(f"with match_on, {many}, 1% changed", by_record["plan"], "s", "without match_on", plan["plan"]),
        _result(f"peak memory of that plan, {many}", by_record["peak"], "MB", "without match_on", plan["peak"]),
        _result(f"with match_on, without a change, {many}", results["same_by_record"]["plan"], "s"),
        _result(f"first plan, {few}", first["plan"], "s"),
        _result(f"first commit, {few}", first["commit"], "s"),
        _result(f"change set read, {few}", first["rows_per_second"], "rows/s"),
        _result(f"first plan, {many}", everything["plan"], "s"),
        _result(f"first commit, {many}", everything["commit"], "s"),
        _result(f"peak memory of first plan and commit, {many}", everything["peak"], "MB"),
    ]


def _result(name: str, value: float, unit: str, peer: str = "", peer_value: float | None = None) -> dict[str, Any]:
    ratio = round(peer_value / value, 2) if peer_value else None
    return {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}


def _source(folder: Path, rows: int) -> None:
    import duckdb

    with duckdb.connect(str(folder / "source.duckdb")) as connection:
        connection.execute(
            f"CREATE TABLE customers AS SELECT i AS id, 'user' || i || '@example.com' AS email,"
            f" 'First' || (i % 1000) AS first_name, (i % 100)::INT AS score FROM range({rows}) t(i)"
        )


def _in_process(folder: str, what: str, rows: int) -> None:
    subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_plan", "--one", folder, what, str(rows)], check=True)


def _one(folder: Path, what: str, rows: int) -> None:
    actions = {"first": _first, "same": _same, "one_percent": _one_percent, "bare": _bare}
    sync = BY_RECORD if what.endswith("_by_record") else SYNC
    found = actions[what.removesuffix("_by_record")](folder, rows, sync)
    found["peak"] = peak() // 2**20
    (folder / f"{what}.json").write_text(json.dumps(found))


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = action()
    return result, round(time.perf_counter() - started, 2)


def _plan(folder: Path, query: str, sync: Sync) -> tuple[Any, Plan, float]:
    import duckdb

    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

    store = LakeStore(str(folder / "state"))
    warehouse = DuckDBWarehouse(duckdb.connect(str(folder / "source.duckdb"), read_only=True))
    request = PlanRequest(sync, query, ("id",), "run", datetime.now(UTC))
    plan, seconds = _timed(lambda: store.plan(request, warehouse))
    warehouse.close()
    return store, plan, seconds


def _commit(store: Any, plan: Plan, sync: Sync) -> float:
    checkpoint = Checkpoint(announced=plan.total)
    checkpoint.settled.add(1, plan.total)
    report = RunReport("run", plan.planned, plan.total, 0, 0, 0, 0, 1, 1.0)
    return _timed(lambda: store.commit(plan, checkpoint, report, sync))[1]


def _first(folder: Path, rows: int, sync: Sync) -> dict[str, Any]:
    store, plan, seconds = _plan(folder, f"{QUERY} LIMIT {rows}", sync)
    assert plan.planned.added == rows, plan
    read, reading = _timed(lambda: sum(batch.num_rows for batch in store.changes(plan)))
    assert read == rows
    return {"plan": seconds, "rows_per_second": round(read / reading), "commit": _commit(store, plan, sync)}


def _same(folder: Path, rows: int, sync: Sync) -> dict[str, Any]:
    store, plan, seconds = _plan(folder, QUERY, sync)
    assert (plan.total, plan.snapshot_rows) == (0, rows), plan
    store.discard(plan)
    return {"plan": seconds}


def _changed(query: str) -> str:
    return f"SELECT * REPLACE (score + (id % 100 = 7)::INT AS score) FROM {query}"


def _one_percent(folder: Path, rows: int, sync: Sync) -> dict[str, Any]:
    before = folder / "before"
    if not before.exists():
        shutil.copytree(folder / "state", before)
    store, plan, seconds = _plan(folder, _changed("customers"), sync)
    assert plan.planned.changed == plan.total == rows // 100, plan
    found = {"plan": seconds, "commit": _commit(store, plan, sync)}
    shutil.rmtree(folder / "state")
    shutil.copytree(before, folder / "state")
    return found


def _bare(folder: Path, rows: int, sync: Sync) -> dict[str, Any]:
    import duckdb

    from airflow_reverse_etl.spec.columns import Column
    from airflow_reverse_etl.sql.statements.plan import plan_statement

    names = ("id", "email", "first_name", "score")
    statement = plan_statement(
        sync,
        query=QUERY,
        primary_key=["id"],
        columns=[Column(name) for name in names],
        source="duckdb",
        planner="duckdb",
    )
    columns = ", ".join(f"{name} AS c{at}" for at, name in enumerate(names))
    types = {"k0": "BIGINT", "f0": "BIGINT", "f1": "VARCHAR", "f2": "VARCHAR", "f3": "INTEGER"}
    [snapshot] = (folder / "state" / "syncs" / "bench" / "snapshot").glob("*.parquet")
    connection = duckdb.connect(config={"memory_limit": "1GB", "temp_directory": str(folder / "spill")})
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(f"ATTACH '{folder / 'source.duckdb'}' AS source (READ_ONLY)")
    found, seconds = _timed(
        lambda: connection.execute(
            f"WITH extracted AS (SELECT {columns} FROM ({_changed('source.customers')})),"
            f" mapped AS ({statement.mapped}), model AS ({statement.model(types)}),"
            f" snapshot AS (SELECT * FROM '{snapshot}')"
            " SELECT count(*), count(f0), count(f1), count(f2), count(f3) FROM model AS m FULL JOIN snapshot AS s"
            " ON m.key_hi = s.key_hi AND m.key_lo = s.key_lo"
            " WHERE m.key_hi IS NULL OR s.key_hi IS NULL OR m.fingerprint <> s.fingerprint"
        ).fetchone()
    )
    assert found is not None
    assert found[0] == rows // 100, found
    return {"plan": seconds}


if __name__ == "__main__":
    if "--one" in sys.argv:
        _one(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        for line in main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS):
            print(line)
