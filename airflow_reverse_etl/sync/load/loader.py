"""Load: send a plan's change set, and settle every row by the destination's answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from airflow_reverse_etl.errors import FailurePolicyError
from airflow_reverse_etl.spec.field_types import rows_of
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import DAILY_LIMIT, Batch, JobRef, Outcome, Reason, reason_text, rows_text
from airflow_reverse_etl.sync.context import RunContext, Wait
from airflow_reverse_etl.sync.load.batches import Batcher
from airflow_reverse_etl.sync.load.change_reader import ChangeReader
from airflow_reverse_etl.sync.load.checkpoint_writer import CheckpointWriter
from airflow_reverse_etl.sync.load.delivery import Delivery
from airflow_reverse_etl.sync.load.jobs.job_loader import JobLoader
from airflow_reverse_etl.sync.load.jobs.rows import gathered
from airflow_reverse_etl.sync.load.jobs.terms import job_terms
from airflow_reverse_etl.sync.load.rate_limit import pace_of
from airflow_reverse_etl.sync.load.share import Share
from airflow_reverse_etl.sync.ports import (
    DailyLimitError,
    DescribesFields,
    Destination,
    LoadsInJobs,
    Plan,
    ReplacesObject,
    ResolvesConflicts,
)
from airflow_reverse_etl.sync.progress import Checkpoint

#: Most times that rows with a unique conflict are sent again. Each time but the last has settled some of them.
CONFLICT_ROUNDS = 10
#: Most rows with a unique conflict among which a load looks for cycles.
CYCLE_ROWS = 100


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a load.

    :param checkpoint: progress of the share, as it is saved.
    :param left: number of rows left for a later try.
    :param waiting: why these rows are left, if they can be sent after a wait.
    """

    checkpoint: Checkpoint
    left: int
    waiting: Wait | None = None


class Loader:
    """Sender of one plan, or of a share of it; made for one load.

    Guarantees:

    * A row is settled as accepted only after the destination's answer.
    * A checkpoint never claims more than what was answered, and a row that it has settled is not sent.
    * Nothing is sent or saved once another run may have the sync's lease, or ``RunTiming.confirmation`` after a
      later try of the same share has begun.
    * Before rows are sent with an operation that is not safe to repeat, a checkpoint announces them, so that after a
      crash they are known to be in doubt.

    What the outcome means for the run is decided in :mod:`airflow_reverse_etl.sync.run`.

    :param check_lease: raises RunConflictError if another run has taken over the lease.
    :param share: rows to send.
    :param collects: only read the results of the plan's jobs. The sync may have been edited since.
    """

    def __init__(
        self,
        sync: Sync,
        plan: Plan,
        destination: Destination,
        context: RunContext,
        *,
        check_lease: Callable[[], Awaitable[None]],
        share: Share,
        collects: bool = False,
    ) -> None:
        self._sync = sync
        self._plan = plan
        self._share = share
        self._workers = 1 if plan.whole else destination.capabilities.limits(sync).concurrency
        self._destination = destination
        self._store = context.store
        self._clock = context.clock
        self._grace = context.timing.grace
        terms = {} if collects else job_terms(sync, plan, destination)
        self._collects = collects
        self._batcher = Batcher(sync, destination.capabilities, run_id=plan.run_id, plan_id=plan.plan_id, jobs=terms)
        self._pace = pace_of(sync, destination, context)
        self._writer = CheckpointWriter(plan, share, context, check_lease=check_lease)
        self._delivery = Delivery(sync, plan, destination, context, writer=self._writer, pace=self._pace)
        self._jobs: JobLoader | None = None
        if isinstance(destination, LoadsInJobs) or collects:
            self._jobs = self._delivery.jobs = JobLoader(
                sync, plan, destination, context, writer=self._writer, delivery=self._delivery, terms=terms
            )
        self._ready: deque[Batch] = deque()

    @property
    def stopped(self) -> bool:
        """Return True if the load ended early: the destination is down, or asks for a long wait."""
        return self._delivery.stopping

    @property
    def poll_seconds(self) -> float:
        """Seconds between two questions for a job."""
        assert self._jobs is not None
        return self._jobs.interval

    async def load(self) -> Loaded:
        """Send the rows that are not settled yet, after the results of earlier jobs are read.

        On cancellation, takes no further batch, waits for those in flight, and saves the checkpoint.

        :raises ConfigurationError: raised by the destination, after the rows settled until then were saved.
        """
        await self._writer.begin()
        if self._plan.whole and self._is_shown():
            return Loaded(self._writer.checkpoint, 0)

        # Send.
        started = self._clock.monotonic()
        await self._destination.open(self._pace)
        try:
            if self._jobs:
                await self._jobs.resume(self._pace, self._share.rows)
            if not self._collects:
                await self._ask_for_fields()
                await (self._replace() if self._plan.whole else self._send())
        finally:
            # The process is alive, so it knows which of the announced rows were not sent, or sent and refused.
            checkpoint = self._writer.checkpoint
            checkpoint.end(self._clock.monotonic() - started)
            if not self._delivery.waiting:  # the next try has all attempts again
                checkpoint.returned = []
            self._record_spent(checkpoint)
            await self._destination.close()
            await self._writer.save()
        await self._pace.close()

        left = self._left(checkpoint)
        waiting = None if checkpoint.is_spent else self._delivery.waiting
        return Loaded(checkpoint, left, waiting if left else None)

    async def has_jobs_at_work(self, refs: Sequence[JobRef]) -> bool:
        """Return whether the destination still works on one of these jobs, as far as it answers."""
        assert self._jobs is not None
        await self._destination.open(self._pace)
        try:
            return await self._jobs.at_work(self._pace, refs)
        finally:
            await self._destination.close()
            await self._pace.close()

    async def _send(self) -> None:
        """Send the rows that are not settled yet."""
        for after, until in self._phases():
            if not self._delivery.stopping:
                await self._send_phase(after, until)
                await self._settle_conflicts()

    async def _send_phase(self, after: int, until: int) -> None:
        """Send the rows of one phase, and again those that jobs hand back."""
        if not self._jobs:
            await self._send_rows(after, until, self._writer.settled_before)
            return
        again = True
        while again and not self._delivery.stopping:
            self._jobs.take_returned()
            await self._send_rows(after, until, self._writer.settled_before | self._jobs.left_out)
            again = self._jobs.take_returned()

    async def _replace(self) -> None:
        """Send all rows as the new content of the destination's object, and show it.

        Until it is shown, nothing is delivered: no checkpoint says so, and a later try sends all rows again.
        """
        destination = self._destination
        assert isinstance(destination, ReplacesObject), "the registry refuses others"
        self._writer.hold()
        await destination.begin()
        try:
            await self._send()
            if self._delivery.stopping or self._left(self._writer.checkpoint):
                self._writer.forget()
            else:
                self._check_rejected()
                await self._writer.check()
                await destination.finish()
        except DailyLimitError:
            self._delivery.stopping = True
            self._writer.forget()
        except BaseException:
            self._writer.forget()
            raise
        finally:
            self._writer.release()

    def _check_rejected(self) -> None:
        """Make sure that a new content lacks no more rejected rows than the sync allows.

        :raises FailurePolicyError: it lacks more. The old content stays.
        """
        checkpoint = self._writer.checkpoint
        limit = self._sync.failure.max_rejected
        rejected = checkpoint.count(Outcome.REJECTED)
        if rejected <= rows_of(limit, self._plan.total + self._plan.planned.invalid):
            return
        reasons = "; ".join(map(reason_text, checkpoint.counted_reasons()[:3]))
        raise FailurePolicyError(
            f"{rejected:,} of {rows_text(self._plan.total)} rejected, more than {limit}, so the old content stays. "
            f"Most frequent: {reasons}",
            todo="correct the rows or the mapping, or allow more by failure.max_rejected",
            sync=self._sync.name,
            connection=self._sync.destination.connection,
        )

    def _is_shown(self) -> bool:
        """Return whether an earlier try has shown the new content: only then a checkpoint has settled rows."""
        return self._share.partition > 0 or (self._share.until > 0 and not self._left(self._writer.checkpoint))

    async def _ask_for_fields(self) -> None:
        """Let values be converted to the types of the destination's fields, if it describes them."""
        if isinstance(self._destination, DescribesFields) and self._destination.describes_fields:
            with contextlib.suppress(DailyLimitError):  # then no row is sent either
                self._batcher.convert(await self._destination.describe())

    def _left(self, checkpoint: Checkpoint) -> int:
        """Count the rows of the share that are left for a later try."""
        return len(self._share.rows - self._writer.settled_before - checkpoint.settled)

    def _record_spent(self, checkpoint: Checkpoint) -> None:
        """Record that the rows for whose absence there is no other reason wait for another day."""
        until = self._pace.spent_until
        rows = self._left(checkpoint) - sum(checkpoint.left.values())
        if until and rows > 0:
            checkpoint.leave(Reason(DAILY_LIMIT, str(DailyLimitError(until))), rows)

    def _phases(self) -> Iterator[tuple[int, int]]:
        """Yield the parts of the share that are sent in turn, as (after, until).

        Every removed row is answered, or left for a later try, before the rest begins: a new record may need a unique
        value of one that is deleted.
        """
        share = self._share
        end = min(max(share.after, self._plan.removed_first), share.until)
        for after, until in ((share.after, end), (end, share.until)):
            if until > after:
                yield after, until

    async def _send_rows(self, after: int, until: int, settled: RangeSet) -> None:
        """Send the rows numbered from ``after`` + 1 to ``until`` that are not settled yet."""
        reader = await self._read(settled.end_of(after + 1), until, settled)
        try:
            await self._work(reader)
        finally:
            await reader.close(self._grace)
        if self._jobs:
            await self._jobs.wait(0)

    async def _read(self, after: int, until: int, settled: RangeSet) -> ChangeReader:
        changes = await asyncio.to_thread(self._store.changes, self._plan, after=after, until=until)
        if self._jobs and self._jobs.terms:
            changes = gathered(changes, self._jobs.terms.values())
        return ChangeReader(changes, self._batcher, settled)

    async def _settle_conflicts(self) -> None:
        """Settle the rows that were put aside because of a unique conflict.

        Most of them wait for a record that has changed by now, or that changes when another of them is sent. So they
        are sent again until that settles none of them any more. Rows that then take each other's values are written
        together, if the destination can do that. The others are rejected.
        """
        delivery = self._delivery
        for _ in range(CONFLICT_ROUNDS):
            waiting = delivery.conflicts
            if not waiting or delivery.stopping:
                break
            delivery.conflicts = {}
            await self._send_rows(*_only(waiting))
            if len(delivery.conflicts) == len(waiting):
                break
        if delivery.conflicts and not delivery.stopping:
            await self._resolve_cycles()
        if not delivery.stopping:
            delivery.reject_conflicts()

    async def _resolve_cycles(self) -> None:
        """Let the destination write rows together that take each other's unique values, if they are few."""
        waiting = self._delivery.conflicts
        if len(waiting) > CYCLE_ROWS or not isinstance(self._destination, ResolvesConflicts):
            return
        reader = await self._read(*_only(waiting))
        try:
            batches = []
            while found := await reader.next():
                batches.append(found[0])
        finally:
            await reader.close(self._grace)
        if batches[0].operation in (Operation.UPSERT, Operation.UPDATE):  # no other operation gives a value up
            self._delivery.conflicts = {}
            await self._delivery.resolve(_joined(batches))

    async def _work(self, reader: ChangeReader) -> None:
        workers = [asyncio.create_task(self._worker(reader)) for _ in range(self._workers)]
        saver = asyncio.create_task(self._writer.save_regularly())
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        except BaseException:
            self._delivery.stopping = True
            raise
        finally:
            saver.cancel()
            try:
                await self._await_answers(workers)
            finally:
                for task in (*workers, saver):
                    task.cancel()
                results = await asyncio.gather(*workers, saver, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _await_answers(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """Wait for the answers to requests in flight, at most the seconds of grace."""
        time = asyncio.get_running_loop().time
        until = time() + self._grace
        waiting = {worker for worker in workers if not worker.done()}
        if waiting:
            await self._writer.try_to_save()  # the answers since the last save
        while waiting:
            timeout = max(0.0, until - time())
            answered, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not answered:
                return
            await self._writer.try_to_save()

    async def _worker(self, reader: ChangeReader) -> None:
        delivery = self._delivery
        try:
            while not delivery.stopping and (batch := await self._next(reader)) is not None:
                self._ready.extendleft(reversed(await delivery.deliver(batch)))
        except BaseException:
            delivery.stopping = True  # before another worker takes a batch
            raise

    async def _next(self, reader: ChangeReader) -> Batch | None:
        while not self._ready:
            found = await reader.next()
            if found is None:
                return None
            batch, failed = found
            for seq, receipt in failed.items():
                self._writer.checkpoint.fail(seq, receipt)
            if len(batch):
                self._ready.extend(self._delivery.split_in_doubt(batch))
        return self._ready.popleft()


def _only(seqs: Collection[int]) -> tuple[int, int, RangeSet]:
    """Return the arguments to read only these rows: ``after``, ``until``, and the rows to leave out."""
    wanted = RangeSet()
    wanted.update(sorted(seqs))
    after = min(seqs) - 1
    until = max(seqs)
    return after, until, RangeSet(range(after + 1, until + 1)) - wanted


def _joined(batches: Sequence[Batch]) -> Batch:
    """Return one batch with the rows of all."""
    return replace(
        batches[0],
        seqs=list(chain.from_iterable(batch.seqs for batch in batches)),
        keys=list(chain.from_iterable(batch.keys for batch in batches)),
        records=list(chain.from_iterable(batch.records for batch in batches)),
    )
