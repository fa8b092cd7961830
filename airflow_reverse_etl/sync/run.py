"""One run of a sync: plan → load → commit. The only module that knows the order.

What a run guarantees, whatever is killed and whenever:

* A row enters the snapshot only after the destination acknowledged it. Delivery is at least once; where an operation
  is idempotent at the destination that is as good as exactly once.
* Called again with the same ``run_id``, an unfinished run goes on from its last checkpoint with the same change set.
* An unfinished run of an earlier ``run_id`` is folded into the snapshot first, so that what it delivered is not sent
  again; in mode ``append``, where there is no snapshot, its remaining rows are sent first.
* A rejected row stays out of the snapshot. The next run plans it again, with its newest values.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from itertools import product

from airflow_reverse_etl.errors import GuardError, IncompleteLoadError, ReverseEtlError, RunConflictError
from airflow_reverse_etl.spec.comparison import NOTES
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import OPERATIONS
from airflow_reverse_etl.spec.receipts import ANSWER_LOST, Outcome, reason_text
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.comparing import reasons, warnings
from airflow_reverse_etl.sync.context import RunContext, RunOptions, SourceModel
from airflow_reverse_etl.sync.guards import check_failure_policy, check_guards, known_rows
from airflow_reverse_etl.sync.lease import Lease, held
from airflow_reverse_etl.sync.load.loader import Loader, Share, unrepeatable
from airflow_reverse_etl.sync.ports import Destination, Plan, PlanRequest, Warehouse
from airflow_reverse_etl.sync.progress import Checkpoint

#: The partition under which the checkpoint that is being committed is kept.
CLOSED = -1

#: What the run of a preview's plan begins with, so that one whose process died is told from a plan to be sent.
_PREVIEW = "preview of "

_NO_OPTIONS = RunOptions()


async def run_sync(
    sync: Sync,
    model: SourceModel,
    destination: Destination,
    context: RunContext,
    options: RunOptions = _NO_OPTIONS,
) -> RunReport:
    """Bring the destination up to date with the model, once, in this process.

    A committed run is not repeated in a sync that tracks nothing (mode ``append``, ``track: none``). In any other sync,
    a second call with its run id makes a new plan, which sends only what is not delivered yet.

    :raises RunConflictError: another run of the sync is at work, or took over from this one.
    :raises GuardError: nothing was sent.
    :raises IncompleteLoadError: rows are left for a later try with the same ``run_id``; has ``report``.
    :raises FailurePolicyError: committed, but with more rejected rows than the sync allows; has ``report``.
    """
    clock = context.clock
    started = clock.monotonic()
    steps = Run(sync, context)
    async with steps.lease():
        request = steps.request(model, options)
        found = await steps.plan(request, model.warehouse, destination, lift_guards=options.lift_guards)
        if isinstance(found, Plan):
            if found.total:
                await steps.load(found, destination)
            found = await steps.commit(found, destination, seconds=clock.monotonic() - started)
    check_failure_policy(sync, found)
    return found


class Run:
    """The steps of one run, for :func:`run` in one process, or for tasks that follow each other on many workers.

    Each step is called inside a :meth:`lease`. ``plan`` comes first, then ``load`` once for each share of the plan, in
    any order and at the same time, then ``commit``. Every step can be repeated after it was cut short.
    """

    def __init__(self, sync: Sync, context: RunContext) -> None:
        self._sync = sync
        self._context = context
        self._run_id = context.run_id
        self._store = context.store
        self._observer = context.observer
        self._lease: Lease | None = None

    def request(self, model: SourceModel, options: RunOptions = _NO_OPTIONS) -> PlanRequest:
        """Build the request for this run's plan, as of now."""
        return PlanRequest(
            self._sync,
            model.query,
            model.primary_key,
            self._run_id,
            self._context.clock.now(),
            reset=options.reset,
            full_resync=options.full_resync,
        )

    @contextlib.asynccontextmanager
    async def lease(self, *, release: bool = True) -> AsyncIterator[None]:
        """Hold the sync's lease. Without ``release`` it is left to the next step of the run, and runs out without one.

        Its holder is the run's id, so that steps and tries of one run share it, and nothing else does.

        :raises RunConflictError: another run holds it, or took it over.
        """
        async with held(
            self._store,
            self._sync.name,
            holder=self._run_id,
            clock=self._context.clock,
            label=self._context.label,
            release=release,
        ) as self._lease:
            yield

    async def plan(
        self,
        request: PlanRequest,
        warehouse: Warehouse,
        destination: Destination,
        *,
        approval: bool = False,
        lift_guards: Collection[str] = (),
    ) -> Plan | RunReport:
        """The plan of this run: the unfinished one, or a new one within the sync's guards.

        Brings earlier runs of the sync to an end first. A run whose commit was cut short is only committed, and where
        nothing is tracked, one that is committed is not planned again: its report is returned.

        :param approval: plans of this sync are sent after a person has seen them. One of which nothing was sent yet, of
            this run or another, is then discarded: nobody may have agreed to it.
        :param lift_guards: names of guards that do not stop this run's plan. Plans of earlier runs are not sent beyond
            their guards.
        :raises GuardError: the plan was discarded.
        :raises RunConflictError: this run was brought to an end with rows left that no other run sends.
        """
        if approval:
            for unfinished in await asyncio.to_thread(self._store.unfinished, self._sync.name):
                if _untouched(await self._progress(unfinished)):
                    await asyncio.to_thread(self._store.discard, unfinished)
        plan = await self._settle_unfinished(destination)
        if isinstance(plan, RunReport):
            return plan
        if plan is None:
            if not self._sync.tracked and (report := await self.committed()):
                self.check_whole(report)
                return report
            if request.full_resync and not self._repeatable(destination) and await self.committed():
                request = replace(request, full_resync=False)
            plan = await asyncio.to_thread(self._store.plan, request, warehouse)
        facts = dict(plan.planned)
        self._observer.event("planned", sync=self._sync.name, **facts, skipped=plan.skipped, rows=plan.model_rows)
        for note in plan.notes:
            self._observer.event("note", sync=self._sync.name, text=NOTES[note])
        for text in warnings(plan):
            self._observer.event("warning", sync=self._sync.name, text=text)
        if _untouched(await self._progress(plan)):
            try:
                check_guards(self._sync, plan, lift_guards)
            except GuardError:
                await asyncio.to_thread(self._store.discard, plan)
                raise
        return plan

    async def preview(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        """A plan of its own, for looking at: no guards, and earlier runs are left as they are. To be discarded."""
        marked = replace(request, run_id=_PREVIEW + request.run_id)
        return replace(await asyncio.to_thread(self._store.plan, marked, warehouse), run_id=request.run_id)

    async def unfinished(self) -> Plan | None:
        """The plan of this run, if it is not committed."""
        plans = await asyncio.to_thread(self._store.unfinished, self._sync.name)
        return next((plan for plan in plans if plan.run_id == self._run_id), None)

    async def committed(self) -> RunReport | None:
        """The report of this run, if it is committed."""
        return await asyncio.to_thread(self._store.last_report, self._sync.name, self._run_id)

    async def reject(self, destination: Destination) -> None:
        """Give up the plan of this run: what is left of it is not sent. The next run plans anew."""
        plan = await self.unfinished()
        if plan is None:
            return
        if _untouched(await self._progress(plan)):
            await asyncio.to_thread(self._store.discard, plan)
        else:
            await self._fold(plan, destination)

    def check_whole(self, report: RunReport) -> None:
        """:raises RunConflictError: a run that is committed has rows left, and this is the last that is heard of it."""
        if report.retryable:
            raise RunConflictError(
                f"{report.retryable:,} rows of this run were not sent: its sync was changed, or another run came first",
                todo="nothing, if a later run has the model's rows; else trigger one",
                sync=self._sync.name,
                run=self._run_id,
            )

    async def load(self, plan: Plan, destination: Destination, share: Share | None = None) -> Checkpoint:
        """Send a plan, or a share of it.

        :raises IncompleteLoadError: rows are left; has the ``report`` of the plan so far.
        """
        share = share or Share.of(plan, 0, 1)
        progress = await asyncio.to_thread(self._store.checkpoints, plan)
        if plan.spec != self._sync.digest or any(part.closed for part in progress):
            raise RunConflictError(
                "the plan of this run is not to be sent any more: the sync was changed, or another run came first",
                todo="clear the run's tasks to plan again",
                sync=self._sync.name,
            )
        assert self._lease is not None, "a load is made inside a lease"
        loader = Loader(
            self._sync,
            plan,
            destination,
            self._context,
            still_held=self._lease.check,
            share=share,
            progress=progress,
        )
        try:
            checkpoint, left = await loader.load()
        except ReverseEtlError as error:
            error.with_report(await self._report_so_far(plan))
            raise
        if left:
            raise IncompleteLoadError(
                f"{left:,} of {share.until - share.after:,} rows could not be sent yet{_why(checkpoint)}",
                report=await self._report_so_far(plan),
                todo="nothing by hand: the next try of this task goes on with these rows; set retries on the task",
                sync=self._sync.name,
                connection=self._sync.destination.connection,
            )
        return checkpoint

    async def commit(self, plan: Plan, destination: Destination, *, seconds: float = 0.0) -> RunReport:
        """Fold what was settled into the snapshot. Raises nothing for rejected rows: see ``check_failure_policy``.

        Rows in doubt that no try has settled are what the sync's ``on_unknown`` says of them.

        :param seconds: that the run took so far; the longest load is taken if that is more.
        """
        assert self._lease is not None, "a commit is made inside a lease"
        checkpoint = await self._progress(plan)
        checkpoint.seconds = max(checkpoint.seconds, seconds)
        await self._lease.renew()
        if not checkpoint.closed:
            self._decide_doubts(plan, checkpoint, destination)
            checkpoint.closed = True
            await asyncio.to_thread(self._store.save_checkpoint, plan, checkpoint, partition=CLOSED)
        report = _report(self._sync, plan, checkpoint)
        await asyncio.to_thread(self._store.commit, plan, checkpoint, report, self._sync)
        self._observer.event("committed", sync=self._sync.name, run_id=plan.run_id)
        return report

    def _decide_doubts(self, plan: Plan, checkpoint: Checkpoint, destination: Destination) -> None:
        policy = self._sync.failure.on_unknown
        unsafe = unrepeatable(plan, self._sync, destination)
        for kind, rows in product(unsafe, checkpoint.in_doubt()):
            for seq in range(max(kind.start, rows.start), min(kind.stop, rows.stop)):
                if policy == "fail":
                    checkpoint.answer_lost.discard(seq)
                    checkpoint.fail(seq, ANSWER_LOST)
                else:
                    checkpoint.answer_lost.add(seq)
                if policy != "resend":  # by the next plan, as it is not in the snapshot
                    checkpoint.settled.add(seq, seq)

    async def _settle_unfinished(self, destination: Destination) -> Plan | RunReport | None:
        """Bring earlier runs to an end; returns the unfinished plan of this run, if it can be resumed.

        Of this run's own commit that was cut short, the report, if nothing is left of the run.
        """
        for plan in await asyncio.to_thread(self._store.unfinished, self._sync.name):
            if plan.run_id.startswith(_PREVIEW):
                await asyncio.to_thread(self._store.discard, plan)
                continue
            progress, own = await self._progress(plan), plan.run_id == self._run_id
            if progress.closed:
                report = await self._fold(plan, destination)
                if own and report and not report.retryable:
                    return report
                continue
            resumable = plan.spec == self._sync.digest
            if own and resumable:
                return plan
            if _untouched(progress):
                try:
                    check_guards(self._sync, plan)
                except GuardError:
                    await asyncio.to_thread(self._store.discard, plan)
                    continue
            if self._sync.mode == "append" and resumable:
                await self.load(plan, destination)
                await self.commit(plan, destination)
            else:
                await self._fold(plan, destination)
        return None

    async def _fold(self, plan: Plan, destination: Destination) -> RunReport | None:
        """Commit a run that nobody goes on with. None: it fits no snapshot any more, and was discarded."""
        assert self._lease is not None, "a commit is made inside a lease"
        try:
            report = await self.commit(plan, destination)
        except RunConflictError as error:
            if not error.outdated:
                raise
            await self._lease.renew()  # else it is another run's to commit
            # The snapshot that it was made for is lost. The next plan finds that out, and sends all rows.
            await asyncio.to_thread(self._store.discard, plan)
            self._observer.event("given_up", sync=self._sync.name, run_id=plan.run_id)
            return None
        self._observer.event("folded", sync=self._sync.name, run_id=plan.run_id, unknown=report.unknown)
        return report

    def _repeatable(self, destination: Destination) -> bool:
        """Whether everything that this sync sends may be sent twice."""
        return destination.capabilities.idempotent.issuperset(OPERATIONS[self._sync.mode].values())

    async def _report_so_far(self, plan: Plan) -> RunReport:
        return _report(self._sync, plan, await self._progress(plan))

    async def _progress(self, plan: Plan) -> Checkpoint:
        parts = await asyncio.to_thread(self._store.checkpoints, plan)
        return next((part for part in parts if part.closed), None) or Checkpoint.merged(parts)


def _untouched(checkpoint: Checkpoint) -> bool:
    """Whether nothing of a plan was sent yet."""
    return not (checkpoint.in_doubt() or len(checkpoint.settled) or checkpoint.closed)


def _why(checkpoint: Checkpoint) -> str:
    """The most frequent reasons why rows were left, as the end of a sentence."""
    only = Checkpoint(reasons=checkpoint.reasons, left=checkpoint.left)
    texts = [reason_text(reason) for reason in only.counted_reasons()[:3]]
    return f": {'; '.join(texts)}" if texts else ""


def _report(sync: Sync, plan: Plan, checkpoint: Checkpoint) -> RunReport:
    # What is closed is not sent any more by this run, though perhaps by the next.
    in_doubt = sum(1 for seq in checkpoint.answer_lost if seq not in checkpoint.settled) if checkpoint.closed else 0
    return RunReport(
        run_id=plan.run_id,
        planned=plan.planned,
        accepted=checkpoint.count(Outcome.ACCEPTED),
        rejected=checkpoint.count(Outcome.REJECTED),
        retryable=plan.total - len(checkpoint.settled) - in_doubt,
        unknown=checkpoint.count(Outcome.UNKNOWN) + in_doubt,
        skipped=checkpoint.count(Outcome.SKIPPED) + plan.skipped,
        requests=checkpoint.requests,
        seconds=checkpoint.seconds,
        reasons=tuple(checkpoint.counted_reasons(reasons(plan))),
        given_up=plan.given_up,
        model_rows=known_rows(sync, plan),
        invalid=plan.causes,
    )
