"""Sends batches, and settles every row by the destination's answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ReverseEtlError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import CONFLICT, DAILY_LIMIT, Batch, Outcome, Reason, Receipt, Receipts
from airflow_reverse_etl.sync.context import LONGEST_WAIT, RunContext, Wait
from airflow_reverse_etl.sync.load.backoff import Backoff
from airflow_reverse_etl.sync.load.checkpoint_writer import CheckpointWriter
from airflow_reverse_etl.sync.load.rate_limit import Pace
from airflow_reverse_etl.sync.ports import DailyLimitError, Destination, Plan, ResolvesConflicts

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.load.jobs.job_loader import JobLoader

#: Most rows of a load that wait for a record with their unique value. Others are rejected at once.
MOST_CONFLICTS = 100_000


def unrepeatable(plan: Plan, sync: Sync, destination: Destination) -> RangeSet:
    """Return the rows of a plan that are not safe to send twice."""
    found = RangeSet()
    if plan.whole:  # a later try begins a new content
        return found
    for change, rows in plan.ranges().items():
        if not destination.capabilities.idempotent(OPERATIONS[sync.mode].get(change)):
            found |= RangeSet(rows)
    return found


class Delivery:
    """Delivery of the batches of one load, for several workers at once.

    Attributes:

    * ``stopping``: True once no further batch is to be sent.
    * ``waiting``: why, if that is a wait.
    * ``conflicts``: sequence number → last receipt, of rows put aside because of a unique conflict. They are not
      settled: a load that dies leaves them to the next one.
    * ``jobs``: takes the batches of operations whose rows are sent in jobs, if there are any.

    :param writer: has the checkpoint in which rows are settled.
    :param pace: limiter that the destination waits for; it is paused if the destination asks for that.
    """

    def __init__(
        self,
        sync: Sync,
        plan: Plan,
        destination: Destination,
        context: RunContext,
        *,
        writer: CheckpointWriter,
        pace: Pace,
    ) -> None:
        self._sync = sync
        self._total = plan.total
        self._whole = plan.whole
        self._unrepeatable = unrepeatable(plan, sync, destination)
        self._destination = destination
        self._concurrency = destination.capabilities.limits(sync).concurrency
        self._observer = context.observer
        self._clock = context.clock
        self._writer = writer
        self._pace = pace
        self._backoff = Backoff()
        self._first_batch_lock = asyncio.Lock()
        self._tried: set[Operation] = set()  # operations with a batch that was answered, or left
        self._left_in_row = 0
        self.stopping = False
        self.conflicts: dict[int, Receipt] = {}
        self.waiting: Wait | None = None
        self.jobs: JobLoader | None = None

    def split_in_doubt(self, batch: Batch) -> Sequence[Batch]:
        """Separate the rows in doubt since an earlier load, if they are not safe to send twice, from the rest."""
        in_doubt_before = self._writer.in_doubt_before
        if not in_doubt_before or self._may_resend(batch):
            return [batch]
        in_doubt = [at for at, seq in enumerate(batch.seqs) if seq in in_doubt_before]
        if not in_doubt:
            return [batch]
        parts = [batch.only(sorted(set(range(len(batch))) - set(in_doubt)))]
        if self._lose(batch, in_doubt):
            parts.insert(0, batch.only(in_doubt))
        return [part for part in parts if len(part)]

    async def deliver(self, batch: Batch) -> Sequence[Batch]:
        """Send a batch until its rows are settled, or left for a later try; returns batches to send instead of it.

        The first batch of an operation is sent alone: if the sync misreads the replies, it costs one batch only.

        :raises ConfigurationError: the destination takes no further batch.
        :raises RunConflictError: another run has the lease, or a later try has begun.
        """
        if batch.operation in self._tried:
            return await self._deliver(batch)
        async with self._first_batch_lock:
            if batch.operation not in self._tried and not self.stopping:
                return await self._deliver(batch)
        if self.stopping:
            return ()
        return await self._deliver(batch)

    async def _deliver(self, batch: Batch) -> Sequence[Batch]:
        attempt = 0
        throttled = 0
        while True:
            receipts = await self._send(batch)
            if receipts is None:
                self._tried.add(batch.operation)
                return ()
            asked_to_wait = await self._obey(receipts, throttled + 1)

            batch, parts = self._split(batch, receipts)
            if not len(batch):
                return parts

            left = self.settle(batch, receipts)
            if receipts.stop is not None:
                if left is not None:
                    self._record_left(left, receipts)
                raise receipts.stop
            if left is None or len(left) < len(batch):
                self._left_in_row = 0
                self._tried.add(batch.operation)
            if left is None or parts:
                return [*parts, left] if left else parts

            # Send the other rows again, unless the attempts are used up.
            batch = left
            if asked_to_wait:
                throttled += 1
            else:
                attempt += 1
            if self.stopping or attempt >= self._backoff.attempts or throttled >= self._backoff.throttles:
                self._leave_for_later(batch, receipts)
                return ()
            if not asked_to_wait:
                await self._clock.sleep(self._backoff.wait(attempt))

    async def _send(self, batch: Batch) -> Receipts | None:
        """Send a batch once; returns None if it has become a job, which is answered later."""
        if self.jobs and self.jobs.takes(batch.operation):
            receipts = await self.jobs.hand_over(batch)
            return receipts and self._count(batch, receipts)
        if batch.seqs[-1] > self._writer.announced:
            await self._announce(batch)
        await self._writer.check()
        return await self._answer(batch, self._destination.send)

    def stop_for(self, wait: Wait) -> None:
        """End the load before a long wait."""
        self.stopping = True
        # Several may ask for a wait, such as requests in flight that are answered with different pauses.
        if self.waiting is None or wait.until > self.waiting.until:
            self.waiting = wait

    async def resolve(self, batch: Batch) -> None:
        """Let the destination write rows together that were put aside, and settle them.

        :raises RunConflictError: another run has the lease, or a later try has begun.
        """
        assert isinstance(self._destination, ResolvesConflicts)
        await self._writer.check()
        receipts = await self._answer(batch, self._destination.resolve)
        left = self.settle(batch, receipts)
        if left is not None:
            self._leave_for_later(left, receipts)

    def reject_conflicts(self) -> None:
        """Settle the rows that were put aside as rejected."""
        for seq, receipt in self.conflicts.items():
            self._writer.checkpoint.fail(seq, _rejected(receipt))
        self.conflicts = {}

    async def _answer(self, batch: Batch, send: Callable[[Batch], Awaitable[Receipts]]) -> Receipts:
        try:
            receipts = await send(batch)
        except DailyLimitError as error:
            receipts = not_sent_today(error)
        except BaseException as error:  # interrupted, perhaps after the rows were sent
            self._writer.checkpoint.doubt(batch.seqs)
            if isinstance(error, ReverseEtlError):
                reason = Reason(type(error).__name__, error.what, error.where.get("host", ""))
                self._writer.checkpoint.leave(reason, len(batch))
            raise
        return self._count(batch, receipts)

    def _count(self, batch: Batch, receipts: Receipts) -> Receipts:
        """Count the requests of an answer."""
        self._writer.checkpoint.add_requests(receipts.requests)
        if receipts.taken:
            self._writer.checkpoint.take(batch.operation)
        return receipts

    async def _obey(self, receipts: Receipts, attempt: int) -> bool:
        """Let the load wait, or stop, as an answer demands; return whether it demands a wait.

        :param attempt: number of answers to the batch that demand a wait, with this one.
        """
        if receipts.left_today is not None:
            self._pace.note_left_today(receipts.left_today)
        if receipts.allowed_rate is not None:
            self._pace.note_allowed(receipts.allowed_rate)
        if self._pace.spent_until:
            self.stopping = True
        if receipts.retry_after is not None:
            await self._pause(receipts.retry_after)
        elif receipts.throttled:
            await self._pause(self._backoff.wait_throttled(attempt))
        return receipts.throttled or receipts.retry_after is not None

    async def _pause(self, seconds: float) -> None:
        """Let all tasks on the connection wait, or stop the load if that is too long for a worker to sit idle.

        The requests in flight are refused together. The first refusal begins the pause, the others join it.
        """
        if seconds <= LONGEST_WAIT:
            if self._pace.paused < seconds / 2:
                await self._pace.pause_all(seconds)
            self._pace.pause(seconds)
            return
        until = self._clock.now() + timedelta(seconds=seconds)
        self.stop_for(Wait(until, f"the destination asks to wait {seconds:,.0f} seconds", planned=True))

    def _split(self, batch: Batch, receipts: Receipts) -> tuple[Batch, list[Batch]]:
        """Split a refused batch to find the bad row.

        :returns: the rows to settle by this answer, and the batches to send instead of the others.
        """
        # Rows that may be in a new content must not be sent to it again: a later try begins another one.
        if self._whole and any(receipts.of(key).outcome is Outcome.UNKNOWN for key in batch.keys):
            self._leave_for_later(batch, receipts)
            self.stopping = True
            return batch.only([]), []
        if receipts.refused_whole and len(batch) > 1:
            return self._halves(batch, receipts)
        return batch, []

    def _halves(self, batch: Batch, receipts: Receipts) -> tuple[Batch, list[Batch]]:
        """Part a batch whose rows were refused as a whole.

        :returns: a batch of the rows that have a receipt of their own, and the halves of the rest.
        """
        own = [at for at, key in enumerate(batch.keys) if key in receipts.exceptions]
        refused = [at for at, key in enumerate(batch.keys) if key not in receipts.exceptions]
        # The refused request may have written some of the rows, which may not be sent twice.
        in_doubt = receipts.default.outcome is Outcome.UNKNOWN and not self._may_resend(batch)
        if in_doubt and not self._lose(batch, refused):
            return batch.only(own), []
        middle = len(refused) // 2
        halves = [batch.only(refused[:middle]), batch.only(refused[middle:])]
        return batch.only(own), [half for half in halves if len(half)]

    def settle(self, batch: Batch, receipts: Receipts) -> Batch | None:
        """Record the answer; returns the rows to send again, if any.

        If the destination stops the load, its ``unknown`` rows are not sent again, whatever ``on_unknown`` says.
        """
        checkpoint = self._writer.checkpoint
        self._writer.note_ids(batch, receipts)
        if not receipts.exceptions and receipts.default.outcome is Outcome.ACCEPTED:
            checkpoint.settle(batch.seqs)
            return None
        again = []
        lost = []
        for at, (seq, key) in enumerate(zip(batch.seqs, batch.keys, strict=True)):
            receipt = receipts.of(key)
            match receipt.outcome:
                case Outcome.ACCEPTED:
                    checkpoint.settle([seq])
                case Outcome.REJECTED | Outcome.SKIPPED:
                    checkpoint.fail(seq, receipt)
                case Outcome.CONFLICT if len(self.conflicts) < MOST_CONFLICTS:
                    self.conflicts[seq] = receipt
                case Outcome.CONFLICT:
                    checkpoint.fail(seq, _rejected(receipt))
                case Outcome.UNKNOWN if self._may_resend(batch):
                    again.append(at)
                    checkpoint.doubt([seq])
                case Outcome.UNKNOWN if receipts.stop:
                    checkpoint.fail(seq, receipt)
                case Outcome.UNKNOWN:
                    lost.append(at)
                case _:
                    again.append(at)
        if self._lose(batch, lost):
            again.extend(lost)
        return batch.only(sorted(again)) if again else None

    def _may_resend(self, batch: Batch) -> bool:
        return self._whole or self._destination.capabilities.idempotent(batch.operation)

    def _lose(self, batch: Batch, lost: Sequence[int]) -> bool:
        """Apply ``on_unknown`` to the rows of a batch at these positions; returns whether they are sent again."""
        on_unknown = self._sync.failure.on_unknown
        self._writer.checkpoint.lose([batch.seqs[at] for at in lost], on_unknown)
        return on_unknown == "resend"

    def _record_left(self, batch: Batch, receipts: Receipts) -> None:
        """Record why rows are left for a later try."""
        for reason, rows in Counter(receipts.of(key).reason for key in batch.keys).items():
            self._writer.checkpoint.leave(reason, rows)

    def _leave_for_later(self, batch: Batch, receipts: Receipts) -> None:
        """Leave the rows for a later try. After several such batches in a row, the destination is down: stop."""
        self._record_left(batch, receipts)
        self._tried.add(batch.operation)
        self._left_in_row += 1
        self._observer.event("batch_left", rows=len(batch), sync=self._sync.name)
        if self._left_in_row >= max(self._concurrency, 3):
            self.stopping = True

    async def _announce(self, batch: Batch) -> None:
        """Save a checkpoint that announces the next rows, before any of them is sent.

        Rows that are safe to send twice are all announced at once. Other rows are announced a few batches ahead: many
        requests then share one save, and few rows that were never sent are in doubt after a crash.
        """
        last = batch.seqs[-1]
        until = last + 4 * self._concurrency * len(batch)
        if self._may_resend(batch):
            until = next((rows.start - 1 for rows in self._unrepeatable if rows.start > last), self._total)
        await self._writer.announce(last, until)


def not_sent_today(error: DailyLimitError) -> Receipts:
    """Return the answer to a batch that was not sent because the requests of the day are used up."""
    return Receipts(Receipt(Outcome.RETRYABLE, DAILY_LIMIT, str(error)), requests=0)


def _rejected(conflict: Receipt) -> Receipt:
    """Return the receipt of a row whose conflict is final. Its message begins with the remote's own code."""
    message = conflict.message
    if conflict.code not in (CONFLICT, str(conflict.status)):
        message = f"{conflict.code}: {message}"
    return replace(conflict, outcome=Outcome.REJECTED, code=CONFLICT, message=message)
