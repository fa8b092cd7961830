"""Base class of HTTP destinations that take rows in jobs, and the driver that sends the requests of jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, final

from airflow_reverse_etl.destinations.http import HttpDestination, NotAnsweredError, Reply, Request
from airflow_reverse_etl.spec.receipts import Batch, JobRef, JobState, Receipt, Receipts

#: Flow that hands rows over: yields requests, and the job's id once; returns receipts if it made none.
Submission = Generator[Request | str, Any, Receipts | None]
#: Flow that reads results: yields requests, and pages of receipts by key of the row.
Results = Generator[Request | Mapping[str, Receipt], Any, None]


class HttpJobs(HttpDestination):
    """Destination with jobs, as :class:`~airflow_reverse_etl.sync.ports.LoadsInJobs` demands. Its flows do no I/O.

    A subclass adds ``poll_seconds`` and ``job_terms()``, and a class method ``for_jobs(connection)``.
    """

    def submission(self, batch: Batch) -> Submission:
        """Hand the rows of a batch over. A request that gets no answer raises NotAnsweredError in the flow."""
        raise NotImplementedError

    def state(self, ref: JobRef) -> Generator[Request, Reply, JobState]:
        """Ask for the state of a job."""
        raise NotImplementedError

    def ending(self, ref: JobRef) -> Generator[Request, Reply, None]:
        """Abort a job that is open."""
        raise NotImplementedError

    def results(self, ref: JobRef, batch: Batch) -> Results:
        """Read the results of a job that has ended."""
        raise NotImplementedError

    @final
    async def submit(self, batch: Batch) -> AsyncGenerator[str | Receipts, None]:
        """Run the flow that hands a batch over. Each request is sent once."""
        flow = self.submission(batch)
        try:
            step = next(flow)
            while True:
                if isinstance(step, str):
                    yield step
                    step = next(flow)
                    continue
                try:
                    reply = await self._exchange(step)
                except NotAnsweredError as lost:
                    step = flow.throw(lost)
                else:
                    step = flow.send(reply)
        except StopIteration as end:
            if end.value is not None:
                yield end.value

    @final
    async def poll(self, ref: JobRef) -> JobState:
        """Ask for the state of a job."""
        return await self._read(self.state(ref))

    @final
    async def abort(self, ref: JobRef) -> None:
        """End a job that is open."""
        await self._read(self.ending(ref))

    @final
    async def collect(self, ref: JobRef, batch: Batch) -> AsyncGenerator[Mapping[str, Receipt], None]:
        """Yield the results of a job, page by page."""
        flow = self.results(ref, batch)
        try:
            step = next(flow)
            while True:
                if isinstance(step, Request):
                    step = flow.send(await self._read(_once(step)))
                else:
                    yield step
                    step = next(flow)
        except StopIteration:
            return


def _once(request: Request) -> Generator[Request, Reply, Reply]:
    return (yield request)
