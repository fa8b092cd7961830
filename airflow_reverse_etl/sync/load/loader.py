"""Load: send a plan's change set, and settle every row by the destination's answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ReverseEtlError, RunConflictError, UnreachableError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Reason, Receipt, Receipts
from airflow_reverse_etl.sync.context import RunContext
from airflow_reverse_etl.sync.load.backoff import Backoff
from airflow_reverse_etl.sync.load.batches import Batcher
from airflow_reverse_etl.sync.load.rate_limit import Pace
from airflow_reverse_etl.sync.ports import Destination, Plan
from airflow_reverse_etl.sync.progress import Checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

#: Seconds between checkpoints. After a crash, the next try sends the rows since the last one again, where that is safe.
CHECKPOINT_SECONDS = 2.0
#: Seconds that a load waits for the answers to requests in flight when its task is stopped. Each answer is saved at
#: once, as the process may be killed sooner: Airflow kills a task 5 seconds after SIGTERM.
GRACE_SECONDS = 10.0
#: Seconds after which a load makes sure that no later try has begun before it sends anything more.
CONFIRM_SECONDS = 10.0
#: Longest pause, in seconds, that a load waits for. If the destination asks for a longer one, as with a daily limit,
#: the load leaves the remaining rows to a retry.
LONGEST_PAUSE = 600.0


@dataclass(frozen=True, slots=True)
class Share:
    """Rows of a plan that one load sends: sequence numbers above ``after``, up to ``until``."""

    partition: int
    after: int
    until: int

    @classmethod
    def of(cls, plan: Plan, partition: int, partitions: int) -> Share:
        """Return one of ``partitions`` shares of nearly equal size, which together are the whole plan."""
        after = plan.total * partition // partitions
        until = plan.total * (partition + 1) // partitions
        return cls(partition, after, until)

    @property
    def rows(self) -> RangeSet:
        """The share's sequence numbers."""
        return RangeSet(range(self.after + 1, self.until + 1))


def unrepeatable(plan: Plan, sync: Sync, destination: Destination) -> RangeSet:
    """Return the rows of a plan that are not safe to send twice."""
    found = RangeSet()
    for change, rows in plan.ranges().items():
        if OPERATIONS[sync.mode].get(change) not in destination.capabilities.idempotent:
            found |= RangeSet(rows)
    return found


class Loader:
    """Sender of one plan, or of a share of it; made for one load.

    Guarantees:

    * A row is settled as accepted only after the destination's answer.
    * A checkpoint never claims more than what was answered, and a row that it has settled is not sent.
    * Nothing is sent or saved once another run may have the sync's lease, or ``CONFIRM_SECONDS`` after a later try of
      the same share has begun.
    * Before rows are sent with an operation that is not safe to repeat, a checkpoint announces them, so that after a
      crash they are known to be in doubt.

    What the outcome means for the run is decided in :mod:`airflow_reverse_etl.sync.run`.

    :param check_lease: raises RunConflictError if another run has taken over the lease.
    :param share: rows to send.
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
    ) -> None:
        self._sync = sync
        self._plan = plan
        self._share = share
        self._destination = destination
        self._store = context.store
        self._observer = context.observer
        self._clock = context.clock
        self._check_lease = check_lease
        self._try_number = 0
        self._confirmed_at = 0.0
        self._backoff = Backoff()
        self._batcher = Batcher(sync, destination.capabilities, run_id=plan.run_id, plan_id=plan.plan_id)
        self._pace = Pace(sync.rate.requests_per_second, context.clock, context.budget, sync.destination.connection)
        self._batches: Iterator[tuple[Batch, dict[int, Receipt]]] = iter(())
        self._ready: deque[Batch] = deque()
        self._read_lock = asyncio.Lock()
        self._read_task: asyncio.Task[Any] | None = None
        self._save_lock = asyncio.Lock()
        self._save_task: asyncio.Task[None] | None = None
        self._stopping = False
        self._first_batch_lock = asyncio.Lock()
        self._tried: set[Operation] = set()  # operations with a batch that was answered, or left
        self._left_in_row = 0
        self._checkpoint = Checkpoint()
        self._settled_before = RangeSet()
        self._in_doubt_before = RangeSet()
        self._announced = 0  # last sequence number that a saved checkpoint allows to be sent

    async def load(self) -> tuple[Checkpoint, int]:
        """Send the rows that are not settled yet.

        On cancellation, takes no further batch, waits ``GRACE_SECONDS`` for those in flight, and saves the checkpoint.

        :returns: the saved checkpoint, and the number of rows left for a later try.
        :raises ConfigurationError: raised by the destination, after the rows settled until then were saved.
        """
        await self._resume()

        # Send.
        started = self._clock.monotonic()
        await self._destination.open(self._pace)
        try:
            for after, until in self._phases():
                if not self._stopping:
                    await self._send_rows(after, until)
        finally:
            # The process is alive, so it knows which of the announced rows were not sent, or sent and refused.
            self._checkpoint.end(self._clock.monotonic() - started)
            await self._destination.close()
            await self._save()
        await self._pace.close()

        left = self._share.rows - self._settled_before - self._checkpoint.settled
        return self._checkpoint, len(left)

    def _phases(self) -> Iterator[tuple[int, int]]:
        """Yield the parts of the share that are sent in turn, as (after, until).

        Every removed row is answered, or left for a later try, before the rest begins: a new record may need a unique
        value of one that is deleted.
        """
        share = self._share
        end = share.after
        if self._plan.kinds[0] == "removed":
            end = min(max(share.after, self._plan.planned.removed), share.until)
        for after, until in ((share.after, end), (end, share.until)):
            if until > after:
                yield after, until

    async def _send_rows(self, after: int, until: int) -> None:
        """Send the rows numbered from ``after`` + 1 to ``until`` that are not settled yet."""
        after = self._settled_before.end_of(after + 1)
        self._changes = await asyncio.to_thread(self._store.changes, self._plan, after=after, until=until)
        self._batches = iter(())
        self._read_task = None
        try:
            await self._work()
        finally:
            await self._end_reading()

    async def _resume(self) -> None:
        """Load the progress so far."""
        share = self._share
        # From now on, an earlier try of this share that still lives stops. What it has announced is in doubt.
        self._try_number = await asyncio.to_thread(self._store.begin_try, self._plan, partition=share.partition)
        self._confirmed_at = self._clock.monotonic()
        progress = await asyncio.to_thread(self._store.checkpoints, self._plan)
        # If the plan was partitioned differently before, checkpoints of other partitions cover some of these rows.
        known = Checkpoint.merged(progress.values())
        self._settled_before = known.settled
        self._in_doubt_before = known.in_doubt()
        self._checkpoint = progress.get(share.partition, Checkpoint())
        self._checkpoint.resume(share.after)
        self._announced = share.after

    async def _work(self) -> None:
        workers = [asyncio.create_task(self._worker()) for _ in range(self._sync.rate.concurrency)]
        saver = asyncio.create_task(self._save_regularly())
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        except BaseException:
            self._stopping = True
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
        """Wait for the answers to requests in flight, at most ``GRACE_SECONDS``."""
        time = asyncio.get_running_loop().time
        until = time() + GRACE_SECONDS
        waiting = {worker for worker in workers if not worker.done()}
        if waiting:
            await self._try_to_save()  # the answers since the last save
        while waiting:
            timeout = max(0.0, until - time())
            answered, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not answered:
                return
            await self._try_to_save()

    # -- taking batches ------------------------------------------------------------------------------------------

    async def _worker(self) -> None:
        try:
            while not self._stopping and (batch := await self._next()) is not None:
                if batch.operation in self._tried:
                    await self._deliver(batch)
                else:
                    await self._deliver_alone(batch)
        except BaseException:
            self._stopping = True  # before another worker takes a batch
            raise

    async def _deliver_alone(self, batch: Batch) -> None:
        """Send the first batch of an operation alone: if the sync misreads the replies, it costs one batch only."""
        async with self._first_batch_lock:
            if batch.operation not in self._tried and not self._stopping:
                await self._deliver(batch)
                return
        if not self._stopping:
            await self._deliver(batch)

    async def _next(self) -> Batch | None:
        while not self._ready:
            for batch, failed in self._batches:
                for seq, receipt in failed.items():
                    self._checkpoint.fail(seq, receipt)
                if len(batch):
                    self._ready.extend(self._split_in_doubt(batch))
                    break
            else:
                if not await self._read(self._batches):
                    return None
        return self._ready.popleft()

    async def _read(self, cut: Iterator[tuple[Batch, dict[int, Receipt]]]) -> bool:
        """Read more rows, unless another worker has done so since ``cut`` was used up.

        :returns: False at the end of the change set.
        """
        async with self._read_lock:
            if self._batches is cut:
                self._read_task = asyncio.create_task(asyncio.to_thread(next, self._changes, None))
                rows: pa.RecordBatch | None = await asyncio.shield(self._read_task)
                if rows is None:
                    return False
                self._batches = self._batcher.cut(rows, self._settled_before)
        return True

    async def _end_reading(self) -> None:
        """Close the change set, unless a read is still running after ``GRACE_SECONDS``."""
        if self._read_task:
            await asyncio.wait([self._read_task], timeout=GRACE_SECONDS)
        if not self._read_task or self._read_task.done():
            await asyncio.to_thread(self._changes.close)

    def _split_in_doubt(self, batch: Batch) -> Sequence[Batch]:
        """Separate the rows in doubt since an earlier load, if they are not safe to send twice, from the rest."""
        if not self._in_doubt_before or self._may_resend(batch):
            return [batch]
        in_doubt = [at for at, seq in enumerate(batch.seqs) if seq in self._in_doubt_before]
        if not in_doubt:
            return [batch]
        parts = [batch.only(sorted(set(range(len(batch))) - set(in_doubt)))]
        if self._lose(batch, in_doubt):
            parts.insert(0, batch.only(in_doubt))
        return [part for part in parts if len(part)]

    # -- delivering ----------------------------------------------------------------------------------------------

    async def _deliver(self, batch: Batch) -> None:
        """Send a batch until its rows are settled, or left for a later try."""
        attempt = 0
        throttled = 0
        while True:
            if batch.seqs[-1] > self._announced:
                await self._announce(batch)
            await self._check()
            receipts = await self._send(batch)
            self._checkpoint.add_requests(receipts.requests)
            if receipts.retry_after is not None:
                self._pause(receipts.retry_after)

            # Split a refused batch to find the bad row.
            if receipts.refused_whole and len(batch) > 1:
                middle = len(batch) // 2
                self._ready.extendleft([batch.only(range(middle, len(batch))), batch.only(range(middle))])
                return

            left = self._settle(batch, receipts)
            if receipts.stop is not None:
                if left is not None:
                    self._record_left(left, receipts)
                raise receipts.stop
            if left is None or len(left) < len(batch):
                self._left_in_row = 0
                self._tried.add(batch.operation)
            if left is None:
                return

            # Send the other rows again, unless the attempts are used up.
            batch = left
            if receipts.retry_after is not None:
                throttled += 1
            else:
                attempt += 1
            if self._stopping or attempt >= self._backoff.attempts or throttled >= self._backoff.throttles:
                self._leave_for_later(batch, receipts)
                return
            if receipts.retry_after is None:
                await self._clock.sleep(self._backoff.wait(attempt))

    async def _send(self, batch: Batch) -> Receipts:
        try:
            return await self._destination.send(batch)
        except BaseException as error:  # interrupted, perhaps after the rows were sent
            self._checkpoint.doubt(batch.seqs)
            if isinstance(error, ReverseEtlError):
                reason = Reason(type(error).__name__, error.what, error.where.get("host", ""))
                self._checkpoint.leave(reason, len(batch))
            raise

    def _pause(self, seconds: float) -> None:
        """Wait as long as the destination asks, or stop the load if that is too long for a worker to sit idle."""
        if seconds <= LONGEST_PAUSE:
            self._pace.pause(seconds)
            return
        self._stopping = True
        self._observer.event("asked_to_wait", sync=self._sync.name, seconds=round(seconds))

    def _settle(self, batch: Batch, receipts: Receipts) -> Batch | None:
        """Record the answer; returns the rows to send again, if any.

        If the destination stops the load, its ``unknown`` rows are not sent again, whatever ``on_unknown`` says.
        """
        if not receipts.exceptions and receipts.default.outcome is Outcome.ACCEPTED:
            self._checkpoint.settle(batch.seqs)
            return None
        again = []
        lost = []
        for at, (seq, key) in enumerate(zip(batch.seqs, batch.keys, strict=True)):
            receipt = receipts.of(key)
            match receipt.outcome:
                case Outcome.ACCEPTED:
                    self._checkpoint.settle([seq])
                case Outcome.REJECTED | Outcome.SKIPPED:
                    self._checkpoint.fail(seq, receipt)
                case Outcome.UNKNOWN if self._may_resend(batch):
                    again.append(at)
                    self._checkpoint.doubt([seq])
                case Outcome.UNKNOWN if receipts.stop:
                    self._checkpoint.fail(seq, receipt)
                case Outcome.UNKNOWN:
                    lost.append(at)
                case _:
                    again.append(at)
        if self._lose(batch, lost):
            again.extend(lost)
        return batch.only(sorted(again)) if again else None

    def _may_resend(self, batch: Batch) -> bool:
        return batch.operation in self._destination.capabilities.idempotent

    def _lose(self, batch: Batch, lost: Sequence[int]) -> bool:
        """Apply ``on_unknown`` to the rows of a batch at these positions; returns whether they are sent again."""
        on_unknown = self._sync.failure.on_unknown
        self._checkpoint.lose([batch.seqs[at] for at in lost], on_unknown)
        return on_unknown == "resend"

    def _record_left(self, batch: Batch, receipts: Receipts) -> None:
        """Record why rows are left for a later try."""
        for reason, rows in Counter(receipts.of(key).reason for key in batch.keys).items():
            self._checkpoint.leave(reason, rows)

    def _leave_for_later(self, batch: Batch, receipts: Receipts) -> None:
        """Leave the rows for a later try. After several such batches in a row, the destination is down: stop."""
        self._record_left(batch, receipts)
        self._tried.add(batch.operation)
        self._left_in_row += 1
        self._observer.event("batch_left", rows=len(batch), sync=self._sync.name)
        if self._left_in_row >= max(self._sync.rate.concurrency, 3):
            self._stopping = True

    # -- checkpoints ---------------------------------------------------------------------------------------------

    async def _announce(self, batch: Batch) -> None:
        """Save a checkpoint that announces the next rows, before any of them is sent.

        Rows that are safe to send twice are all announced at once. Other rows are announced a few batches ahead: many
        requests then share one save, and few rows that were never sent are in doubt after a crash.
        """
        last = batch.seqs[-1]
        until = last + 4 * self._sync.rate.concurrency * len(batch)
        if self._may_resend(batch):
            unsafe = unrepeatable(self._plan, self._sync, self._destination)
            until = next((rows.start - 1 for rows in unsafe if rows.start > last), self._plan.total)
        async with self._save_lock:
            if last > self._announced:
                until = min(self._share.until, until)
                self._checkpoint.announce(until)
                await self._save_now()
                self._announced = until

    async def _save_regularly(self) -> None:
        while True:
            await self._clock.sleep(CHECKPOINT_SECONDS)
            await self._try_to_save()
            self._observer.event(
                "progress",
                sync=self._sync.name,
                settled=len(self._checkpoint.settled),
                total=self._share.until - self._share.after,
                rejected=self._checkpoint.count(Outcome.REJECTED),
                requests=self._checkpoint.requests,
            )

    async def _try_to_save(self) -> None:
        with contextlib.suppress(UnreachableError):  # the next save may succeed; the last one must
            await self._save()

    async def _save(self) -> None:
        async with self._save_lock:
            await self._save_now()

    async def _save_now(self) -> None:
        await self._check()  # another run may have resumed this plan, or committed it
        if self._save_task:  # a cancelled save continues in its thread, and must not overwrite this checkpoint later
            await asyncio.wait([self._save_task])
        checkpoint = self._checkpoint.copy()
        partition = self._share.partition
        self._save_task = asyncio.create_task(
            asyncio.to_thread(
                self._store.save_checkpoint,
                self._plan,
                checkpoint,
                partition=partition,
                try_number=self._try_number,
            )
        )
        await asyncio.shield(self._save_task)
        # A later try that has begun by now may not have read this checkpoint.
        await self._confirm()

    async def _check(self) -> None:
        """Make sure that this try may still send and save.

        :raises RunConflictError: another run has the lease, or a later try has begun.
        """
        await self._check_lease()
        if self._clock.monotonic() - self._confirmed_at > CONFIRM_SECONDS:
            await self._confirm()

    async def _confirm(self) -> None:
        """Make sure that no later try has begun, and that the plan exists.

        :raises RunConflictError: one has begun, or the plan is committed or discarded.
        """
        now = self._clock.monotonic()
        last = await asyncio.to_thread(self._store.last_try, self._plan, partition=self._share.partition)
        if last != self._try_number:
            raise RunConflictError(
                "a later try of this task has taken over" if last else "the plan is committed or discarded",
                todo="leave this try as it is: it has stopped before it sent anything more",
                sync=self._sync.name,
            )
        self._confirmed_at = now
