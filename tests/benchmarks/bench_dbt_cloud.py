"""1,000 deferred sensors and watchers of one dbt Cloud account. ``python -m tests.benchmarks.bench_dbt_cloud``.

First the triggers alone, half of them sensors', half watchers, in one process. Peer: 1,000 deferred tasks of the
official provider (``DbtCloudRunJobTrigger``), same server, same interval between polls. Then 1,000 watchers in
``airflow triggerer``: events are timed as a trigger yields them (its log) and as Airflow has stored them, one by one
with others' (its database); CPU and memory are of all its processes. dbt Cloud is
:mod:`tests.dbt_cloud.server`, in the parent process. Rates are reported for the interval measured and,
as that is shorter than people choose, for polls once a minute too.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_reverse_etl.dbt_cloud.models import RunStatus
from tests.dbt_cloud.server import DbtCloudServer
from tests.peak import peak

POLL = 10.0
WARM_UP = 20.0
MEASURED = 40.0
FINISHED = 80
ADMIN_API_LIMIT = 5_000  # requests a minute and account, docs.getdbt.com


def main(waiters: int = 1_000) -> list[dict[str, Any]]:
    """Ours with all, with a tenth of the waiters, and the peer."""
    many, few, official = _measure("ours", waiters), _measure("ours", waiters // 10), _measure("official", waiters)
    whole = _triggerer(waiters)
    tenth = f"{waiters // 10:,} waiters"
    peer = "official triggers"
    interval = ("intervals", "one interval", 1.0)
    return [
        _result(f"requests a minute, {waiters:,} waiters", many, "requests", "1/min", peer, official["requests"]),
        _result(f"requests a minute, {waiters:,} waiters", many, "requests", "1/min", tenth, few["requests"]),
        _result("the same, polling once a minute", many, "at_60", "1/min", "account's limit", ADMIN_API_LIMIT),
        _result("triggers alone: finish to event yielded, slowest", many, "slowest", *interval),
        _result("triggers alone: finish to event yielded, median", many, "median", "s", peer, official["median"]),
        _result(f"events missed or repeated, of {many['finished']}", many, "wrong", "events", peer, official["wrong"]),
        _result(f"CPU of the process, {waiters:,} waiters", many, "cpu", "%", peer, official["cpu"]),
        _result(f"memory for {waiters:,} waiters, above none", many, "memory", "MB", peer, official["memory"]),
        _result("airflow triggerer: finish to event yielded, slowest", whole, "yielded", *interval),
        _result("airflow triggerer: finish to event stored, slowest", whole, "slowest", *interval),
        _result("airflow triggerer: event yielded to stored, slowest", whole, "storing", "s", "", None),
        _result("airflow triggerer: event yielded to stored, median", whole, "storing_median", "s", "", None),
        _result(f"airflow triggerer: until all {waiters:,} watch, the first time", whole, "start", "s", "", None),
        _result("airflow triggerer: events missed or repeated", whole, "wrong", "events", "", None),
        _result("airflow triggerer: requests, polling once a minute", whole, "at_60", "1/min", tenth, few["at_60"]),
        _result("airflow triggerer: CPU", whole, "cpu", "%", "", None),
        _result("airflow triggerer: memory", whole, "memory", "MB", "without a trigger", whole["empty"]),
    ]


def _result(name: str, ours: dict[str, float], key: str, unit: str, peer: str, other: float | None) -> dict[str, Any]:
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
        own = {"AIRFLOW_HOME": folder, "AIRFLOW_CONN_DBT_CLOUD": json.dumps(connection), "PYTHONWARNINGS": "ignore"}
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **own}
        )
        while not (place / "ready").exists():
            time.sleep(0.1)
        time.sleep(WARM_UP)
        before = len(cloud.requests)
        finished = _finish_some(cloud, random.Random(7).sample(jobs, FINISHED), running)
        requests = len(cloud.requests) - before
        process.wait(60)
        found = json.loads((place / "result").read_text())
    return _judge(finished, found["events"]) | {
        "requests": round(requests * 60 / MEASURED, 1),
        "at_60": round(requests * POLL / MEASURED, 1),
        "cpu": round(found["cpu"] * 100, 1),
        "memory": round(found["memory"], 1),
    }


DAG = """
from airflow.sdk import DAG
from airflow_reverse_etl.triggers import dbt_cloud_job
with DAG("watching", schedule=[dbt_cloud_job("dbt_cloud", job, poll_interval={poll}) for job in range(1, {jobs} + 1)]):
    pass
"""


def _triggerer(waiters: int) -> dict[str, float]:
    """The watchers in Airflow's own triggerer; nothing else of Airflow runs beside it."""
    with DbtCloudServer() as cloud, tempfile.TemporaryDirectory() as folder:
        jobs = [cloud.add_job(job_id=number) for number in range(1, waiters + 1)]
        (Path(folder) / "dags").mkdir()
        (Path(folder) / "dags" / "watching.py").write_text(DAG.format(poll=POLL, jobs=waiters))
        connection = {"conn_type": "dbt_cloud", "host": cloud.url, "login": "11", "password": cloud.token}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "AIRFLOW_HOME": folder,
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__JSON_LOGS": "True",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "0",
            "AIRFLOW__TRIGGERER__CAPACITY": str(waiters + 100),
            "AIRFLOW_CONN_DBT_CLOUD": json.dumps(connection),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONWARNINGS": "ignore",
        }

        log = Path(folder) / "airflow.log"

        def airflow(*words: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "airflow", *words]
            with log.open("ab") as out:
                return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)

        airflow("db", "migrate").wait(120)
        idle = airflow("triggerer")
        time.sleep(WARM_UP)
        empty = _processes(idle.pid)[1]
        os.killpg(idle.pid, signal.SIGKILL)
        idle.wait()
        airflow("dag-processor", "--num-runs", "1").wait(120)
        process = airflow("triggerer")
        try:
            started = time.monotonic()
            while _watching(Path(folder)) < waiters:
                time.sleep(0.5)
            start = time.monotonic() - started
            time.sleep(POLL)
            before, cpu = len(cloud.requests), _processes(process.pid)[0]
            finished = _finish_some(cloud, random.Random(7).sample(jobs, FINISHED), {})
            requests, (used, memory) = len(cloud.requests) - before, _processes(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        yielded, stored = _yielded_events(log), _stored_events(Path(folder))
        storing = sorted(at - dict(yielded)[job] for job, at in stored)
        return _judge(finished, stored) | {
            "start": round(start, 1),
            "yielded": _judge(finished, yielded)["slowest"],
            "storing": round(storing[-1], 2),
            "storing_median": round(storing[len(storing) // 2], 2),
            "at_60": round(requests * POLL / MEASURED, 1),
            "cpu": round((used - cpu) / MEASURED * 100, 1),
            "memory": round(memory, 1),
            "empty": round(empty, 1),
        }


def _watching(home: Path) -> int:
    """How many watchers have begun: each has stored where."""
    with closing(sqlite3.connect(home / "airflow.db", timeout=30)) as database:
        return int(database.execute("select count(*) from asset_state_store").fetchone()[0])


def _yielded_events(log: Path) -> list[tuple[int, float]]:
    """When the triggerer took each event from its trigger, as it logs."""
    fired = [json.loads(line) for line in log.read_text().splitlines() if '"Trigger fired event"' in line]
    jobs = [re.search(r"'job_id': (\d+)", line["result"]) for line in fired]
    times = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in fired]
    return [(int(job[1]), at) for job, at in zip(jobs, times, strict=True) if job]


def _stored_events(home: Path) -> list[tuple[int, float]]:
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        rows = database.execute("select extra, timestamp from asset_event").fetchall()
    return [
        (json.loads(extra)["payload"]["job_id"], datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp())
        for extra, at in rows
    ]


def _processes(group: int) -> tuple[float, float]:
    """CPU seconds and resident megabytes of a process group (Linux)."""
    seconds, pages = 0, 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                seconds, pages = seconds + int(fields[11]) + int(fields[12]), pages + int(fields[21])
    return seconds / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _judge(finished: dict[int, float], events: list[tuple[int, float]]) -> dict[str, float]:
    """How late events were, and how many are missing or too many."""
    seen: dict[int, list[float]] = {}
    for job, at in events:
        seen.setdefault(job, []).append(at)
    late = sorted(seen[job][0] - at for job, at in finished.items() if job in seen)
    return {
        "slowest": round(late[-1] / POLL, 2),
        "median": round(late[len(late) // 2], 2),
        "wrong": len(set(finished) ^ set(seen)) + len(events) - len(seen),
        "finished": len(finished),
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
    from airflow_reverse_etl.dbt_cloud.consumption import Cursor
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

    before = peak()
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
    return {"events": events, "cpu": used, "memory": (peak() - before) / 2**20}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        about = json.loads(sys.argv[2])
        triggers = _ours(about) if sys.argv[1] == "ours" else _official(about)
        place = Path(sys.argv[3])
        (place / "result").write_text(json.dumps(asyncio.run(_run(triggers, place))))
    else:
        for row in main():
            print(json.dumps(row))
