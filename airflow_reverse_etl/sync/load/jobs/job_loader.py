"""Jobs of a load: handing them over, waiting for the destination, and settling them by its results."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

from airflow_reverse_etl.errors import ConfigurationError, UnreachableError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import (
    DAILY_LIMIT,
    Batch,
    JobRef,
    JobState,
    Outcome,
    Reason,
    Receipt,
    Receipts,
)
from airflow_reverse_etl.sync.context import LONGEST_WAIT, RunContext, Wait
from airflow_reverse_etl.sync.load.checkpoint_writer import CheckpointWriter
from airflow_reverse_etl.sync.load.delivery import Delivery, not_sent_today
from airflow_reverse_etl.sync.load.jobs.rows import read_rows
from airflow_reverse_etl.sync.load.jobs.terms import wait_for_jobs
from airflow_reverse_etl.sync.ports import DailyLimitError, Destination, JobTerms, LoadsInJobs, Plan

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.ports import Limiter

#: Most times that a load sends a row again which jobs have handed back.
MOST_RETURNS = 3

#: Seconds between two questions for a job of another destination.
_USUAL_INTERVAL = 30.0

#: Time after which others may have the slot of a job that nobody asks for, because its owner was killed or is deferred
#: for longer. A higher value lets others wait longer for a killed one, a lower one lets more jobs be open than allowed.
_SLOT_KEPT = timedelta(hours=1)

NOT_NAMED = Receipt(Outcome.UNKNOWN, "not_in_results", "sent in a job whose results do not name the row")
GONE = Receipt(Outcome.UNKNOWN, "job_unknown", "sent in a job that the destination does not know any more")


class JobLoader:
    """Jobs of one load.

    :param terms: operations whose rows are sent in jobs.
    """

    def __init__(
        self,
        sync: Sync,
        plan: Plan,
        destination: Destination,
        context: RunContext,
        *,
        writer: CheckpointWriter,
        delivery: Delivery,
        terms: Mapping[Operation, JobTerms],
    ) -> None:
        self.terms = terms
        self._sync = sync
        self._plan = plan
        self._destination = cast(LoadsInJobs, destination)  # otherwise all jobs are of another one
        self.interval = getattr(destination, "poll_seconds", _USUAL_INTERVAL)
        self._context = context
        self._clock = context.clock
        self._writer = writer
        self._delivery = delivery
        self._lock = asyncio.Lock()
        self._open: dict[str, JobRef] = {}
        self._limiter: Limiter | None = None
        self._again = False

    def takes(self, operation: Operation) -> bool:
        """Return whether the rows of an operation are sent in jobs."""
        return operation in self.terms

    @property
    def left_out(self) -> RangeSet:
        """Rows that are not sent now: settled, in an open job, put aside, or handed back too often."""
        checkpoint = self._writer.checkpoint
        in_jobs = RangeSet(*(numbers for ref in self._open.values() for numbers in ref.rows))
        return (
            checkpoint.settled | in_jobs | _numbers(self._delivery.conflicts) | checkpoint.handed_back(MOST_RETURNS + 1)
        )

    def take_returned(self) -> bool:
        """Return whether jobs have handed rows back that are to be sent again, since the last call."""
        again = self._again
        self._again = False
        return again

    async def resume(self, limiter: Limiter, rows: RangeSet) -> None:
        """Begin with the jobs that earlier loads have left open, and wait for them.

        :param limiter: of every request.
        :param rows: rows of this load; jobs of other rows are left alone.
        """
        self._limiter = limiter
        self._open = {ref.job: ref for ref in self._writer.jobs_before if ref.rows & rows}
        if self._open:
            await self._look()
            await self.wait(0)

    async def hand_over(self, batch: Batch) -> Receipts | None:
        """Send a batch as a job; returns the answer if it has not become one.

        :returns: None also if the load stops before that; the rows are then left.
        """
        async with self._lock:
            terms = self.terms[batch.operation]
            if not await self._may_begin(batch, terms):
                return None
            if terms.starts == "at_once":
                await self._writer.announce(batch.seqs[-1], batch.seqs[-1])
            await self._writer.check()
            receipts = await self._submit(batch, terms)
            if receipts is not None:
                await self._free_slot(self._sync.destination.connection or "", min(batch.seqs))
            return receipts

    async def _submit(self, batch: Batch, terms: JobTerms) -> Receipts | None:
        ref: JobRef | None = None
        try:
            async with contextlib.aclosing(self._destination.submit(batch)) as steps:
                async for step in steps:
                    if isinstance(step, Receipts):
                        return step if ref is None else await self._not_uploaded(ref, step)
                    ref = self._ref(batch, terms, step)
                    self._open[step] = ref
                    self._writer.checkpoint.begin_job(ref)
                    self._writer.checkpoint.add_requests(1)
                    await self._writer.save()
        except DailyLimitError as error:
            receipts = not_sent_today(error)
            return receipts if ref is None else await self._not_uploaded(ref, receipts)
        except BaseException:
            if ref is None and terms.starts == "at_once":  # the request may have been carried out
                self._writer.checkpoint.doubt(batch.seqs)
            raise
        self._context.observer.event("job_begun", sync=self._sync.name, job=ref.job if ref else "", rows=len(batch))
        return None

    async def _not_uploaded(self, ref: JobRef, receipts: Receipts) -> Receipts | None:
        """End a job whose upload failed, unless it is at work all the same; returns the answer if it is not."""
        try:
            state = await self._destination.poll(ref)
            if state is not JobState.OPEN:
                return None
            await self._destination.abort(ref)
        except (UnreachableError, DailyLimitError):
            return None  # the next look finds out
        await self._end(ref, RangeSet())
        return receipts

    def _ref(self, batch: Batch, terms: JobTerms, job: str) -> JobRef:
        now = self._clock.now()
        destination = self._sync.destination
        fields = list(self._sync.mapping)
        return JobRef(
            type=destination.type,
            connection=destination.connection or "",
            object=str(destination.object or ""),
            operation=batch.operation,
            job=job,
            rows=_numbers(batch.seqs),
            started_at=now,
            deadline=now + terms.patience,
            match_on=tuple((name, fields.index(name)) for name in destination.match_on if name in fields),
        )

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def wait(self, most: int) -> bool:
        """Wait until at most so many jobs are open.

        A load that can wait without a worker ends before it waits for long. Any other waits under its lease.

        :returns: False if the load stops before that.
        """

        async def few_enough() -> bool:
            return len(self._open) <= most

        return await self._wait_until(few_enough)

    async def _may_begin(self, batch: Batch, terms: JobTerms) -> bool:
        """Wait until another job may be open, of this load and of all tasks on the connection."""

        async def has_slot() -> bool:
            return len(self._open) < terms.max_jobs and await self._take_slot(connection, first, terms.max_jobs)

        connection = self._sync.destination.connection or ""
        first = min(batch.seqs)

        return await self._wait_until(has_slot)

    async def _wait_until(self, ready: Callable[[], Awaitable[bool]]) -> bool:
        interval = self.interval
        waited = 0.0
        while not self._delivery.stopping and not await ready():
            if any(self._clock.now() >= ref.deadline for ref in self._open.values()):
                self._give_up()
            elif self._context.deferrable and waited + interval > LONGEST_WAIT:
                self._delivery.stop_for(self._wait(self._clock.now() + timedelta(seconds=interval)))
            else:
                await self._clock.sleep(interval)
                waited += interval
                await self._look()
        return not self._delivery.stopping

    def _wait(self, until: datetime) -> Wait:
        if self._open:
            return wait_for_jobs(self._open.values(), until, planned=True)
        connection = self._sync.destination.connection
        return Wait(until, f"connection {connection!r} has as many open jobs as it may have", planned=True)

    # -- slots -----------------------------------------------------------------------------------------------------

    async def _take_slot(self, connection: str, first: int, most: int) -> bool:
        """Take one of a connection's slots for the job that begins with a row, or keep it."""
        budget = self._context.budget
        if budget is None or not connection:
            return True
        now = self._clock.now()
        take = partial(budget.take_slot, most=most, now=now, until=now + _SLOT_KEPT)
        return await asyncio.to_thread(take, connection, self._holder(first))

    async def _free_slot(self, connection: str, first: int) -> None:
        if self._context.budget and connection:
            with contextlib.suppress(UnreachableError):  # it is free after a while
                await asyncio.to_thread(self._context.budget.free_slot, connection, self._holder(first))

    def _holder(self, first: int) -> str:
        """Name a job before it has an id, so that every process of the sync finds the same name."""
        return f"{self._sync.name} {first}"

    async def at_work(self, limiter: Limiter, refs: Sequence[JobRef]) -> bool:
        """Return whether one of these jobs is at work, or cannot be asked for."""
        self._limiter = limiter
        try:
            for ref in refs:
                async with self._asked(ref) as destination:
                    if await destination.poll(ref) is JobState.RUNNING:
                        return True
        except (UnreachableError, DailyLimitError):
            return True
        return False

    def _give_up(self) -> None:
        """Stop the load. Its jobs continue, and the next try asks for them."""
        self._delivery.stopping = True
        for ref in self._open.values():
            text = f"job {ref.job} had no result by {ref.deadline:%Y-%m-%d %H:%M} UTC"
            self._writer.checkpoint.leave(Reason("job_running", text), len(ref.rows - self._writer.checkpoint.settled))

    async def _look(self) -> None:
        """Ask for the state of each open job, and settle the rows of those that are not at work any more."""
        for ref in list(self._open.values()):
            try:
                await self._look_at(ref)
            except UnreachableError as error:  # it may answer the next time
                text = f"job {ref.job} cannot be asked for: {error.what}"
                self._context.observer.event("warning", sync=self._sync.name, text=text)
            except DailyLimitError as error:
                self._delivery.stopping = True
                rows = len(ref.rows - self._writer.checkpoint.settled)
                self._writer.checkpoint.leave(Reason(DAILY_LIMIT, str(error)), rows)

    async def _look_at(self, ref: JobRef) -> None:
        async with self._asked(ref) as destination:
            state = await destination.poll(ref)
            self._writer.checkpoint.add_requests(1)
            if state is JobState.RUNNING:
                with contextlib.suppress(UnreachableError):
                    # It is open, so it counts, even if its slot was free meanwhile.
                    await self._take_slot(ref.connection, ref.rows.first, sys.maxsize)
                return
            await self._writer.check()
            if state is JobState.OPEN:
                await destination.abort(ref)
                await self._end(ref, RangeSet(), again=ref.rows - self._writer.checkpoint.settled)
            else:
                await self._settle(ref, destination, state)

    @contextlib.asynccontextmanager
    async def _asked(self, ref: JobRef) -> AsyncIterator[LoadsInJobs]:
        """Yield the destination that is asked for a job: the sync's, or that of the job if it is another one."""
        destination = self._sync.destination
        if (ref.type, ref.connection) == (destination.type, destination.connection or ""):
            yield self._destination
            return
        if self._context.asks_for is None:
            raise ConfigurationError(
                f"job {ref.job} was sent by connection {ref.connection!r}, which the sync does not name any more",
                todo="restore the sync's destination until its jobs are collected",
                sync=self._sync.name,
            )
        assert self._limiter is not None
        other = self._context.asks_for(ref)
        await other.open(self._limiter)
        try:
            yield other
        finally:
            await other.close()

    # -- results ---------------------------------------------------------------------------------------------------

    async def _settle(self, ref: JobRef, destination: LoadsInJobs, state: JobState) -> None:
        """Settle the rows of a job that has ended, page by page."""
        checkpoint = self._writer.checkpoint
        batch = await asyncio.to_thread(self._rows_of, ref)
        position = {key: at for at, key in enumerate(batch.keys)}
        lost = RangeSet()
        again = RangeSet()
        if state is JobState.FINISHED and position:
            async with contextlib.aclosing(destination.collect(ref, batch)) as pages:
                async for page in pages:
                    checkpoint.add_requests(1)
                    named = batch.only(sorted(position.pop(key) for key in page if key in position))
                    lost |= _numbers(seq for seq, key in _rows(named) if page[key].outcome is Outcome.UNKNOWN)
                    ids = {key: receipt.id for key, receipt in page.items() if receipt.id}
                    others = {key: one for key, one in page.items() if one.outcome is not Outcome.ACCEPTED}
                    again |= self._settled(named, Receipts(exceptions=others, ids=ids))
        unnamed = batch.only(sorted(position.values()))
        lost |= _numbers(unnamed.seqs)
        again |= self._settled(unnamed, Receipts(NOT_NAMED if state is JobState.FINISHED else GONE))
        await self._end(ref, lost - checkpoint.settled, again=again)

    def _settled(self, batch: Batch, receipts: Receipts) -> RangeSet:
        """Settle rows by their receipts; returns those to send again."""
        left = self._delivery.settle(batch, receipts) if len(batch) else None
        return _numbers(left.seqs if left else ())

    async def _end(self, ref: JobRef, lost: RangeSet, *, again: RangeSet | None = None) -> None:
        """Forget a job, in the same save that settles the last of its rows."""
        checkpoint = self._writer.checkpoint
        self._open.pop(ref.job, None)
        if again:
            checkpoint.hand_back(again)
            self._again = True
            if spent := again & checkpoint.handed_back(MOST_RETURNS + 1):
                text = f"sent {MOST_RETURNS + 1} times, and not processed by the destination"
                checkpoint.leave(Reason("not_processed", text), len(spent))
        checkpoint.end_job(ref, lost)
        await self._writer.save()
        await self._free_slot(ref.connection, ref.rows.first)
        self._context.observer.event("job_ended", sync=self._sync.name, job=ref.job, again=len(again or ()))

    def _rows_of(self, ref: JobRef) -> Batch:
        """Read the rows of a job that are not settled."""
        left = ref.rows - self._writer.checkpoint.settled
        return read_rows(self._context.store, self._plan, ref, left, distinct=self._sync.mode == "append")


def _rows(batch: Batch) -> Iterator[tuple[int, str]]:
    """Return the sequence number and the key of each row."""
    return zip(batch.seqs, batch.keys, strict=True)


def _numbers(seqs: Iterable[int]) -> RangeSet:
    found = RangeSet()
    found.update(sorted(seqs))
    return found
