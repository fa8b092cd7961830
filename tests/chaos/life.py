"""The life of one sync whose processes are killed: its model, its destination, and what must be true at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import psycopg2  # type: ignore[import-untyped]
from deltalake import DeltaTable

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.testing import Dials, FakeApi
from tests.chaos.loads import FORKS, Try, work

#: Seconds after which a process that is not killed must have ended.
PATIENCE = 60.0
#: Keys that the destination refuses.
REFUSED = frozenset({"k3", "k17"})


@dataclass(slots=True)
class Process:
    """One try, and the marks that it has sent."""

    attempt: Try
    pid: int
    marks: list[tuple[str, Any]] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    @property
    def step(self) -> str:
        return self.marks[-1][0] if self.marks else ""

    @property
    def result(self) -> Any:
        """The report, or (class, text) of an error."""
        assert self.step in ("done", "failed"), f"{self.attempt.run_id} ended after {self.marks}"
        return self.marks[-1][1]

    @property
    def report(self) -> RunReport:
        assert isinstance(self.result, RunReport), self.result
        return self.result

    async def reached(self, step: str) -> bool:
        """Wait for a mark; False if the process ends without it."""
        async with asyncio.timeout(PATIENCE):
            while step not in self.times and not self.ended:
                self.news.clear()
                await self.news.wait()
        return step in self.times

    def signal(self, number: int) -> None:
        if not self.ended:
            os.kill(self.pid, number)


@dataclass
class Life:
    """A model in a DuckDB file, the state on disk, and an API that notes every request.

    :param mode: of the sync.
    :param on_unknown: what is done about rows that were sent and not answered.
    :param postgres: how to connect to the database that has the model and keeps the state instead, if one does.
    """

    folder: Path
    mode: str
    api: FakeApi
    on_unknown: str = "resend"
    postgres: Mapping[str, str] | None = None
    rows: int = 120
    random: Random = field(default_factory=lambda: Random(0))
    runs: int = 0
    source: dict[str, int] = field(default_factory=dict)
    models: dict[str, dict[str, int]] = field(default_factory=dict)
    reports: dict[str, tuple[Plan, RunReport]] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)

    @property
    def run_id(self) -> str:
        return f"run-{self.runs}"

    def sync(self) -> dict[str, Any]:
        return {
            "name": "contacts",
            "model": "customers",
            "source": "warehouse",
            "destination": FakeApi.options(),
            "mode": self.mode,
            "mapping": {"id": "id", "n": "n"},
            "guards": {"min_rows": 0, "max_removed": "100%"},
            "failure": {"max_rejected": "100%", "max_given_up": "100%", "on_unknown": self.on_unknown},
            "retry": {"max_attempts": 1000},
            "rate": {"batch_size": 5, "concurrency": 3},
            **({} if self.mode == "append" else {"primary_key": "id"}),
        }

    def next_run(self) -> None:
        """A new run of the DAG, with a model that has changed."""
        self.runs += 1
        for key in [key for key in self.source if self.random.random() < 0.1]:
            del self.source[key]
        keys = [f"k{number}" for number in range(self.rows * self.runs // 4 + self.rows)]
        for key in self.random.sample(keys, self.rows):
            self.source[key] = self.runs
        if self.mode == "append":  # what a run sent is told from what another one did by its number
            self.source = dict.fromkeys(self.source, self.runs)
        self.models[self.run_id] = dict(self.source)
        values = ", ".join(f"('{key}', {n})" for key, n in self.source.items())
        statements = f"create table {self.table} (id text, n int); insert into {self.table} values {values}"
        if self.postgres:
            with closing(psycopg2.connect(**self.postgres)) as connection, connection, connection.cursor() as cursor:
                cursor.execute(statements)
            return
        with duckdb.connect(str(self.database), config={"threads": 1}) as database:
            database.execute(statements)

    @property
    def table(self) -> str:
        return f"customers_{self.runs}"

    @property
    def database(self) -> Path:
        return self.folder / f"{self.run_id}.duckdb"

    @asynccontextmanager
    async def process(self, *, lease: float = 0.4) -> AsyncIterator[Process]:
        """A try of the current run, in a process that is gone at the end."""
        attempt = Try(
            self.sync(),
            self.folder / "state",
            self.database,
            self.postgres,
            self.table,
            self.api.connection(),
            self.run_id,
            lease,
        )
        ours, theirs = FORKS.Pipe(duplex=False)
        forked = FORKS.Process(target=work, args=(attempt, theirs))
        forked.start()
        theirs.close()
        assert forked.pid is not None
        process, loop = Process(attempt, forked.pid), asyncio.get_running_loop()

        def read() -> None:
            try:
                mark, facts = ours.recv()
            except EOFError:
                loop.remove_reader(ours.fileno())
                process.ended = True
            else:
                process.marks.append((mark, facts))
                process.times[mark] = time.monotonic()
                if mark == "commit":
                    self.reports[facts[0].plan_id] = facts
            process.news.set()

        loop.add_reader(ours.fileno(), read)
        try:
            yield process
            async with asyncio.timeout(PATIENCE):
                while not process.ended:
                    process.news.clear()
                    await process.news.wait()
        finally:
            process.signal(signal.SIGKILL)
            loop.remove_reader(ours.fileno())
            await asyncio.to_thread(forked.join)
            ours.close()
            forked.close()

    async def finish(self) -> RunReport:
        """The current run, undisturbed."""
        async with self.process() as process:
            pass
        return process.report

    async def kill(self, step: str, longest: dict[str, float]) -> bool:
        """Start a try and kill it somewhere in a step; False if the step was not reached, or over too soon.

        :param longest: seconds that each step took so far.
        """
        async with self.process() as process:
            if not await process.reached(step):
                return False
            await asyncio.sleep(self.random.random() * longest.get(step, 0.05))
            process.signal(signal.SIGKILL)
        _measure(process.times, longest)
        if process.step != step:
            return False
        self.killed[step] += 1
        return True

    async def stall(self, longest: dict[str, float]) -> bool:
        """Stop a try somewhere in its load, let the next try of the run end, and let the first go on.

        :returns: False if the load was over too soon.
        """
        async with self.process(lease=PATIENCE) as stalled:
            if not await stalled.reached("load"):
                return False
            await asyncio.sleep(self.random.random() * longest.get("load", 0.05))
            stalled.signal(signal.SIGSTOP)
            in_load = stalled.step == "load"
            async with self.process(lease=PATIENCE) as retry:
                pass
            assert isinstance(retry.result, RunReport), retry.result
            stalled.signal(signal.SIGCONT)
        _measure(retry.times, longest)
        return in_load

    # -- what must be true -----------------------------------------------------------------------------------------

    @property
    def written(self) -> Counter[tuple[str, int]]:
        """(key, value) → how often it was inserted; refused rows are left out."""
        records = [
            record
            for _, path, _, records in self.api.requests
            if path == f"/rows/{Operation.INSERT}"
            for record in records
        ]
        return Counter((record["id"], record["n"]) for record in records if record["id"] not in REFUSED)

    def planned(self, run_id: str) -> bool:
        """Whether there was a plan of this run that came to its commit."""
        return any(plan.run_id == run_id for plan, _ in self.reports.values())

    def unknown(self, run_id: str | None = None) -> int:
        """Rows that the reports say are in doubt."""
        return sum(report.unknown for plan, report in self.reports.values() if run_id in (None, plan.run_id))

    def check(self) -> None:
        """Everything that is promised, whatever was killed."""
        for plan, report in self.reports.values():
            outcomes = report.accepted + report.rejected + report.unknown + report.skipped - plan.skipped
            assert outcomes + report.retryable == plan.total == report.planned.total
        self._check_log()
        {"insert": self._check_insert, "append": self._check_append}.get(self.mode, self._check_state)()

    def _check_log(self) -> None:
        """The change log says of every run what its report says, and each row once."""
        logged: dict[str, Counter[str]] = {}
        for plan_id, outcome, _ in self.log():
            logged.setdefault(plan_id, Counter())[outcome] += 1
        sent = {plan_id: (plan, report) for plan_id, (plan, report) in self.reports.items() if plan.total}
        assert set(logged) == set(sent)
        for plan_id, (plan, report) in sent.items():
            counts = logged[plan_id]
            assert (counts["accepted"], counts["rejected"]) == (report.accepted, report.rejected)
            assert counts["unknown"] + counts["not sent"] == report.unknown + report.retryable
            assert counts["skipped"] == report.skipped - plan.skipped
            assert counts.total() == plan.total

    def log(self) -> list[tuple[str, str, str]]:
        """The change log: plan, outcome and change of each row."""
        sql = "select plan_id, outcome, change from "
        if self.postgres:
            with closing(psycopg2.connect(**self.postgres)) as connection, connection.cursor() as cursor:
                cursor.execute(f"{sql} reverse_etl.change_log")
                return cursor.fetchall()
        log = DeltaTable(self.folder / "state/syncs/contacts/change_log").to_pyarrow_dataset()
        return duckdb.from_arrow(log).query("log", f"{sql} log").fetchall()

    def _check_state(self) -> None:
        held = {key: record["n"] for key, record in self.api.table.rows.items()}
        wanted = {key: n for key, n in self.source.items() if key not in REFUSED}
        if self.mode == "upsert":  # a row that is gone from the model stays
            held = {key: n for key, n in held.items() if key in self.source}
        assert held == wanted

    def _check_insert(self) -> None:
        times = Counter(key for key, _ in self.written.elements())
        ever = {key for model in self.models.values() for key in model} - REFUSED
        self._check_once(set(self.source) - REFUSED, times, self.unknown())
        assert set(times) <= ever

    def _check_append(self) -> None:
        for run_id, model in self.models.items():
            number = int(run_id.removeprefix("run-"))
            times = Counter({key: count for (key, n), count in self.written.items() if n == number})
            if times or run_id == self.run_id:  # a run whose plan was never made did nothing
                self._check_once(set(model) - REFUSED, times, self.unknown(run_id))

    def _check_once(self, wanted: set[str], times: Counter[str], unknown: int) -> None:
        """Every row is there, once; those that are missing, or there again, are in doubt by the report."""
        again = {key for key, count in times.items() if count > 1}
        missing = wanted - set(times)
        assert len(again) + len(missing) <= unknown
        if self.on_unknown == "resend":
            assert not missing
        else:
            assert not again


def _measure(times: dict[str, float], longest: dict[str, float]) -> None:
    steps = sorted(times.items(), key=lambda item: item[1])
    for (step, began), (_, ended) in pairwise(steps):
        longest[step] = max(longest.get(step, 0.0) * 0.8, ended - began)


@asynccontextmanager
async def life(
    folder: Path, mode: str, on_unknown: str = "resend", *, seed: int, postgres: Mapping[str, str] | None = None
) -> AsyncIterator[Life]:
    async with FakeApi(Dials(latency=0.003, reject=REFUSED)) as api:
        yield Life(folder, mode, api, on_unknown, postgres, random=Random(seed))


def new_database(uri: str) -> dict[str, str]:
    """How to connect to a new database of a Postgres."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with closing(psycopg2.connect(uri)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"create database {name}")
    return {"dsn": uri, "dbname": name}
