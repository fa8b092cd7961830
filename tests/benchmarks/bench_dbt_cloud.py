"""1,000 deferred sensors and watchers of one dbt Cloud account in one process, as a triggerer runs them.

Peer: 1,000 deferred tasks of the official provider (``DbtCloudRunJobTrigger``), same server, same interval between
polls. dbt Cloud is :mod:`airflow_reverse_etl.testing.dbt_cloud`, in the parent process. Rates are reported for the
interval measured and, as that is shorter than people choose, for polls once a minute too. CPU is of the process with
the triggers only; Airflow's own work around them is not in it. ``python -m tests.benchmarks.bench_dbt_cloud``
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_reverse_etl.dbt.cloud import RunStatus
from airflow_reverse_etl.testing.dbt_cloud import DbtCloudServer

POLL = 10.0
WARM_UP = 20.0
MEASURED = 40.0
FINISHED = 80
ADMIN_API_LIMIT = 5_000  # requests a minute and account, docs.getdbt.com


def main(waiters: int = 1_000) -> list[dict[str, Any]]:
    """Ours with all, with a tenth of the waiters, and the peer."""
    many, few, official = _measure("ours", waiters), _measure("ours", waiters // 10), _measure("official", waiters)
    tenth = f"{waiters // 10:,} waiters"
    peer = "official triggers"
    return [
        _result(f"requests a minute, {waiters:,} waiters", many, "requests", "1/min", peer, official["requests"]),
        _result(f"requests a minute, {waiters:,} waiters", many, "requests", "1/min", tenth, few["requests"]),
        _result("the same, polling once a minute", many, "at_60", "1/min", "account's limit", ADMIN_API_LIMIT),
        _result("finish to event, slowest, in poll intervals", many, "slowest", "intervals", "one interval", 1.0),
        _result("finish to event, median", many, "median", "s", peer, official["median"]),
        _result(f"events missed or repeated, of {many['finished']}", many, "wrong", "events", peer, official["wrong"]),
        _result(f"CPU of the process, {waiters:,} waiters", many, "cpu", "%", peer, official["cpu"]),
        _result(f"memory for {waiters:,} waiters, above none", many, "memory", "MB", peer, official["memory"]),
    ]


def _result(name: str, ours: dict[str, float], key: str, unit: str, peer: str, other: float) -> dict[str, Any]:
    value = ours[key]
    ratio = round(value / other, 4) if other else None
    return {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": other, "ratio": ratio}


def _measure(kind: str, waiters: int) -> dict[str, float]:
    with DbtCloudServer() as cloud, tempfile.TemporaryDirectory() as folder:
        jobs = [cloud.add_job(job_id=number) for number in range(1, waiters + 1)]
        running = {job: cloud.add_run(job, status=RunStatus.RUNNING) for job in jobs} if kind == "official" else {}
        connection = {"conn_type": "dbt_cloud", "host": cloud.url, "login": "11", "password": cloud.token}
        place = Path(folder)
        words = [sys.executable, "-m", "tests.benchmarks.bench_dbt_cloud", kind, json.dumps(running or jobs), folder]
        environment = {**os.environ, "AIRFLOW_CONN_DBT_CLOUD": json.dumps(connection), "PYTHONWARNINGS": "ignore"}
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        while not (place / "ready").exists():
            time.sleep(0.1)
        time.sleep(WARM_UP)
        before = len(cloud.requests)
        finished = _finish_some(cloud, random.Random(7).sample(jobs, FINISHED), running)
        requests = len(cloud.requests) - before
        process.wait(60)
        found = json.loads((place / "result").read_text())
    seen: dict[int, list[float]] = {}
    for job, at in found["events"]:
        seen.setdefault(job, []).append(at)
    late = sorted(seen[job][0] - at for job, at in finished.items() if job in seen)
    events = sum(map(len, seen.values()))
    return {
        "requests": round(requests * 60 / MEASURED, 1),
        "at_60": round(requests * POLL / MEASURED, 1),
        "slowest": round(late[-1] / POLL, 2),
        "median": round(late[len(late) // 2], 2),
        "wrong": len(set(finished) ^ set(seen)) + events - len(seen),
        "finished": len(finished),
        "cpu": round(found["cpu"] * 100, 1),
        "memory": round(found["memory"], 1),
    }


def _finish_some(cloud: DbtCloudServer, jobs: list[int], running: dict[int, int]) -> dict[int, float]:
    """Runs end at random times over the measured seconds, but for the last poll. Returns when each did."""
    finished: dict[int, float] = {}
    started = time.time()
    for job in jobs:
        due = started + (MEASURED - POLL * 1.5) * len(finished) / len(jobs)
        time.sleep(max(0.0, due - time.time()))
        finished[job] = time.time()
        if running:
            cloud.finish(running[job])
        else:
            cloud.add_run(job)
    time.sleep(max(0.0, started + MEASURED - time.time()))
    return finished


# --- in the process of the triggers ---


class _Store:
    """The asset state store, without its database."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = value


def _ours(jobs: list[int]) -> dict[int, Any]:
    """Every other one a watcher, every other one a deferred sensor."""
    from airflow_reverse_etl.dbt.cloud_cursor import Cursor
    from airflow_reverse_etl.triggers.dbt_cloud import DbtCloudJobTrigger, DbtCloudRunFinishedTrigger

    cursor = Cursor(datetime.now(UTC)).to_json()
    triggers: dict[int, Any] = {}
    for job in jobs:
        if job % 2:
            triggers[job] = DbtCloudJobTrigger("dbt_cloud", job, POLL)
            triggers[job].asset_state_store = _Store()
        else:
            triggers[job] = DbtCloudRunFinishedTrigger("dbt_cloud", job, POLL, cursor=cursor, only_success=True)
    return triggers


def _official(running: dict[int, int]) -> dict[int, Any]:
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    url_of = DbtCloudHook.get_request_url_params

    def plain_http(tenant: str, *args: Any, **kwargs: Any) -> Any:  # it knows https only
        url, data = url_of(tenant.removeprefix("http://"), *args, **kwargs)
        return url.replace("https://", "http://"), data

    DbtCloudHook.get_request_url_params = staticmethod(plain_http)
    end = time.time() + 3600
    return {
        int(job): DbtCloudRunJobTrigger("dbt_cloud", run, end, account_id=11, poll_interval=POLL)
        for job, run in running.items()
    }


async def _run(triggers: dict[int, Any], place: Path) -> dict[str, Any]:
    events: list[tuple[int, float]] = []

    async def follow(job: int, trigger: Any) -> None:
        async for _ in trigger.run():
            events.append((job, time.time()))  # noqa: PERF401  each with its own time

    before = _memory()
    tasks = [asyncio.create_task(follow(job, trigger)) for job, trigger in triggers.items()]
    await asyncio.sleep(0)
    (place / "ready").touch()
    await asyncio.sleep(WARM_UP)
    cpu, started = time.process_time(), time.monotonic()
    await asyncio.sleep(MEASURED)
    used = (time.process_time() - cpu) / (time.monotonic() - started)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"events": events, "cpu": used, "memory": _memory() - before}


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        about = json.loads(sys.argv[2])
        triggers = _ours(about) if sys.argv[1] == "ours" else _official(about)
        place = Path(sys.argv[3])
        (place / "result").write_text(json.dumps(asyncio.run(_run(triggers, place))))
    else:
        for row in main():
            print(json.dumps(row))
