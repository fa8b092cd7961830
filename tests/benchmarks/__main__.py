"""``make bench``: throughput beside other tools on the same rows to the same sink, and the time of a plan.

Each contender runs in a process, and where it is another tool in an environment, of its own (``build/bench``). A
contender's seconds run from its first query to the end of its work, imports left out; ours include the plan and the
committed snapshot. Results also go to ``build/bench.json``: ``name``, ``value`` of ours, ``unit``, ``peer``,
``peer_value`` in the same unit, ``ratio`` (above 1: ours is better).
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import duckdb

from tests.benchmarks import contenders
from tests.benchmarks.contenders import BARE, BUILD, DLT, DRT, FASTEST, OURS, Contender, Task

_ROWS = """
create or replace table customers as
select i as id, 'user' || i || '@example.com' as email, 'First' || (i % 1000) as first_name, (i % 100)::int as score
from range({}) numbers(i)
"""
DELAY = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    value: float
    unit: str
    peer: str
    peer_value: float | None
    ratio: float | None

    def line(self) -> str:
        peer = "" if self.peer_value is None else _number(self.peer_value)
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return f"{self.name:<46} {_number(self.value):>9} {self.unit:<10} {self.peer:<16} {peer:>9} {ratio:>6}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


@dataclass(frozen=True, slots=True)
class Sizes:
    large: int
    small: int
    single: int
    waves: int  # requests of the slow sink for each connection
    repetitions: int
    plan: int


FULL = Sizes(large=1_000_000, small=100_000, single=20_000, waves=60, repetitions=3, plan=10_000_000)
QUICK = Sizes(large=100_000, small=20_000, single=2_000, waves=20, repetitions=1, plan=1_000_000)


def compare(name: str, peers: list[Contender], task: Task, repetitions: int) -> list[Result]:
    """Ours beside each peer, in rows per second: medians, of the ratio too, as a round is disturbed as a whole."""
    found = contenders.throughput([OURS, *peers], task, repetitions=repetitions)
    ours = found[OURS.name]
    results = []
    for peer in peers:
        theirs = found[peer.name]
        ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
        results.append(Result(name, median(ours), "rows/s", peer.name, median(theirs), ratio))
        print(results[-1].line(), flush=True)
    return results


def slow_sink(database: str, waves: int) -> list[Result]:
    """Ours alone, to a sink that takes ``DELAY`` to answer; the peer is what the connections allow at most."""
    results = []
    for concurrency in (1, 4, 16, 64):
        task = Task(database, rows=waves * concurrency, batch=1, concurrency=concurrency)
        value = task.rows / contenders.measure(OURS, task, delay=DELAY)
        ideal = concurrency / DELAY
        name = f"sink of {DELAY * 1000:.0f} ms, {concurrency} connections"
        results.append(Result(name, value, "requests/s", "ideal", ideal, value / ideal))
        print(results[-1].line(), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="throughput and plan time")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one repetition")
    parser.add_argument("--no-plan", action="store_true", help="leave out the plan")
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    BUILD.mkdir(parents=True, exist_ok=True)
    database = str(BUILD / "source.duckdb")
    with duckdb.connect(database) as connection:
        connection.execute(_ROWS.format(sizes.large))
    print(f"{os.cpu_count()} cores; median of {sizes.repetitions}; ours is from source query to committed snapshot\n")
    batch, single = "100 rows a request, {:,} rows", "1 row a request, {:,} rows"
    results = [
        *compare(batch.format(sizes.large), [BARE, FASTEST], Task(database, sizes.large, 100, 16), sizes.repetitions),
        *compare(batch.format(sizes.small), [DRT, DLT], Task(database, sizes.small, 100, 16), sizes.repetitions),
        *compare(single.format(sizes.single), [BARE, FASTEST], Task(database, sizes.single, 1, 16), sizes.repetitions),
        *compare(single.format(sizes.single), [DRT, DLT], Task(database, sizes.single, 1, 16), 1),
        *slow_sink(database, sizes.waves),
    ]
    records = [asdict(result) for result in results]
    print("drt and dlt: no plan to measure; drt finds changes for SQL destinations only, dlt forwards every row")
    if not args.no_plan:
        from tests.benchmarks import bench_plan

        for record in bench_plan.main(sizes.plan):
            records.append(record)
            print(Result(**record).line(), flush=True)
    from tests.benchmarks import (
        bench_check,
        bench_dbt_cloud,
        bench_engine,
        bench_idle,
        bench_read,
        bench_salesforce,
        bench_vendors,
        bench_warehouse,
    )

    quick = (
        bench_idle.main,
        bench_check.main,
        partial(bench_engine.main, sizes.plan),
        partial(bench_read.main, sizes.large),
    )
    slow = () if args.quick else (bench_warehouse.main, bench_dbt_cloud.main, bench_vendors.main, bench_salesforce.main)
    for bench in (*quick, *slow):
        for record in bench():
            records.append(record)
            print(Result(**record).line(), flush=True)
    (BUILD.parent / "bench.json").write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
