"""One run of a sync: plan → load → commit. Only this module knows the order.

Guarantees of a run, even if processes are killed at any moment:

* A row enters the snapshot only after the destination acknowledged it. Delivery is at least once. If the operation is
  idempotent at the destination, the effect is that of exactly once.
* A call with the ``run_id`` of an unfinished run resumes it from its last checkpoint, with the same change set.
* An unfinished run with an earlier ``run_id`` is committed first, so that its delivered rows are not sent again. In
  mode ``append``, which has no snapshot, its remaining rows are sent first.
* Rows in a job, which the destination answers later, are not sent again while the destination may be at work on them.
  The next try of the run, or a later run, reads the results first.
* A plan with removed rows that is older than a day is not resumed; the run plans again.
* A rejected row stays out of the snapshot. The next run plans it again, with its newest values.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import timedelta

from airflow_reverse_etl.errors import (
    AttentionError,
    ConfigurationError,
    GuardError,
    IncompleteLoadError,
    ReverseEtlError,
    RunConflictError,
)
from airflow_reverse_etl.spec.comparison import note_text
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import OPERATIONS
from airflow_reverse_etl.spec.receipts import Outcome, job_names, reason_text, rows_text
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.comparing import reasons, warnings
from airflow_reverse_etl.sync.context import RunContext, RunOptions, SourceModel, Wait
from airflow_reverse_etl.sync.fields.inspection import inspect
from airflow_reverse_etl.sync.guards import check_failure_policy, check_guards, known_rows
from airflow_reverse_etl.sync.lease import Lease, held
from airflow_reverse_etl.sync.load.delivery import unrepeatable
from airflow_reverse_etl.sync.load.jobs.terms import wait_for_jobs
from airflow_reverse_etl.sync.load.loader import Loaded, Loader
from airflow_reverse_etl.sync.load.share import Share
from airflow_reverse_etl.sync.ports import (
    Destination,
    DestinationRegister,
    Plan,
    PlanRequest,
    StateStore,
    Warehouse,
)
from airflow_reverse_etl.sync.progress import Checkpoint

#: Partition number of the checkpoint that is being committed.
CLOSED = -1
#: Partition number of the removed rows that a task of their own sends.
REMOVAL = -2
#: Partition number of what a run has read of jobs that it does not resume.
COLLECTION = -3

#: Prefix of a preview's run id. It marks the plan of an interrupted preview, so that the plan is never sent.
_PREVIEW_PREFIX = "preview of "

_NO_OPTIONS = RunOptions()


async def run_sync(
    sync: Sync,
    model: SourceModel,
    destination: Destination,
    context: RunContext,
    options: RunOptions = _NO_OPTIONS,
) -> RunReport:
    """Bring the destination up to date with the model, once, in this process.

    Waits as long as another run is at work, or as the destination asks.

    A committed run is not repeated in a sync that tracks nothing (mode ``append``, ``track: none``). In any other sync,
    a second call with its run id makes a new plan, which sends only what is not delivered yet.

    :raises RunConflictError: another run of the sync took over from this one.
    :raises GuardError: a guard stopped the plan; nothing was sent.
    :raises IncompleteLoadError: rows are left for a later try with the same run id; has ``report``.
    :raises FailurePolicyError: the run is committed, with more failed rows than the sync allows; has ``report``.
    """
    planned = False
    clock = context.clock
    while isinstance(found := await attempt_sync(sync, model, destination, context, options, planned=planned), Wait):
        planned = planned or found.planned
        context = replace(context, finished=context.finished | found.finished)
        context.observer.event("warning", sync=sync.name, text=f"waits {found}")
        await clock.sleep((found.until - clock.now()).total_seconds())
    return found


async def attempt_sync(
    sync: Sync,
    model: SourceModel,
    destination: Destination,
    context: RunContext,
    options: RunOptions = _NO_OPTIONS,
    *,
    planned: bool = False,
) -> RunReport | Wait:
    """Do :func:`run_sync` until it is finished, or until it has to wait for long.

    :param planned: an earlier attempt had made the plan before it had to wait. If another run has taken it over
        since, returns the report with which that run committed it.
    :returns: the report; or the wait, after which the same call resumes the run. Nothing is held meanwhile.
    :raises RunConflictError: as :func:`run_sync`; or, with ``until``, another run holds the lease for long and
        ``context.deferrable`` is True.
    """
    clock = context.clock
    started = clock.monotonic()
    if options.records:
        check_selectable(sync)
    steps = Run(sync, context)
    async with steps.lease():
        if sync.dry_run:
            return await steps.dry_run(steps.request(model, options), model.warehouse, destination, options.lift_guards)
        found: Plan | RunReport | Wait | None = await steps.plan_or_report() if planned else None
        if isinstance(found, RunReport):
            steps.check_complete(found)
        else:
            request = steps.request(model, options)
            found = await steps.plan(request, model.warehouse, destination, lift_guards=options.lift_guards)
        if isinstance(found, Plan):
            if wait := await steps.load_selected(found, destination, options.records):
                return wait
            found = await steps.finish(found, destination, seconds=clock.monotonic() - started)
    if isinstance(found, RunReport):
        check_failure_policy(sync, found)
    return found


async def send_one(
    sync: Sync, model: SourceModel, destination: Destination, context: RunContext, *, key: str
) -> RunReport:
    """Do a run that sends one row of its plan, to try a sync on a record that a person looks at.

    It is a run like any other: it holds the lease, its plan must be within the guards, and a row that the destination
    acknowledged enters the snapshot. The other rows of the plan are left for the next run.

    :param key: primary key of the row, as plans and reports show it.
    :returns: the report, in which the other rows are ``retryable``.
    :raises ConfigurationError: the sync keeps no record, so its other rows would be lost; or the plan has no such row.
    :raises RunConflictError: an earlier run has to be finished first.
    :raises GuardError: a guard stopped the plan; nothing was sent.
    :raises FailurePolicyError: the row was rejected; has ``report``.
    """
    check_selectable(sync)
    if sync.dry_run:
        raise ConfigurationError("a dry run sends nothing", todo="remove dry_run, or look at the plan", sync=sync.name)
    steps = Run(sync, context)
    async with steps.lease():
        plan = await steps.plan(steps.request(model), model.warehouse, destination)
        if not isinstance(plan, Plan):
            raise RunConflictError(
                "an earlier run of this sync is not finished", todo="run the sync, then try again", sync=sync.name
            )
        seq = await asyncio.to_thread(_number_of, context.store, plan, key)
        if seq is None:
            await steps.discard_untouched(plan)
            raise ConfigurationError(
                "the plan does not send a row with this key",
                todo="check the key; a row that has not changed, or is invalid or given up, is not sent",
                sync=sync.name,
            )
        await steps.load(plan, destination, Share(0, seq - 1, seq))
        report = await steps.commit(plan, destination)
    check_failure_policy(sync, report)
    return report


class Run:
    """Steps of one run, for :func:`run_sync` in one process, or for consecutive tasks on many workers.

    Call each step inside a :meth:`lease`: first ``plan``, then ``load`` once for each share of the plan, in any order
    or at the same time, then ``commit``. If the shares begin after the removed rows, ``remove`` comes before them. An
    interrupted step can be repeated.
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
            on_destination_change=options.on_destination_change,
        )

    @contextlib.asynccontextmanager
    async def lease(self, *, release: bool = True) -> AsyncIterator[None]:
        """Hold the sync's lease inside the block.

        The holder is the run's id, so that all steps and tries of one run share the lease, and other runs do not.

        :param release: release the lease at the end. Otherwise the next step of the run takes it over, or it expires.
        :raises RunConflictError: another run took it over; or, with ``until``, holds it for long, if the context is
            deferrable.
        """
        async with held(
            self._store,
            self._sync.name,
            holder=self._run_id,
            clock=self._context.clock,
            timing=self._context.timing,
            label=self._context.label,
            release=release,
            deferrable=self._context.deferrable,
            on_wait=self._report_wait,
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
    ) -> Plan | RunReport | Wait:
        """Resume the unfinished plan of this run, or make a new one within the sync's guards.

        Finishes earlier runs of the sync first. A run whose commit was interrupted is only committed. In a sync that
        tracks nothing, a committed run is not planned again.

        :param approval: a person approves the plans of this sync. A plan of which nothing was sent yet, of this run or
            another, is then discarded, as it may not have been approved.
        :param lift_guards: names of guards that do not stop this run's plan. The plan of an earlier run is sent only
            within all guards.
        :returns: the plan; the report of this run if it is already committed, or of an earlier one whose rows have used
            up the requests of the day; or a wait before the rows of an earlier run can be sent.
        :raises GuardError: a guard stopped the plan, which is discarded.
        :raises RunConflictError: this run is finished, with rows left that no other run sends.
        """
        # Finish what earlier runs, or earlier tries of this run, have begun.
        if approval:
            for unfinished in await asyncio.to_thread(self._store.unfinished, self._sync.name):
                if _untouched(await self.progress(unfinished)):
                    await asyncio.to_thread(self._store.discard, unfinished)
        plan = await self._settle_unfinished(destination)
        if isinstance(plan, (RunReport, Wait)):
            return plan

        # Make a new plan, unless the run is committed and would send its rows a second time.
        if plan is None:
            if not self._sync.tracked and (report := await self.committed()):
                self.check_complete(report)
                return report
            may_repeat = destination.capabilities.may_repeat(self._sync.mode)
            if request.full_resync and not may_repeat and await self.committed():
                request = replace(request, full_resync=False)
            plan = await self._make(await self._addressed(request, destination), warehouse)
        self._report_plan(plan)

        # A plan that was sent in part has passed the guards.
        if _untouched(await self.progress(plan)):
            try:
                check_guards(self._sync, plan, lift_guards)
            except GuardError:
                await asyncio.to_thread(self._store.discard, plan)
                raise
        return plan

    async def _make(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        """Make a plan. In mode ``replace`` it has no row if nothing differs, and else every row."""
        plan = await asyncio.to_thread(self._store.plan, request, warehouse)
        if self._sync.mode != "replace" or not (plan.total or plan.forgotten):
            return plan
        await asyncio.to_thread(self._store.discard, plan)
        whole = await asyncio.to_thread(self._store.plan, replace(request, whole=True), warehouse)
        if whole.whole:
            text = (
                f"{rows_text(plan.planned.added)} added, {plan.planned.changed:,} changed, {plan.forgotten:,} gone: "
                "the whole content is replaced"
            )
            self._observer.event("note", sync=self._sync.name, text=text)
        return whole

    async def _addressed(self, request: PlanRequest, destination: Destination) -> PlanRequest:
        """Add to a request what the plan must know of its destination. A mirror must know who else writes there.

        :raises SpecError: the mapping does not fit the destination's fields.
        """
        request = request.to(destination)
        request = replace(request, account=await inspect(self._sync, destination, self._context))
        if self._sync.mode != "mirror" or not request.address or not isinstance(self._store, DestinationRegister):
            return request
        writers = await asyncio.to_thread(self._store.writers, request.place)
        days = {name: f"{last:%Y-%m-%d}" for name, last in sorted(writers.items()) if name != self._sync.name}
        return replace(request, other_writers=days)

    async def _register(self, plan: Plan, destination: Destination) -> None:
        """Record that the sync writes to its destination, if this plan has rows to send."""
        address = plan.place or getattr(destination, "address", "")
        if plan.total and address and isinstance(self._store, DestinationRegister):
            await asyncio.to_thread(self._store.register_writer, self._sync.name, address, self._context.clock.now())

    def _report_wait(self, error: RunConflictError) -> None:
        self._observer.event("warning", sync=self._sync.name, text=f"waits for its lease: {error.what}")

    def _report_plan(self, plan: Plan) -> None:
        planned = dict(plan.planned)
        self._observer.event("planned", sync=self._sync.name, **planned, skipped=plan.skipped, rows=plan.model_rows)
        for note in plan.notes:
            text = note_text(note, snapshot_rows=plan.snapshot_rows)
            self._observer.event("note", sync=self._sync.name, text=text)
        for text in warnings(self._sync, plan):
            self._observer.event("warning", sync=self._sync.name, text=text)

    async def preview(self, request: PlanRequest, warehouse: Warehouse, destination: Destination) -> Plan:
        """Make a plan that is only shown. It ignores guards and leaves earlier runs alone; the caller discards it."""
        marked = replace(request, run_id=_PREVIEW_PREFIX + request.run_id)
        plan = await self._make(await self._addressed(marked, destination), warehouse)
        return replace(plan, run_id=request.run_id)

    async def dry_run(
        self, request: PlanRequest, warehouse: Warehouse, destination: Destination, lift_guards: Collection[str]
    ) -> RunReport:
        """Make a plan, check its guards, and return a report in which nothing was sent. Nothing is recorded.

        :raises GuardError: a guard would stop the plan.
        """
        plan = await self.preview(request, warehouse, destination)
        try:
            check_guards(self._sync, plan, lift_guards)
            self._observer.event("note", sync=self._sync.name, text=f"dry run: {rows_text(plan.total)} would be sent")
            return replace(_report(self._sync, plan, destination, Checkpoint()), retryable=0)
        finally:
            await asyncio.to_thread(self._store.discard, plan)

    async def unfinished(self) -> Plan | None:
        """Return the plan of this run if it is neither committed nor discarded, else None."""
        plans = await asyncio.to_thread(self._store.unfinished, self._sync.name)
        return next((plan for plan in plans if plan.run_id == self._run_id), None)

    async def committed(self) -> RunReport | None:
        """Return the report of this run if it is committed, else None."""
        return await asyncio.to_thread(self._store.last_report, self._sync.name, self._run_id)

    async def plan_or_report(self) -> Plan | RunReport:
        """Return the unfinished plan of this run, or its report if this or another run has committed it.

        :raises RunConflictError: the plan does not exist any more.
        """
        found = await self.unfinished() or await self.committed()
        if found is None:
            raise RunConflictError(
                "the plan of this run does not exist any more: it was rejected, or another run of the sync came first",
                todo="clear the run's tasks to plan again, and set max_active_runs=1 on the DAG",
                sync=self._sync.name,
            )
        return found

    async def reject(self, destination: Destination) -> None:
        """Reject the plan of this run: its remaining rows are not sent. The next run makes a new plan."""
        plan = await self.unfinished()
        if plan is None:
            return
        progress = await self.progress(plan)
        if _untouched(progress):
            await asyncio.to_thread(self._store.discard, plan)
        elif not progress.jobs:  # else the next run collects the jobs, and commits the plan
            await self._fold(plan, destination)

    def check_complete(self, report: RunReport) -> None:
        """Make sure that this run, which is committed, has no rows left that no run sends.

        If the sync is tracked, the run that has committed this one plans these rows again.

        :raises RunConflictError: it has.
        """
        if report.retryable and not self._sync.tracked:
            raise RunConflictError(
                f"{rows_text(report.retryable)} of this run not sent: the sync was changed, or another run came first",
                todo="trigger a new run, unless a later run covers these rows",
                sync=self._sync.name,
                run=self._run_id,
            )

    async def remove(self, plan: Plan, destination: Destination) -> Loaded:
        """Send the removed rows of a plan, before shares of the other rows are loaded.

        Rows whose attempts are used up hold back no other row. The next run plans them again.

        :raises IncompleteLoadError: the destination is down.
        :raises AttentionError: the plan is too old. No retry helps: only the task ``plan`` plans again.
        :raises RunConflictError: the plan may not be sent any more.
        """
        if self._is_too_old(plan):
            raise AttentionError(
                f"the plan is older than a day, and would remove {rows_text(plan.planned.removed)}",
                todo="clear the group to plan again",
                sync=self._sync.name,
            )
        return await self.load(plan, destination, Share(REMOVAL, 0, plan.removed_first))

    async def check_removed(self, plan: Plan) -> None:
        """Make sure that the removed rows of a plan were sent before its other rows.

        :raises ConfigurationError: they were not.
        """
        if plan.removed_first and REMOVAL not in await asyncio.to_thread(self._store.checkpoints, plan):
            raise ConfigurationError(
                f"no task has sent the {plan.removed_first:,} removed rows of this plan",
                todo="put a ReverseEtlRemoveOperator before the loads, as reverse_etl() does for mode mirror",
                sync=self._sync.name,
            )

    async def load(self, plan: Plan, destination: Destination, share: Share | None = None) -> Loaded:
        """Send a plan, or a share of it, until it is sent or has to wait for long.

        :raises IncompleteLoadError: rows are left for a later try; has the ``report`` of the plan so far.
        :raises RunConflictError: the plan may not be sent any more.
        """
        share = share or Share.of(plan, 0, 1)
        progress = await asyncio.to_thread(self._store.checkpoints, plan)
        if plan.spec != self._sync.digest or any(part.closed for part in progress.values()):
            raise RunConflictError(
                "the plan of this run is outdated: the sync was changed, or another run came first",
                todo="clear the run's tasks to plan again",
                sync=self._sync.name,
            )
        assert self._lease is not None, "load() needs a lease"
        loader = Loader(
            self._sync,
            plan,
            destination,
            self._context,
            check_lease=self._lease.check,
            share=share,
        )
        try:
            loaded = await loader.load()
        except ReverseEtlError as error:
            error.with_report(await self._report_so_far(plan, destination))
            raise
        # The rows of a content that is replaced are delivered together, or not at all.
        postponed = loaded.waiting or (loaded.checkpoint.is_spent and not plan.whole)
        if loaded.left and not postponed and (loader.stopped or share.partition != REMOVAL):
            raise IncompleteLoadError(
                f"{loaded.left:,} of {rows_text(share.until - share.after)} could not be sent yet"
                f"{_why(loaded.checkpoint)}",
                report=await self._report_so_far(plan, destination),
                todo="set retries on the task: its next try sends these rows",
                sync=self._sync.name,
                connection=self._sync.destination.connection,
            )
        return loaded

    async def load_selected(self, plan: Plan, destination: Destination, records: Collection[str]) -> Wait | None:
        """Send a plan, or only the rows of some records; the next run plans the others.

        :returns: a wait after which the same call continues, if the destination asks for it.
        :raises ConfigurationError: the plan does not send all of these rows. Nothing was sent, and it is discarded.
        """
        if not records:
            return (await self.load(plan, destination)).waiting if plan.has_work else None
        numbers = await asyncio.to_thread(self._store.sequence_numbers, plan, records)
        unknown = sorted(set(records) - set(numbers))
        # A task that is tried again after its commit finds fewer rows to send, or none.
        if unknown and not await self.committed():
            await self.discard_untouched(plan)
            raise ConfigurationError(
                f"the plan does not send {len(unknown):,} of the {len(records):,} records asked for: "
                f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}",
                todo="check the names; a row that has not changed, or is invalid or given up, is not sent",
                sync=self._sync.name,
            )
        # In the order of the plan, so that removed rows go first, and a later try has the same shares.
        for partition, seq in enumerate(sorted(numbers.values())):
            loaded = await self.load(plan, destination, Share(partition, seq - 1, seq))
            if loaded.waiting:
                return loaded.waiting
        return None

    async def discard_untouched(self, plan: Plan) -> None:
        """Discard a plan if nothing of it was sent."""
        if _untouched(await self.progress(plan)):
            await asyncio.to_thread(self._store.discard, plan)

    async def finish(self, plan: Plan, destination: Destination, *, seconds: float = 0.0) -> RunReport:
        """Commit a loaded plan, or keep it open if its remaining rows would be lost.

        Rows are left when the requests of the day are used up. The next run plans them again. It cannot do so in mode
        ``append``, which has no snapshot, and must not if sending rows twice is not safe: it then sends them by this
        plan first.

        :param seconds: as :meth:`commit` takes it.
        """
        checkpoint = await self.progress(plan)
        if not checkpoint.is_spent:
            return await self.commit(plan, destination, seconds=seconds)
        left = plan.total - len(checkpoint.settled)
        text = f"{rows_text(left)} left for the next run, as the requests of the day are used up"
        self._observer.event("warning", sync=self._sync.name, text=text)
        if self._keeps_open(checkpoint, destination):
            return await self._report_so_far(plan, destination)
        return await self.commit(plan, destination, seconds=seconds)

    def _keeps_open(self, progress: Checkpoint, destination: Destination) -> bool:
        """Return True if the remaining rows of a plan must be sent by this plan, and by no later one."""
        if progress.jobs or self._sync.mode == "append":
            return True
        return progress.is_spent and not destination.capabilities.may_repeat(self._sync.mode)

    async def commit(self, plan: Plan, destination: Destination, *, seconds: float = 0.0) -> RunReport:
        """Fold the settled rows into the snapshot.

        Rows in doubt that no try has settled are treated as the sync's ``on_unknown`` says. Rejected rows raise nothing
        here; see :func:`check_failure_policy`.

        :param seconds: duration of the run so far; the report has the duration of the longest load if that is more.
        :raises IncompleteLoadError: a job has rows of the plan.
        """
        assert self._lease is not None, "a commit needs a lease"
        checkpoint = await self.progress(plan)
        if checkpoint.jobs and not checkpoint.closed:
            raise await self._still_in_jobs(plan, destination, checkpoint)
        checkpoint.lasted(seconds)
        await self._lease.renew()
        if not checkpoint.closed:
            checkpoint.close(self._sync.failure.on_unknown, unrepeatable(plan, self._sync, destination))
            await asyncio.to_thread(self._store.save_checkpoint, plan, checkpoint, partition=CLOSED)
        report = _report(self._sync, plan, destination, checkpoint)
        report = replace(report, ids_problem=await self._merge_ids())
        await self._register(plan, destination)
        await asyncio.to_thread(self._store.commit, plan, checkpoint, report, self._sync)
        self._observer.event("committed", sync=self._sync.name, run_id=plan.run_id)
        return report

    async def _merge_ids(self) -> str:
        """Merge the ids of records into the sync's table; returns what is wrong, which the next run repeats."""
        if self._context.record_ids is None:
            return ""
        try:
            await asyncio.to_thread(self._context.record_ids.merge)
        except ReverseEtlError as error:
            text = f"the ids of the records were not written, and the next run writes them: {error.what}"
            self._observer.event("warning", sync=self._sync.name, text=text)
            return error.what
        return ""

    async def _settle_unfinished(self, destination: Destination) -> Plan | RunReport | Wait | None:
        """Finish earlier runs of the sync.

        :returns: the unfinished plan of this run, if it can be resumed; the report of this run, if its commit was
            interrupted and no rows are left; the report of an earlier run, if its rows have used up the requests of the
            day; a wait before the rows of an earlier run can be sent; None otherwise.
        """
        for plan in await asyncio.to_thread(self._store.unfinished, self._sync.name):
            if plan.run_id.startswith(_PREVIEW_PREFIX):
                await asyncio.to_thread(self._store.discard, plan)
                continue
            progress = await self.progress(plan)
            own = plan.run_id == self._run_id
            resumable = plan.spec == self._sync.digest and not self._is_too_old(plan)

            # Nobody sends, commits or discards rows that the destination may still be at work on.
            if progress.jobs and not (own and resumable):
                collected = await self._collect(plan, destination, progress, own=own)
                if isinstance(collected, Wait):
                    return collected
                progress = collected

            # The commit was interrupted: complete it.
            if progress.closed:
                report = await self._fold(plan, destination)
                if own and report and not report.retryable:
                    return report
                continue

            too_old = self._is_too_old(plan)
            if too_old:
                text = f"plan of run {plan.run_id} is older than a day, so its rows to remove are planned again"
                self._observer.event("warning", sync=self._sync.name, text=text)
            if own and resumable:
                return plan

            # Nothing was sent of another run's plan: its guards still apply.
            if _untouched(progress) and (too_old or plan.whole or not self._is_within_guards(plan)):
                await asyncio.to_thread(self._store.discard, plan)
                continue

            # A commit would lose the remaining rows: no snapshot makes the next run plan them.
            if resumable and self._keeps_open(progress, destination):
                if found := await self._complete(plan, destination):
                    return found
            else:
                await self._fold(plan, destination)
        return None

    def _is_within_guards(self, plan: Plan) -> bool:
        """Return whether the sync's guards let a plan pass."""
        try:
            check_guards(self._sync, plan)
        except GuardError:
            return False
        return True

    async def _collect(
        self, plan: Plan, destination: Destination, progress: Checkpoint, *, own: bool
    ) -> Wait | Checkpoint:
        """Read the results of a plan's jobs, and settle their rows; nothing is sent.

        The jobs of another run are left to that run until a while after they are finished.

        :returns: the progress after that, or a wait before it.
        :raises IncompleteLoadError: a job has no result, or cannot be asked for.
        """
        assert self._lease is not None, "a collection needs a lease"
        share = Share(COLLECTION, 0, plan.total)
        arguments = (self._sync, plan, destination, self._context)
        refs = list(progress.jobs.values())
        now = self._context.clock.now()
        if not own and not progress.jobs.keys() <= self._context.finished and now < min(ref.deadline for ref in refs):
            asking = Loader(*arguments, check_lease=self._lease.check, share=share, collects=True)
            if await asking.has_jobs_at_work(refs):
                return wait_for_jobs(refs, now + timedelta(seconds=asking.poll_seconds), planned=False)
            reason = f"run {plan.run_id} may collect {job_names(refs)}"
            until = now + timedelta(seconds=self._context.timing.collection)
            return Wait(until, reason, finished=frozenset(progress.jobs))
        loaded = await Loader(*arguments, check_lease=self._lease.check, share=share, collects=True).load()
        if loaded.waiting:
            return replace(loaded.waiting, planned=False)
        progress = await self.progress(plan)
        if progress.jobs:
            raise await self._still_in_jobs(plan, destination, progress)
        return progress

    async def _still_in_jobs(self, plan: Plan, destination: Destination, progress: Checkpoint) -> IncompleteLoadError:
        return IncompleteLoadError(
            f"{job_names(list(progress.jobs.values()))} has {rows_text(len(progress.in_jobs()))} of run {plan.run_id}, "
            f"and no result yet{_why(progress)}",
            report=await self._report_so_far(plan, destination),
            todo="set retries on the task: its next try asks again",
            sync=self._sync.name,
            connection=self._sync.destination.connection,
        )

    async def _complete(self, plan: Plan, destination: Destination) -> RunReport | Wait | None:
        """Send the remaining rows of an earlier run, and commit it; returns why this run ends with that, if it does."""
        loaded = await self.load(plan, destination)
        if loaded.waiting:
            return replace(loaded.waiting, planned=False)  # this run's own plan comes later
        report = await self.finish(plan, destination)
        return report if loaded.checkpoint.is_spent else None

    async def _fold(self, plan: Plan, destination: Destination) -> RunReport | None:
        """Commit a run that is not resumed.

        :returns: its report, or None if the snapshot of its plan is lost; the plan is then discarded.
        """
        assert self._lease is not None, "a commit needs a lease"
        try:
            report = await self.commit(plan, destination)
        except RunConflictError as error:
            if not error.outdated:
                raise
            await self._lease.renew()  # raises if another run has the lease, and commits the plan
            # The snapshot of the plan is lost. The next plan notices the loss, and sends all rows.
            await asyncio.to_thread(self._store.discard, plan)
            self._observer.event("discarded", sync=self._sync.name, run_id=plan.run_id)
            return None
        self._observer.event("folded", sync=self._sync.name, run_id=plan.run_id, unknown=report.unknown)
        return report

    def _is_too_old(self, plan: Plan) -> bool:
        """Return True if a plan has removed rows, and is older than a day."""
        return (
            plan.planned.removed > 0 and self._context.clock.now() - plan.created_at > self._context.timing.removal_age
        )

    async def _report_so_far(self, plan: Plan, destination: Destination) -> RunReport:
        return _report(self._sync, plan, destination, await self.progress(plan))

    async def progress(self, plan: Plan) -> Checkpoint:
        """Return the checkpoint that is being committed, or else the merged checkpoints of all partitions."""
        parts = await asyncio.to_thread(self._store.checkpoints, plan)
        closed = next((part for part in parts.values() if part.closed), None)
        return closed or Checkpoint.merged(parts.values())


def check_selectable(sync: Sync) -> None:
    """Make sure that a run of some rows leaves the others for the next run.

    :raises ConfigurationError: the sync keeps no record, or replaces the whole content of its object.
    """
    if sync.mode == "replace":
        raise ConfigurationError(
            "mode replace sends the whole content of its object, so a run of some rows would lose the others",
            todo="look at the request with `reverse-etl show`",
            sync=sync.name,
        )
    if not sync.tracked:
        raise ConfigurationError(
            "the sync keeps no record of what was delivered, so a run of some rows would lose the others",
            todo="try the mapping with another sync, in a mode that tracks its rows",
            sync=sync.name,
        )


def _number_of(store: StateStore, plan: Plan, key: str) -> int | None:
    """Return the sequence number of the row with a key; None if the plan does not send it."""
    with contextlib.closing(store.changes(plan)) as changes:
        for batch in changes:
            keys = batch.column("key").to_pylist()
            if key in keys:
                return int(batch.column("seq")[keys.index(key)].as_py())
    return None


def _untouched(checkpoint: Checkpoint) -> bool:
    """Return True if nothing of a plan was sent yet."""
    return not (checkpoint.in_doubt() or checkpoint.settled or checkpoint.closed or checkpoint.jobs)


def _why(checkpoint: Checkpoint) -> str:
    """Format the most frequent reasons why rows were left, as the end of a sentence."""
    only = Checkpoint(reasons=checkpoint.reasons, left=checkpoint.left)
    texts = [reason_text(reason) for reason in only.counted_reasons()[:3]]
    return f": {'; '.join(texts)}" if texts else ""


def _report(sync: Sync, plan: Plan, destination: Destination, checkpoint: Checkpoint) -> RunReport:
    # A closed plan is not sent any more by this run, so its open rows without an answer are unknown, not retryable.
    unknown = 0
    if checkpoint.closed:
        unknown = sum(1 for seq in checkpoint.answer_lost if seq not in checkpoint.settled)
    return RunReport(
        run_id=plan.run_id,
        planned=plan.planned,
        accepted=checkpoint.count(Outcome.ACCEPTED),
        rejected=checkpoint.count(Outcome.REJECTED),
        retryable=plan.total - len(checkpoint.settled) - unknown,
        unknown=checkpoint.count(Outcome.UNKNOWN) + unknown,
        skipped=checkpoint.count(Outcome.SKIPPED) + plan.skipped,
        requests=checkpoint.requests,
        seconds=checkpoint.seconds,
        reasons=tuple(checkpoint.counted_reasons(reasons(plan))),
        given_up=plan.given_up,
        moved=plan.moved,
        held=plan.held,
        other_writers=plan.other_writers,
        model_rows=known_rows(sync, plan),
        invalid=plan.causes,
        answers=_answers(sync, destination, checkpoint),
    )


def _answers(sync: Sync, destination: Destination, checkpoint: Checkpoint) -> dict[str, str]:
    """Return how much the destination's answers are worth, by operation of the sync's mode."""
    supported = destination.capabilities.operations
    used = [operation for operation in OPERATIONS[sync.mode].values() if operation in supported]
    return {
        operation.value: "taken" if operation in checkpoint.taken else supported[operation].answers
        for operation in used
    }
