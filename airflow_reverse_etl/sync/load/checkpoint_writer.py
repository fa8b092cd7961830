"""Saves the progress of a load, as long as no other run or try has taken over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from airflow_reverse_etl.errors import RunConflictError, UnreachableError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Batch, JobRef, Outcome, Receipts
from airflow_reverse_etl.sync.context import RunContext
from airflow_reverse_etl.sync.load.share import Share
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.progress import Checkpoint


class CheckpointWriter:
    """Writer of the checkpoint of one load.

    Attributes, once the load has begun:

    * ``checkpoint``: progress of the share.
    * ``announced``: last sequence number that a saved checkpoint allows to be sent.
    * ``settled_before`` and ``in_doubt_before``: rows of the whole plan, as they were when the load began.
    * ``jobs_before``: open jobs of the whole plan, as they were when the load began.

    :param check_lease: raises RunConflictError if another run has taken over the lease.
    """

    def __init__(
        self, plan: Plan, share: Share, context: RunContext, *, check_lease: Callable[[], Awaitable[None]]
    ) -> None:
        self._plan = plan
        self._share = share
        self._store = context.store
        self._observer = context.observer
        self._clock = context.clock
        self._timing = context.timing
        self._check_lease = check_lease
        self._try_number = 0
        self._confirmed_at = 0.0
        self._lock = asyncio.Lock()
        self._save_task: asyncio.Task[None] | None = None
        self._held = False
        self._record_ids = context.record_ids
        self._ids: dict[str, str | None] = {}
        self.checkpoint = Checkpoint()
        self.announced = share.after
        self.settled_before = RangeSet()
        self.in_doubt_before = RangeSet()
        self.jobs_before: list[JobRef] = []

    async def begin(self) -> None:
        """Take over the share, and load the progress so far."""
        share = self._share
        # From now on, an earlier try of this share that still lives stops. What it has announced is in doubt.
        self._try_number = await asyncio.to_thread(self._store.begin_try, self._plan, partition=share.partition)
        self._confirmed_at = self._clock.monotonic()
        progress = await asyncio.to_thread(self._store.checkpoints, self._plan)
        # If the plan was partitioned differently before, checkpoints of other partitions cover some of these rows.
        known = Checkpoint.merged(progress.values())
        self.settled_before = known.settled
        self.in_doubt_before = known.in_doubt()
        self.jobs_before = list(known.jobs.values())
        self.checkpoint = progress.get(share.partition, Checkpoint())
        self.checkpoint.resume(share.after)

    def hold(self) -> None:
        """Save nothing until :meth:`release`, and begin without any row that is settled or in doubt."""
        self._held = True
        self.settled_before = RangeSet()
        self.in_doubt_before = RangeSet()
        self.checkpoint = Checkpoint()
        self.checkpoint.resume(self._share.after)

    def forget(self) -> None:
        """Forget which rows were settled, as if none was sent; keep why rows are left."""
        before = self.checkpoint
        self.checkpoint = Checkpoint(requests=before.requests)
        for at, rows in before.left.items():
            self.checkpoint.leave(before.reasons[at], rows)
        for _, at in before.failed.values():
            self.checkpoint.leave(before.reasons[at], 1)

    def release(self) -> None:
        """Save again from now on."""
        self._held = False

    def note_ids(self, batch: Batch, receipts: Receipts) -> None:
        """Note the ids of the records of accepted rows, and which records were deleted, until the next save."""
        if self._record_ids is None:
            return
        if batch.operation is not Operation.DELETE:
            self._ids.update(receipts.ids)
            return
        deleted = (key for key in batch.keys if receipts.of(key).outcome is Outcome.ACCEPTED)
        self._ids.update(dict.fromkeys(deleted))

    async def announce(self, last: int, until: int) -> None:
        """Save a checkpoint that announces the rows up to ``until``, unless those up to ``last`` are announced."""
        async with self._lock:
            if last > self.announced:
                until = min(self._share.until, until)
                self.checkpoint.announce(until)
                await self._save()
                self.announced = until

    async def save_regularly(self) -> None:
        """Save the checkpoint at the interval of :class:`RunTiming`, and report the progress."""
        while True:
            await self._clock.sleep(self._timing.checkpoint)
            await self.try_to_save()
            self._observer.event(
                "progress",
                sync=self._plan.sync,
                settled=len(self.checkpoint.settled),
                total=self._share.until - self._share.after,
                rejected=self.checkpoint.count(Outcome.REJECTED),
                requests=self.checkpoint.requests,
            )

    async def try_to_save(self) -> None:
        """Save the checkpoint, unless the store cannot be reached: the next save may succeed. The last one must."""
        with contextlib.suppress(UnreachableError):
            await self.save()

    async def save(self) -> None:
        """Save the checkpoint.

        :raises RunConflictError: another run has the lease, or a later try has begun.
        """
        async with self._lock:
            await self._save()

    async def _save(self) -> None:
        await self.check()  # another run may have resumed this plan, or committed it
        if self._held:
            return
        if self._save_task:  # a cancelled save continues in its thread, and must not overwrite this checkpoint later
            await asyncio.wait([self._save_task])
        checkpoint = self.checkpoint.copy()
        ids = self._ids
        self._ids = {}
        self._save_task = asyncio.create_task(asyncio.to_thread(self._store_progress, checkpoint, ids))
        try:
            await asyncio.shield(self._save_task)
        except UnreachableError:
            self._ids = {**ids, **self._ids}
            raise
        # A later try that has begun by now may not have read this checkpoint.
        await self._confirm()

    def _store_progress(self, checkpoint: Checkpoint, ids: Mapping[str, str | None]) -> None:
        # First the ids: a row that a checkpoint has settled is not answered again.
        if self._record_ids and ids:
            self._record_ids.keep(ids)
        self._store.save_checkpoint(
            self._plan, checkpoint, partition=self._share.partition, try_number=self._try_number
        )

    async def check(self) -> None:
        """Make sure that this try may still send and save.

        :raises RunConflictError: another run has the lease, or a later try has begun.
        """
        await self._check_lease()
        if self._clock.monotonic() - self._confirmed_at > self._timing.confirmation:
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
                sync=self._plan.sync,
            )
        self._confirmed_at = now
