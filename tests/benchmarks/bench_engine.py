"""Whole runs of the engine at size. ``python -m tests.benchmarks.bench_engine [rows]``.

Peak memory, of narrow rows and of wide ones, a run without changes, what checkpoints cost, and four loads beside one.
Where the engine is what is measured, the destination is one that accepts every batch at once. Each measurement has a
process of its own.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.receipts import Batch, Receipts
from airflow_reverse_etl.sync.clock import RunTiming
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.load.share import Share
from airflow_reverse_etl.sync.ports import Capabilities, ConnectionInfo, Destination, Limiter, usual
from airflow_reverse_etl.sync.run import Run, run_sync
from tests.benchmarks.contenders import sink
from tests.peak import peak

ROWS = 10_000_000
ROUNDS = 5
OFTEN = 0.1  # twenty times as often as usual, so that there are many in a load of seconds
DELAY = 0.1
LIMIT_MB = 1024
#: ``memory_limit`` and what a task needs besides, see docs/reference/configuration.md.
WIDE_LIMIT_MB = 900 + 600
_WIDE = 30
#: Of a sync to the sink that takes its time.
_SLOW = {"destination": {"type": "http", "connection": "sink", "path": "/v1/contacts", "rows": "single"}}
_NAMES = ("id", "email", "first_name", "score")


def main(rows: int = ROWS) -> list[dict[str, Any]]:
    """All measurements."""
    many = f"{rows:,} rows"
    with tempfile.TemporaryDirectory() as folder:
        _source(Path(folder), rows)
        first = _in_process(folder, "whole", rows)
        same = _in_process(folder, "whole", rows)
        results = [
            _result(f"whole sync, all rows new, {many}", first["seconds"], "s"),
            _result(f"peak memory of that sync, {many}", first["peak"], "MB", "target, at most", LIMIT_MB),
            _result(f"sync of no changes, {many}", same["seconds"], "s"),
            _result(f"peak memory of that sync, {many}", same["peak"], "MB", "target, at most", LIMIT_MB),
        ]
        wide = rows // 32
        shutil.rmtree(Path(folder) / "state")
        _wide_source(Path(folder), wide)
        found = _in_process(folder, "wide", wide)
        name = f"whole sync, {wide:,} rows of {_WIDE} texts of 200 characters"
        results += [
            _result(name, found["seconds"], "s"),
            _result(f"peak memory of that sync, {wide:,} wide rows", found["peak"], "MB", "documented", WIDE_LIMIT_MB),
        ]
        shutil.rmtree(Path(folder) / "state")
        few = rows // 4
        for mode, what in (("upsert", "safe to send twice"), ("insert", "not safe to send twice")):
            name = f"load of {few:,} rows, {what}, checkpoints every {OFTEN} s"
            results.append(_result(name, *_checkpoints(folder, mode, few)))
        return [*results, *_shares(folder)]


def _result(name: str, value: float, unit: str, peer: str = "", peer_value: float | None = None) -> dict[str, Any]:
    ratio = round(peer_value / value, 2) if peer_value else None
    return {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}


def _checkpoints(folder: str, mode: str, rows: int) -> tuple[float, str, str, float]:
    """CPU seconds of a load with many checkpoints, and with the last one alone, in turns."""
    state, planned = Path(folder) / "state", Path(folder) / "planned"
    shutil.rmtree(state, ignore_errors=True)
    _in_process(folder, "plan", rows, mode=mode)
    shutil.copytree(state, planned)
    found: dict[float, list[float]] = {OFTEN: [], 1e9: []}
    for _ in range(ROUNDS):
        for interval, seconds in found.items():
            shutil.rmtree(state)
            shutil.copytree(planned, state)
            seconds.append(_in_process(folder, "load", rows, mode=mode, interval=interval)["cpu"])
    shutil.rmtree(planned)
    often, once = map(median, found.values())
    return often, "CPU s", "one checkpoint", once


def _shares(folder: str, waves: int = 40, processes: int = 4, concurrency: int = 4) -> list[dict[str, Any]]:
    """Requests a second to a sink that takes its time: shares of a plan in processes beside one process."""
    rows, speeds = waves * processes * concurrency, {}
    for parts in (1, processes):
        shutil.rmtree(Path(folder) / "state", ignore_errors=True)
        _in_process(folder, "plan", rows, **_SLOW)
        with sink(DELAY) as url:
            loads = [
                _start(folder, "share", rows, part=part, parts=parts, url=url, concurrency=concurrency)
                for part in range(parts)
            ]
            spans = [json.loads(load.communicate()[0]) for load in loads]
        assert all(load.returncode == 0 for load in loads)
        speeds[parts] = rows / (max(span["ended"] for span in spans) - min(span["started"] for span in spans))
    name = f"sink of {DELAY * 1000:.0f} ms, {processes} loads of {concurrency} connections"
    result = _result(name, round(speeds[processes], 1), "requests/s", "1 load", round(speeds[1], 1))
    return [{**result, "ratio": round(speeds[processes] / speeds[1], 2)}]


def _source(folder: Path, rows: int) -> None:
    import duckdb

    with duckdb.connect(str(folder / "source.duckdb"), config={"memory_limit": "1GB"}) as connection:
        connection.execute(
            f"CREATE TABLE customers AS SELECT i AS id, 'user' || i || '@example.com' AS email,"
            f" 'First' || (i % 1000) AS first_name, (i % 100)::INT AS score FROM range({rows}) t(i)"
        )


def _wide_source(folder: Path, rows: int) -> None:
    import duckdb

    texts = ", ".join(f"repeat(md5((i * {_WIDE} + {at})::VARCHAR), 7)[:200] AS t{at}" for at in range(_WIDE))
    with duckdb.connect(str(folder / "source.duckdb"), config={"memory_limit": "1GB"}) as connection:
        connection.execute(f"CREATE TABLE wide AS SELECT i AS id, {texts} FROM range({rows}) t(i)")


def _start(folder: str, what: str, rows: int, **how: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.benchmarks.bench_engine", "--one", folder, what, str(rows), json.dumps(how)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def _in_process(folder: str, what: str, rows: int, **how: Any) -> dict[str, float]:
    with _start(folder, what, rows, **how) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, what
    found: dict[str, float] = json.loads(output)
    return found


# -- in a process of its own -------------------------------------------------------------------------------------------


class Accepting(Destination):
    """Accepts every batch at once."""

    capabilities = Capabilities(usual(1000))

    async def open(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def send(self, batch: Batch) -> Receipts:
        await self._limiter.acquire()
        await asyncio.sleep(0)
        return Receipts()

    async def close(self) -> None: ...


class Silent:
    def event(self, name: str, **facts: Any) -> None: ...


def _sync(mode: str = "upsert", **more: Any) -> Sync:
    return Sync.load(
        {
            "name": "bench",
            "model": "customers",
            "source": "warehouse",
            "mode": mode,
            "destination": {"type": "file", "url": "unused"},
            "mapping": {name: name for name in _NAMES},
            "guards": {"min_rows": 0},
            **more,
        }
    )


async def _one(folder: Path, what: str, rows: int, how: dict[str, Any]) -> dict[str, float]:
    import duckdb

    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.sync.clock import SystemClock
    from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

    store = LakeStore(str(folder / "state"))  # as it is by default
    context = RunContext("bench", store, observer=Silent(), clock=SystemClock())
    if what == "share":
        return await _share(context, how)
    if what == "load":
        return await _load(context, how)
    config: dict[str, Any] = {"memory_limit": "256MB", "threads": "1"}  # of the source: not what is measured
    warehouse = DuckDBWarehouse(duckdb.connect(str(folder / "source.duckdb"), read_only=True, config=config))
    query, started = f"SELECT * FROM customers LIMIT {rows}", time.perf_counter()
    sync = _sync(how.get("mode", "upsert"), **{name: how[name] for name in _SLOW if name in how})
    if what == "wide":
        sync = _sync(mapping={f"t{at}": f"t{at}" for at in range(_WIDE)})
    if what in ("whole", "wide"):
        table = "wide" if what == "wide" else "customers"
        await run_sync(sync, SourceModel(f"SELECT * FROM {table}", ("id",), warehouse), Accepting(), context)
        seconds = time.perf_counter() - started
        return {
            "seconds": round(seconds, 2),
            "peak": peak() // 2**20,
        }
    steps = Run(sync, context)
    request = steps.request(SourceModel(query, ("id",), warehouse))
    async with steps.lease():
        await steps.plan(request, warehouse, Accepting())
    return {}


async def _load(context: RunContext, how: dict[str, Any]) -> dict[str, float]:
    [plan] = context.store.unfinished("bench")
    timed = replace(context, timing=RunTiming(checkpoint=how["interval"]))
    steps = Run(_sync(how["mode"]), timed)
    async with steps.lease():
        before = time.process_time()
        await steps.load(plan, Accepting())
        return {"cpu": round(time.process_time() - before, 2)}


async def _share(context: RunContext, how: dict[str, Any]) -> dict[str, float]:
    from airflow_reverse_etl.destinations.registry import create

    sync = _sync(**_SLOW, rate={"concurrency": how["concurrency"]})
    [plan] = context.store.unfinished("bench")
    destination = create(sync, connection=ConnectionInfo("sink", host=how["url"]))
    steps = Run(sync, context)
    async with steps.lease(release=False):
        started = time.monotonic()
        await steps.load(plan, destination, Share.of(plan, how["part"], how["parts"]))
        return {"started": started, "ended": time.monotonic()}


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(asyncio.run(_one(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5])))))
    else:
        for line in main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS):
            print(line)
