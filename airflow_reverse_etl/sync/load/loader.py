"""Load: send a plan's change set and settle every row by the destination's answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ReverseEtlError, UnreachableError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.spec.ranges import SettledSet
from airflow_reverse_etl.spec.receipts import ANSWER_LOST, Batch, Outcome, Reason, Receipt, Receipts
from airflow_reverse_etl.sync.backoff import Backoff
from airflow_reverse_etl.sync.context import RunContext
from airflow_reverse_etl.sync.load.batches import Batcher
from airflow_reverse_etl.sync.load.rate_limit import Pace
from airflow_reverse_etl.sync.ports import Destination, Plan
from airflow_reverse_etl.sync.progress import Checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

#: Seconds between checkpoints: what a crash makes the next try send again, where that is safe.
CHECKPOINT_SECONDS = 2.0
#: Seconds that requests in flight get to be answered when the task is told to stop. Each answer is saved at once, as
#: whoever told it may lose patience sooner: Airflow kills a task 5 seconds after it asked it to end.
GRACE_SECONDS = 10.0
#: Seconds of a pause that a load waits for. Asked for a longer one, as by a daily limit, it leaves the rest to a retry.
LONGEST_PAUSE = 600.0
_ANSWERS_LOST = Receipts(ANSWER_LOST)


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of a plan that one load sends: sequence numbers above ``after``, up to ``until``."""

    partition: int
    after: int
    until: int

    @classmethod
    def of(cls, plan: Plan, partition: int, partitions: int) -> Share:
        """One of ``partitions`` shares of nearly equal size, which together are the whole plan."""
        return cls(partition, plan.total * partition // partitions, plan.total * (partition + 1) // partitions)

    def meets(self, rows: range) -> bool:
        """Whether any of these sequence numbers is one of its rows."""
        return rows.start <= self.until and rows.stop - 1 > self.after

    def count(self, settled: SettledSet) -> int:
        """How many of its rows are settled."""
        ranges = [(1, settled.low), *settled.above()]
        return sum(max(0, min(last, self.until) - max(first, self.after + 1) + 1) for first, last in ranges)


def unrepeatable(plan: Plan, sync: Sync, destination: Destination) -> Iterator[range]:
    """The rows of a plan for which sending twice is not safe, ascending: one range for each kind of change."""
    after = 0
    for change in ("added", "changed", "removed"):
        until = after + getattr(plan.planned, change)
        if until > after and OPERATIONS[sync.mode].get(change) not in destination.capabilities.idempotent:
            yield range(after + 1, until + 1)
        after = until


class Loader:
    """Sender of one plan, or of a share of it; made for one load.

    :param still_held: check that raises RunConflictError if another run has taken over the lease.
    :param share: the rows to send.
    :param progress: saved checkpoints of all partitions of the plan.

    Guarantees: a row is settled as accepted only after the destination's answer; a checkpoint never claims more than
    what was answered; no row is sent that a checkpoint has settled; nothing is sent or saved once the lease of the sync
    may be another run's. Where an operation may not be sent twice, a checkpoint names the rows before they are sent, so
    that after a crash each of them is known to be ``unknown``.

    Does not decide what the outcome means for the run; :mod:`airflow_reverse_etl.sync.run` does.
    """

    def __init__(
        self,
        sync: Sync,
        plan: Plan,
        destination: Destination,
        context: RunContext,
        *,
        still_held: Callable[[], Awaitable[None]],
        share: Share,
        progress: Sequence[Checkpoint],
    ) -> None:
        self._sync = sync
        self._plan = plan
        self._share = share
        self._progress = progress
        self._destination = destination
        self._store = context.store
        self._observer = context.observer
        self._clock = context.clock
        self._still_held = still_held
        self._backoff = Backoff()
        self._batcher = Batcher(sync, destination.capabilities, run_id=plan.run_id, plan_id=plan.plan_id)
        self._pace = Pace(sync.rate.requests_per_second, context.clock, context.budget, sync.destination.connection)
        self._batches: Iterator[tuple[Batch, dict[int, Receipt]]] = iter(())
        self._ready: deque[Batch] = deque()
        self._refill = asyncio.Lock()
        self._reading: asyncio.Task[Any] | None = None
        self._save_lock = asyncio.Lock()
        self._saving: asyncio.Task[None] | None = None
        self._stopping = False
        self._first = asyncio.Lock()
        self._tried: set[Operation] = set()  # those of which a batch was answered, or given up
        self._exhausted_in_row = 0
        self._checkpoint = Checkpoint()
        self._done = SettledSet()  # what was settled before this load
        self._doubts: list[range] = []  # what may have been sent before this load began
        self._announced = 0  # a saved checkpoint says that rows up to here may be sent
        self._in_doubt: set[int] = set()  # what this load has sent without getting an answer

    async def load(self) -> tuple[Checkpoint, int]:
        """Send what is not settled yet; returns the checkpoint, saved, and how many rows are left for a later try.

        On cancellation no further batch is taken, those in flight get ``GRACE_SECONDS``, the checkpoint is saved.

        :raises ConfigurationError: from the destination; what was settled until then is saved.
        """
        share = self._share
        own = await asyncio.to_thread(self._store.load_checkpoint, self._plan, partition=share.partition)
        # Usually all that is known of these rows. Other partitions may have sent some of them, cut otherwise.
        known = Checkpoint.merged(self._progress or [own])
        self._done, self._doubts = known.settled, [rows for rows in known.in_doubt() if share.meets(rows)]
        own.announced_before = own.in_doubt()
        own.left = {}
        own.after, own.announced, before = share.after, 0, len(own.settled)
        self._checkpoint, self._announced = own, share.after
        after = self._done.end_of(share.after + 1)
        self._changes = await asyncio.to_thread(self._store.changes, self._plan, after=after, until=share.until)
        started = self._clock.monotonic()
        spent = self._checkpoint.seconds
        await self._destination.open(self._pace)
        try:
            await self._work()
        finally:
            self._checkpoint.seconds = spent + self._clock.monotonic() - started
            # Not killed, so it is known now what was announced and not sent, or sent and refused.
            own.announced = 0
            own.announced_before += [range(seq, seq + 1) for seq in self._in_doubt]
            own.announced_before = own.in_doubt()
            await self._destination.close()
            try:
                await self._save()
            finally:
                await self._end_reading()
        return own, share.until - share.after - share.count(self._done) - (len(own.settled) - before)

    async def _work(self) -> None:
        workers = [asyncio.create_task(self._worker()) for _ in range(self._sync.rate.concurrency)]
        saver = asyncio.create_task(self._save_regularly())
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._stopping = True
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
        """Let requests in flight be answered, for ``GRACE_SECONDS``."""
        time = asyncio.get_running_loop().time
        until = time() + GRACE_SECONDS
        while waiting := [worker for worker in workers if not worker.done()]:
            answered, _ = await asyncio.wait(
                waiting, timeout=max(0.0, until - time()), return_when=asyncio.FIRST_COMPLETED
            )
            if not answered:
                return
            with contextlib.suppress(UnreachableError):  # the last one, at the end of the load, must get through
                await self._save()

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
        """Send the first batch of an operation, so that a reply that the sync reads wrongly costs one batch."""
        async with self._first:
            if batch.operation not in self._tried and not self._stopping:
                await self._deliver(batch)
                return
        if not self._stopping:
            await self._deliver(batch)

    async def _next(self) -> Batch | None:
        while not self._ready:
            for batch, failed in self._batches:
                for seq, receipt in failed.items():
                    self._settle_failed(seq, receipt)
                if len(batch):
                    self._ready.extend(self._split_unknown(batch))
                    break
            else:
                if not await self._read(self._batches):
                    return None
        return self._ready.popleft()

    async def _read(self, cut: Iterator[tuple[Batch, dict[int, Receipt]]]) -> bool:
        """Read on, unless another worker did since all of ``cut`` was taken. Whether there was more."""
        async with self._refill:
            if self._batches is cut:
                self._reading = asyncio.create_task(asyncio.to_thread(next, self._changes, None))
                rows: pa.RecordBatch | None = await asyncio.shield(self._reading)
                if rows is None:
                    return False
                self._batches = self._batcher.cut(rows, self._done)
        return True

    async def _end_reading(self) -> None:
        """Close what the rows are read from. A read that does not end is left to itself."""
        if self._reading:
            await asyncio.wait([self._reading], timeout=GRACE_SECONDS)
        if not self._reading or self._reading.done():
            await asyncio.to_thread(self._changes.close)

    def _split_unknown(self, batch: Batch) -> Sequence[Batch]:
        """Apart from the rest, rows that may have been sent before a crash and may not be sent twice."""
        unknown: list[int] = []
        if self._doubts and batch.seqs[0] <= self._doubts[-1][-1] and not self._may_resend(batch):
            unknown = [at for at, seq in enumerate(batch.seqs) if any(seq in rows for rows in self._doubts)]
        if not unknown:
            return [batch]
        again = self._answer_lost(batch.only(unknown), self._sync.failure.on_unknown)
        rest = batch.only(sorted(set(range(len(batch))) - set(unknown)))
        return [part for part in (again, rest) if part is not None and len(part)]

    # -- delivering ----------------------------------------------------------------------------------------------

    async def _deliver(self, batch: Batch) -> None:
        attempt = throttled = 0
        while True:
            if batch.seqs[-1] > self._announced:
                await self._announce(batch)
            await self._still_held()
            receipts = await self._send(batch)
            self._checkpoint.requests += receipts.requests
            if receipts.retry_after is not None:
                self._pause(receipts.retry_after)
            if receipts.refused_whole and len(batch) > 1:
                middle = len(batch) // 2
                self._ready.extendleft([batch.only(range(middle, len(batch))), batch.only(range(middle))])
                return
            left = self._settle(batch, receipts)
            if receipts.stop is not None:
                if left is not None:
                    self._leave(left, receipts)
                raise receipts.stop
            if left is None or len(left) < len(batch):
                self._exhausted_in_row = 0
                self._tried.add(batch.operation)
            if left is None:
                return
            batch = left
            if receipts.retry_after is not None:
                throttled += 1
            else:
                attempt += 1
            if self._stopping or attempt >= self._backoff.attempts or throttled >= self._backoff.throttles:
                self._give_up(batch, receipts)
                return
            if receipts.retry_after is None:
                await self._clock.sleep(self._backoff.wait(attempt))

    async def _send(self, batch: Batch) -> Receipts:
        try:
            return await self._destination.send(batch)
        except BaseException as error:  # cut off, perhaps after it was sent
            self._in_doubt.update(batch.seqs)
            if isinstance(error, ReverseEtlError):
                reason = Reason(type(error).__name__, error.what, error.where.get("host", ""))
                self._checkpoint.leave(reason, len(batch))
            raise

    def _pause(self, seconds: float) -> None:
        """Wait as long as the destination asks; where that is too long for a worker to sit idle, leave the rest."""
        if seconds <= LONGEST_PAUSE:
            self._pace.pause(seconds)
            return
        self._stopping = True
        self._observer.event("asked_to_wait", sync=self._sync.name, seconds=round(seconds))

    def _settle(self, batch: Batch, receipts: Receipts) -> Batch | None:
        """Record the answer; returns the rows to send again, if any.

        Where the destination stopped the load, its ``unknown`` rows are not sent twice whatever the sync says.
        """
        policy = "fail" if receipts.stop else self._sync.failure.on_unknown
        if not receipts.exceptions and receipts.default.outcome is Outcome.ACCEPTED:
            self._settled(batch)
            return None
        again, lost = [], []
        for at, (seq, key) in enumerate(zip(batch.seqs, batch.keys, strict=True)):
            receipt = receipts.of(key)
            match receipt.outcome:
                case Outcome.ACCEPTED:
                    self._checkpoint.settled.add(seq, seq)
                case Outcome.REJECTED | Outcome.SKIPPED:
                    self._settle_failed(seq, receipt)
                case Outcome.UNKNOWN if not self._may_resend(batch):
                    lost.append(at)
                case _:
                    again.append(at)
                    if receipt.outcome is Outcome.UNKNOWN:
                        self._in_doubt.add(seq)
        resend = self._answer_lost(batch.only(lost), policy, receipts) if lost else None
        if resend is not None:
            again.extend(lost)
            self._in_doubt.update(resend.seqs)
        return batch.only(sorted(again)) if again else None

    def _settled(self, batch: Batch) -> None:
        seqs = batch.seqs
        if seqs[-1] - seqs[0] + 1 == len(seqs):
            self._checkpoint.settled.add(seqs[0], seqs[-1])
        else:
            for seq in seqs:
                self._checkpoint.settled.add(seq, seq)

    def _settle_failed(self, seq: int, receipt: Receipt) -> None:
        self._checkpoint.answer_lost.discard(seq)
        self._checkpoint.fail(seq, receipt)
        self._checkpoint.settled.add(seq, seq)

    def _may_resend(self, batch: Batch) -> bool:
        return batch.operation in self._destination.capabilities.idempotent

    def _answer_lost(self, batch: Batch, policy: str, receipts: Receipts = _ANSWERS_LOST) -> Batch | None:
        """Do as ``policy``, an ``on_unknown``, says of rows that may not be sent twice; returns those to send again."""
        if policy == "fail":
            for seq, key in zip(batch.seqs, batch.keys, strict=True):
                self._settle_failed(seq, receipts.of(key) if receipts.stop else ANSWER_LOST)
            return None
        self._checkpoint.answer_lost.update(batch.seqs)
        if policy == "accept":
            self._settled(batch)
            return None
        return batch

    def _leave(self, batch: Batch, receipts: Receipts) -> None:
        """Record why these rows are left."""
        for reason, rows in Counter(receipts.of(key).reason for key in batch.keys).items():
            self._checkpoint.leave(reason, rows)

    def _give_up(self, batch: Batch, receipts: Receipts) -> None:
        """Leave the rows for a later try. When nothing gets through any more, stop: the destination is down."""
        self._leave(batch, receipts)
        self._tried.add(batch.operation)
        self._exhausted_in_row += 1
        self._observer.event("batch_left", rows=len(batch), sync=self._sync.name)
        if self._exhausted_in_row >= max(self._sync.rate.concurrency, 3):
            self._stopping = True

    # -- checkpoints ---------------------------------------------------------------------------------------------

    async def _announce(self, batch: Batch) -> None:
        """Say in a checkpoint which rows may be sent from now on, before any of them is.

        All that follow of those that may be sent twice. Elsewhere a few batches ahead: one save for many requests, and
        after a crash few rows that are ``unknown`` without having been sent.
        """
        last = batch.seqs[-1]
        until = last + 4 * self._sync.rate.concurrency * len(batch)
        if self._may_resend(batch):
            unsafe = unrepeatable(self._plan, self._sync, self._destination)
            until = next((rows.start - 1 for rows in unsafe if rows.start > last), self._plan.total)
        async with self._save_lock:
            if last > self._announced:
                self._checkpoint.announced = min(self._share.until, until)
                await self._save_now()
                self._announced = self._checkpoint.announced

    async def _save_regularly(self) -> None:
        while True:
            await self._clock.sleep(CHECKPOINT_SECONDS)
            with contextlib.suppress(UnreachableError):  # the next one may get through; the last one must
                await self._save()
            self._observer.event(
                "progress",
                sync=self._sync.name,
                settled=len(self._checkpoint.settled),
                total=self._share.until - self._share.after,
                rejected=self._checkpoint.count(Outcome.REJECTED),
                requests=self._checkpoint.requests,
            )

    async def _save(self) -> None:
        async with self._save_lock:
            await self._save_now()

    async def _save_now(self) -> None:
        await self._still_held()  # else another run goes on with this plan, or has committed it
        if self._saving:  # cancelled, but a thread goes on: it must not write an older checkpoint over this one
            await asyncio.wait([self._saving])
        checkpoint, partition = self._checkpoint.copy(), self._share.partition
        self._saving = asyncio.create_task(
            asyncio.to_thread(self._store.save_checkpoint, self._plan, checkpoint, partition=partition)
        )
        await asyncio.shield(self._saving)
