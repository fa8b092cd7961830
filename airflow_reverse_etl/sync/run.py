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
from collections.abc import Awaitable, Callable

from airflow_reverse_etl.errors import GuardError, IncompleteLoadError
from airflow_reverse_etl.sync.guards import check_failure_policy, check_guards
from airflow_reverse_etl.sync.lease import held
from airflow_reverse_etl.sync.load import Loader
from airflow_reverse_etl.sync.ports import (
    Clock,
    Destination,
    Observer,
    Plan,
    PlanRequest,
    StateStore,
    Warehouse,
)
from airflow_reverse_etl.sync.receipts import Checkpoint, Outcome, Report
from airflow_reverse_etl.sync.spec import Sync


async def run(
    sync: Sync,
    *,
    query: str,
    primary_key: tuple[str, ...],
    warehouse: Warehouse,
    store: StateStore,
    destination: Destination,
    run_id: str,
    observer: Observer,
    clock: Clock,
    holder: str = "",
) -> Report:
    """Bring the destination up to date with the model, once.

    :param query: the model as a SELECT in the warehouse's dialect.
    :param primary_key: column names; may be empty in mode ``append`` only.
    :param run_id: stable over the retries of one task. A run that is committed is not repeated in mode ``append``;
        in the other modes a new plan is made, which sends only what is not delivered yet.
    :param holder: who this is, told to a run that finds the sync taken; the same for every try. Default: ``run_id``.
    :raises RunConflictError: another run of the sync is at work, or took over from this one.
    :raises GuardError: nothing was sent.
    :raises IncompleteLoadError: rows are left for a later try with the same ``run_id``; has ``report``.
    :raises FailurePolicyError: committed, but with more rejected rows than the sync allows; has ``report``.
    """
    started = clock.monotonic()
    async with held(store, sync.name, holder=holder or run_id, clock=clock) as still_held:
        sender = _Sender(
            sync, store=store, destination=destination, observer=observer, clock=clock, still_held=still_held
        )
        plan = await sender.settle_unfinished(run_id)
        if plan is None:
            if sync.mode == "append" and (report := await asyncio.to_thread(store.last_report, sync.name, run_id)):
                return report
            request = PlanRequest(sync, query, primary_key, run_id, clock.now())
            plan = await asyncio.to_thread(store.plan, request, warehouse)
        observer.event("planned", sync=sync.name, **dict(plan.planned), skipped=plan.skipped, rows=plan.model_rows)
        report = await sender.send(plan, started)
    check_failure_policy(sync, report)
    return report


class _Sender:
    """Loads and commits plans of one sync."""

    def __init__(
        self,
        sync: Sync,
        *,
        store: StateStore,
        destination: Destination,
        observer: Observer,
        clock: Clock,
        still_held: Callable[[], Awaitable[None]],
    ) -> None:
        self._still_held = still_held
        self._sync, self._store, self._destination = sync, store, destination
        self._observer, self._clock = observer, clock

    async def settle_unfinished(self, run_id: str) -> Plan | None:
        """Bring earlier runs to an end; returns the unfinished plan of this run, if it can be resumed."""
        for plan in await asyncio.to_thread(self._store.unfinished, self._sync.name):
            resumable = plan.spec == self._sync.digest
            if plan.run_id == run_id and resumable:
                return plan
            if self._sync.mode == "append" and resumable:
                await self.send(plan, self._clock.monotonic())
            else:
                checkpoint = Checkpoint.merged(await asyncio.to_thread(self._store.checkpoints, plan))
                self._observer.event("folded", sync=self._sync.name, run_id=plan.run_id)
                await self._commit(plan, checkpoint, left=plan.total - len(checkpoint.settled))
        return None

    async def send(self, plan: Plan, started: float) -> Report:
        """Check the guards of a plan that is new, load it, commit it."""
        checkpoint = Checkpoint.merged(await asyncio.to_thread(self._store.checkpoints, plan))
        if not checkpoint.dispatched and not len(checkpoint.settled):
            try:
                check_guards(self._sync, plan)
            except GuardError:
                await asyncio.to_thread(self._store.discard, plan)
                raise
        left = 0
        if len(checkpoint.settled) < plan.total:
            loader = Loader(
                self._sync,
                plan,
                store=self._store,
                destination=self._destination,
                observer=self._observer,
                clock=self._clock,
            )
            checkpoint, left = await loader.load()
        checkpoint.seconds = max(checkpoint.seconds, self._clock.monotonic() - started)
        if left:
            raise self._incomplete(plan, checkpoint, left)
        return await self._commit(plan, checkpoint, left=0)

    async def _commit(self, plan: Plan, checkpoint: Checkpoint, *, left: int) -> Report:
        report = _report(plan, checkpoint, left)
        await self._still_held()
        await asyncio.to_thread(self._store.commit, plan, checkpoint, report, self._sync)
        self._observer.event("committed", sync=self._sync.name, run_id=plan.run_id)
        return report

    def _incomplete(self, plan: Plan, checkpoint: Checkpoint, left: int) -> IncompleteLoadError:
        error = IncompleteLoadError(
            f"{left:,} of {plan.total:,} rows could not be sent yet: the destination did not take them",
            todo="nothing by hand: the next try of this task goes on with these rows; set retries on the task",
            sync=self._sync.name,
            connection=self._sync.destination.connection,
        )
        error.report = _report(plan, checkpoint, left)
        return error


def _report(plan: Plan, checkpoint: Checkpoint, left: int) -> Report:
    return Report(
        run_id=plan.run_id,
        planned=plan.planned,
        accepted=checkpoint.count(Outcome.ACCEPTED),
        rejected=checkpoint.count(Outcome.REJECTED),
        retryable=left,
        unknown=checkpoint.count(Outcome.UNKNOWN),
        skipped=checkpoint.count(Outcome.SKIPPED) + plan.skipped,
        requests=checkpoint.requests,
        seconds=checkpoint.seconds,
        errors=tuple(checkpoint.errors()),
    )
