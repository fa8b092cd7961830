"""A bulk API in memory: it takes rows in jobs, and answers later."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import ACCEPTED, Batch, JobRef, JobState, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import USUAL, Capabilities, JobTerms, Limiter
from airflow_reverse_etl.testing.fakes import CountingLimiter, CrashError, Table

#: Points of a job's life at which a process may die, in their order.
Arrow = Literal[
    "before create", "after create", "saved", "mid-upload", "before close", "after close", "in poll", "between pages",
    "collected",
]  # fmt: skip


@dataclass(slots=True)
class JobDials:
    """Exact failures of a :class:`FakeBulkApi`. Jobs are numbered from 1 in the order in which they are created.

    :param polls: number of questions that find a job at work, before one finds it finished.
    :param lose_answer: jobs that are created, and the answer to that is lost.
    :param fail_upload: jobs whose upload fails.
    :param lose_rows: identifiers that no result names, though their rows are written.
    :param unprocessed: identifiers that a job does not process, each as often as the number says.
    :param reject: identifiers that are rejected.
    :param vanish: jobs that nobody knows once they are finished; their rows are written.
    :param unreachable: number of next questions that find no connection.
    :param die: point at which the process dies, once.
    """

    polls: int = 1
    lose_answer: Collection[int] = ()
    fail_upload: Collection[int] = ()
    lose_rows: Collection[str] = ()
    unprocessed: dict[str, int] = field(default_factory=dict)
    reject: Collection[str] = ()
    vanish: Collection[int] = ()
    unreachable: int = 0
    die: Arrow | Literal[""] = ""


@dataclass(slots=True)
class FakeJob:
    """A job as the fake API knows it."""

    number: int
    operation: Operation
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    state: Literal["open", "closed", "done", "aborted"] = "open"
    polls: int = 0
    results: list[tuple[str, Receipt]] = field(default_factory=list)


class FakeBulkApi:
    """Destination whose rows go in jobs. It outlives the processes that use it, as a real one does.

    ``table`` has the written rows by identifier. ``jobs`` has every job that was created, by id, and
    ``asked`` each question for the state of one. ``died`` is True once a dial let a process die.

    :param starts: when it begins to work on rows; see :class:`~airflow_reverse_etl.sync.ports.JobTerms`.
    :param match_on: field that identifies a record; the results echo it in upper case, with blanks around it.
    """

    def __init__(
        self,
        starts: Literal["on_close", "at_once"] = "on_close",
        dials: JobDials | None = None,
        *,
        match_on: str = "id",
        capabilities: Capabilities | None = None,
        max_rows: int = 4,
        max_jobs: int = 1,
        patience: timedelta = timedelta(hours=24),
        poll_seconds: float = 20.0,
        page: int = 2,
    ) -> None:
        self.dials = dials or JobDials()
        self.capabilities = capabilities or Capabilities(USUAL)
        self.poll_seconds = poll_seconds
        self.terms = JobTerms(starts, max_rows=max_rows, max_jobs=max_jobs, patience=patience)
        self.table = Table()
        self.jobs: dict[str, FakeJob] = {}
        self.asked: list[str] = []
        self.died = False
        self.opened = 0
        self.closed = 0
        self._match_on = match_on
        self._page = page
        self._limiter: Limiter = CountingLimiter()

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the records that the API has now, by identifier."""
        return self.table.rows

    async def open(self, limiter: Limiter) -> None:
        self.opened += 1
        self._limiter = limiter

    async def close(self) -> None:
        self.closed += 1

    async def send(self, batch: Batch) -> Receipts:  # noqa: ARG002 - the protocol's
        raise AssertionError("all rows go in jobs")

    def job_terms(self, operation: Operation, rows: int) -> JobTerms | None:  # noqa: ARG002 - the same for all
        return self.terms

    async def submit(self, batch: Batch) -> AsyncGenerator[str | Receipts, None]:
        self._die("before create")
        await self._limiter.acquire()
        number = len(self.jobs) + 1
        id_ = f"job-{number}"
        job = self.jobs[id_] = FakeJob(number, batch.operation)
        rows = [
            (self._identifier(key, record), copy.deepcopy(dict(record)))
            for key, record in zip(batch.keys, batch.records, strict=True)
        ]
        if self.terms.starts == "at_once":
            job.rows = rows
            self._work(job)
        self._die("after create")
        if number in self.dials.lose_answer:
            outcome = Outcome.UNKNOWN if self.terms.starts == "at_once" else Outcome.RETRYABLE
            yield Receipts(Receipt(outcome, "timeout", "no answer"))
            return
        yield id_
        self._die("saved")
        if self.terms.starts == "at_once":
            return
        await self._limiter.acquire()
        job.rows = rows[: len(rows) // 2]
        self._die("mid-upload")
        if number in self.dials.fail_upload:
            yield Receipts(Receipt(Outcome.RETRYABLE, "503", "the upload failed"))
            return
        job.rows = rows
        self._die("before close")
        await self._limiter.acquire()
        if job.state == "open":
            self._work(job)
        self._die("after close")

    async def poll(self, ref: JobRef) -> JobState:
        self._die("in poll")
        await self._limiter.acquire()
        self.asked.append(ref.job)
        if self.dials.unreachable:
            self.dials.unreachable -= 1
            raise UnreachableError("the bulk API does not answer", todo="try again later")
        job = self.jobs.get(ref.job)
        if job is None or job.number in self.dials.vanish:
            return JobState.GONE
        if job.state == "open":
            return JobState.OPEN
        job.polls += 1
        if job.state == "closed" and job.polls > self.dials.polls:
            job.state = "done"
        return JobState.RUNNING if job.state == "closed" else JobState.FINISHED

    async def abort(self, ref: JobRef) -> None:
        await self._limiter.acquire()
        job = self.jobs[ref.job]
        assert job.state == "open", "nothing that is at work is aborted"
        job.state = "aborted"

    async def collect(self, ref: JobRef, batch: Batch) -> AsyncGenerator[Mapping[str, Receipt], None]:
        keys = {
            self._identifier(key, record).strip().lower(): key
            for key, record in zip(batch.keys, batch.records, strict=True)
        }
        results = self.jobs[ref.job].results
        for start in range(0, len(results), self._page):
            await self._limiter.acquire()
            page = {}
            for echoed, receipt in results[start : start + self._page]:
                key = keys.get(echoed.strip().lower())
                if key is not None:
                    page[key] = receipt
            yield page
            self._die("between pages")
        self._die("collected")

    def _work(self, job: FakeJob) -> None:
        """Do the work of a job. Its results are read later."""
        job.state = "closed"
        for identifier, record in job.rows:
            receipt = self._write(job.operation, identifier, record)
            if identifier not in self.dials.lose_rows:
                job.results.append((f" {identifier.upper()} ", receipt))
        job.results.reverse()

    def _write(self, operation: Operation, identifier: str, record: Mapping[str, Any]) -> Receipt:
        if self.dials.unprocessed.get(identifier, 0) > 0:
            self.dials.unprocessed[identifier] -= 1
            return Receipt(Outcome.RETRYABLE, "unprocessed", "the job did not process the row")
        if identifier in self.dials.reject:
            return Receipt(Outcome.REJECTED, "rejected", "the row is not acceptable")
        if not self.table.write(operation, identifier, record):
            return Receipt(Outcome.SKIPPED, "not_found", "row not found")
        return ACCEPTED

    def _identifier(self, key: str, record: Mapping[str, Any]) -> str:
        return str(record.get(self._match_on, key))

    def _die(self, at: Arrow) -> None:
        if self.dials.die == at:
            self.dials.die = ""
            self.died = True
            raise CrashError(f"the process dies {at}")
