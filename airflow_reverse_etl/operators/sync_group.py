"""Task group of a sync spread over workers: plan, approve, remove, load in mapped tasks, commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg, chain

from airflow_reverse_etl.compat import AirflowSkipException, Context, TaskGroup
from airflow_reverse_etl.operators.base import PlanningOperator, SyncOperator, close_quietly, records_url, run_id_of
from airflow_reverse_etl.sync.context import Wait
from airflow_reverse_etl.wiring import open_warehouse

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.spec.report import RunReport
    from airflow_reverse_etl.sync.context import RunContext, RunOptions, SourceModel
    from airflow_reverse_etl.sync.load.loader import Loaded
    from airflow_reverse_etl.sync.ports import Destination, Plan
    from airflow_reverse_etl.sync.progress import Checkpoint

#: Most keys that a plan shows for each kind of change.
_SAMPLE = 5


class ReverseEtlPlanOperator(PlanningOperator):
    """Plan a sync without sending anything: what would be sent, and how long it would take.

    Returns the shares to load, for ``ReverseEtlLoadOperator.expand(share=…)``: a list of
    ``{"run_id", "partition", "partitions"}``, empty if there is nothing to send. A try after the first always returns
    ``partitions`` shares, some of which may have no rows. Pushes the XCom ``plan``: ``run_id``, ``planned``,
    ``total`` (rows to send), ``shares``, ``skipped``, ``given_up`` (the skipped rows that were rejected too often or
    for too long), ``moved``, ``held``, ``invalid`` (cause → number of ``rows``, and ``keys`` of some),
    ``model_rows``, ``requests`` and ``minutes`` (estimates at the sync's rate; ``minutes`` is null without one),
    ``guards`` (the verdict of each), ``sample`` (kind of change → keys), ``changed_fields`` (key of a changed row in
    the sample → names of the destination fields that changed, null if they are not known), ``drift``, if the model
    changed since the last run, and ``text``, a summary for a person.

    The changed fields are known for rows that were delivered with the current mapping, since the sync has
    ``track: {fields: true}``.

    Guards are checked here: if a guard that is not lifted stops the plan, the plan is discarded and the task fails.

    :param sync: as :class:`ReverseEtlOperator` takes it. A path is templated.
    :param catalog: output of a ``DbtModelSyncOperator``; needed when the sync's model is a dbt model. Templated.
    :param reset: record every valid row as delivered, and send nothing. Templated.
    :param full_resync: send every valid row again; removed rows are left for the next run. Templated.
    :param lift_guards: as :class:`ReverseEtlOperator` takes it. Templated.
    :param deferrable: as :class:`ReverseEtlOperator` takes it.
    :param gate: as :class:`ReverseEtlOperator` takes it. If the gate is closed, the task is skipped and plans nothing.
        Templated.
    :param approval: a person approves the plan before it is sent. An earlier plan of which nothing was sent yet, of
        another run or of an earlier try of this task, is then discarded, as it may not have been approved.
    :param partitions: shares to load at the same time, at most one for each batch of the plan.
    :param preview: discard the plan, and return the summary that is otherwise the XCom ``plan``.
    :param sample: most keys to show of each kind of change, and of invalid rows; 0 for none. Keys are values of your
        rows.
    """

    def __init__(
        self,
        *,
        partitions: int = 1,
        preview: bool = False,
        sample: int = _SAMPLE,
        approval: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.approval = approval
        self.partitions = partitions
        self.preview = preview
        self.sample = sample

    def _work(self, sync: Sync, context: Context) -> Any:
        from airflow_reverse_etl.sync.context import SourceModel
        from airflow_reverse_etl.sync.run import check_selectable

        self._check_after(sync, context)
        self._check_gate(sync, context)
        options = self._run_options(sync, context)
        if options.records:
            check_selectable(sync)
        ti = context["ti"]
        this = run_id_of(ti)
        if self.preview:
            this += "-preview"
        query, primary_key = self._model(sync)
        if not self.preview:
            self._leave_recipe(sync, query, primary_key, context, approved=self.approval)
        run_context = self._run_context(sync, context, this, query=query)
        warehouse = open_warehouse(sync.source)
        try:
            sync = self._with_columns(sync, query, warehouse, self._marks)
            destination = self._destination(sync)
            drift = [] if self.preview else self._look_for_drift(sync, query, warehouse, context)
            model = SourceModel(query, primary_key, warehouse)
            summary = self._await(self._plan(sync, model, destination, run_context, options, drift=drift))
        finally:
            close_quietly(warehouse)
        if isinstance(summary, Wait):
            return summary
        self.log.info("%s", summary["text"])
        if self.preview:
            return summary
        if sync.dry_run:
            ti.xcom_push(key="plan", value=summary | {"total": 0, "dry_run": True})
            return []
        if options.records and "planned" in summary:
            # One load sends them, removed rows first. It also says so if the plan has none of them.
            summary |= {"records": sorted(options.records), "shares": 1}
            number = (
                "1 of these rows is" if len(options.records) == 1 else f"{len(options.records):,} of these rows are"
            )
            summary["text"] += f"\n\nOnly {number} sent, as the DAG run's conf asks."
        elif ti.try_number > 1:
            # Before the group was cleared, it may have had this many loads. Airflow 3.1 reports a deadlock if a mapped
            # task has fewer instances than before.
            summary["shares"] = self.partitions
        # The tasks that follow do not read the model. As pairs, because a JSON object may lose its order.
        columns = {"columns": list(sync.every_column.items())} if sync.every_column else {}
        # Only the plan asks the destination for its account, which may be a part of the address.
        address = {"records_url": link} if (link := records_url(destination)) else {}
        ti.xcom_push(key="plan", value=summary | columns | address)
        shares = summary["shares"]
        records = {"records": summary["records"]} if "records" in summary else {}
        handed_on = {"run_id": this, "partitions": shares, **columns, **records}
        return [handed_on | {"partition": number} for number in range(shares)]

    async def _plan(
        self,
        sync: Sync,
        model: SourceModel,
        destination: Destination,
        run_context: RunContext,
        options: RunOptions,
        *,
        drift: Sequence[Mapping[str, str]],
    ) -> dict[str, Any] | Wait:
        from airflow_reverse_etl.spec.report import RunReport
        from airflow_reverse_etl.sync.guards import check_guards
        from airflow_reverse_etl.sync.preview import summary
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_context)
        request = steps.request(model, options)
        async with steps.lease():
            if self.preview or sync.dry_run:
                plan: Plan | RunReport | Wait = await steps.preview(request, model.warehouse, destination)
            else:
                plan = await steps.plan(
                    request,
                    model.warehouse,
                    destination,
                    approval=self.approval,
                    lift_guards=options.lift_guards,
                )
            if isinstance(plan, Wait):
                return plan
            if isinstance(plan, RunReport):
                text = f"{sync.name}: this run is already committed"
                if plan.run_id != run_context.run_id:
                    text = f"{sync.name}: the requests of the day are used up by run {plan.run_id}"
                return {"run_id": run_context.run_id, "total": 0, "shares": 0, "text": text}
            try:
                if sync.dry_run and not self.preview:
                    check_guards(sync, plan, options.lift_guards)
                return summary(
                    sync,
                    plan,
                    run_context.store,
                    destination,
                    sample=self.sample,
                    partitions=self.partitions,
                    lifted=options.lift_guards,
                    drift=drift,
                )
            finally:
                if self.preview or sync.dry_run:
                    run_context.store.discard(plan)


class ReverseEtlRemoveOperator(SyncOperator):
    """Send the removed rows of a plan. In mode ``mirror``, put it before the :class:`ReverseEtlLoadOperator`.

    A row that the destination cannot take, in none of its attempts, holds back no other row: the report counts it as
    ``retryable``, and the next run plans it again. If the plan is older than a day, the task fails before it sends
    anything. Set ``retries``: the next try resumes an interrupted one.

    :param sync: sync of the plan. A path is templated.
    :param plan: the XCom ``plan`` of the :class:`ReverseEtlPlanOperator`. Templated.
    :param deferrable: as :class:`ReverseEtlOperator` takes it.
    """

    template_fields: Sequence[str] = ("sync", "plan")

    def __init__(self, *, plan: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan: Any = plan

    def _work(self, sync: Sync, context: Context) -> dict[str, int] | Wait:
        _skip_dry_run(self.plan)
        sync = _as_planned(sync, self.plan)
        run_context = self._run_context(sync, context, self.plan["run_id"])
        return self._await(self._remove(sync, run_context, self._destination(sync)))

    async def _remove(self, sync: Sync, run_context: RunContext, destination: Destination) -> dict[str, int] | Wait:
        from airflow_reverse_etl.spec.report import RunReport
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_context)
        async with steps.lease(release=False):
            found = await steps.plan_or_report()
            if isinstance(found, RunReport) or not found.planned.removed or self.plan.get("records"):
                return {}
            return _counts_or_wait(await steps.remove(found, destination))


class ReverseEtlLoadOperator(SyncOperator):
    """Send one share of a plan. Map it over the output of a :class:`ReverseEtlPlanOperator`.

    The shares begin after the removed rows, which a :class:`ReverseEtlRemoveOperator` sends. Set ``retries``: the next
    try resumes an interrupted one.

    :param sync: sync of the plan. A path is templated.
    :param share: share of the plan to send. Templated.
    :param deferrable: as :class:`ReverseEtlOperator` takes it.
    """

    template_fields: Sequence[str] = ("sync", "share")

    def __init__(self, *, share: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share: Any = share

    def _work(self, sync: Sync, context: Context) -> dict[str, int] | Wait:
        sync = _as_planned(sync, self.share)
        destination = self._destination(sync)
        run_context = self._run_context(sync, context, self.share["run_id"])
        return self._await(self._load(sync, run_context, destination))

    async def _load(self, sync: Sync, run_context: RunContext, destination: Destination) -> dict[str, int] | Wait:
        from airflow_reverse_etl.spec.report import RunReport
        from airflow_reverse_etl.sync.load.share import Share
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_context)
        async with steps.lease(release=False):
            found = await steps.plan_or_report()
            if isinstance(found, RunReport):
                return {}
            if records := self.share.get("records"):
                waiting = await steps.load_selected(found, destination, records)
                return waiting or _counts(await steps.progress(found))
            await steps.check_removed(found)
            share = Share.of(found, self.share["partition"], self.share["partitions"], after=found.removed_first)
            return _counts_or_wait(await steps.load(found, destination, share))


class ReverseEtlCommitOperator(SyncOperator):
    """Commit a loaded plan, and report on the whole run, as :class:`ReverseEtlOperator` does.

    Has the destination object as outlet asset.

    :param sync: sync of the plan. A path is templated.
    :param plan: the XCom ``plan`` of the :class:`ReverseEtlPlanOperator`. Templated.
    :param deferrable: as :class:`ReverseEtlOperator` takes it.
    """

    template_fields: Sequence[str] = ("sync", "plan")
    _writes = True

    def __init__(self, *, plan: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan: Any = plan

    def _work(self, sync: Sync, context: Context) -> dict[str, Any]:
        from airflow_reverse_etl.sync.guards import check_failure_policy

        _skip_dry_run(self.plan)
        sync = _as_planned(sync, self.plan)
        run_context = self._run_context(sync, context, self.plan["run_id"])
        destination = self._destination(sync)
        report = self._await(self._commit(sync, run_context, destination))
        self.records_link = self.plan.get("records_url") or records_url(destination)
        check_failure_policy(sync, report)
        return self._report(sync, report, context)

    async def _commit(self, sync: Sync, run_context: RunContext, destination: Destination) -> RunReport:
        from airflow_reverse_etl.spec.report import RunReport
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_context)
        async with steps.lease():
            found = await steps.plan_or_report()
            if isinstance(found, RunReport):
                steps.check_complete(found)
                return found
            if not self.plan.get("records"):
                await steps.check_removed(found)
            return await steps.finish(found, destination)


def reverse_etl(
    sync: Sync | Mapping[str, Any] | str | Path,
    *,
    catalog: Mapping[str, Any] | XComArg | None = None,
    gate: Mapping[str, Any] | Sequence[Mapping[str, Any]] | XComArg | None = None,
    reset: bool | str = False,
    full_resync: bool | str = False,
    lift_guards: bool | str | Sequence[str] = False,
    partitions: int = 1,
    approve: bool | Mapping[str, Any] = False,
    trigger_rule: str = "all_success",
    group_id: str = "reverse_etl",
    **task_arguments: Any,
) -> TaskGroup:
    """Build a task group for a sync: plan, a person's approval if wanted, load in mapped tasks, commit.

    If the sync's mode is ``mirror``, or not known before the tasks run, a task ``remove`` comes before the loads. It
    sends the removed rows, so that a new record can take a unique value of a deleted one.

    Works with any executor. XCom carries only run ids, partition numbers, counts and a sample of keys; rows go through
    the state store. The sync's ``requests_per_second`` is one budget for all tasks on the destination's connection,
    including those of other DAGs; ``concurrency`` applies to each task. If a load fails, the commit does not run. The
    delivered rows are recorded, and the next run of the sync continues from there. If there is nothing to send,
    approval and loads are skipped.

    :param sync: as :class:`~airflow_reverse_etl.operators.ReverseEtlOperator` takes it.
    :param catalog: output of a ``DbtModelSyncOperator``.
    :param gate: as :class:`~airflow_reverse_etl.operators.ReverseEtlOperator` takes it. If the gate is closed, the
        group is skipped.
    :param reset: record every valid row as delivered, and send nothing.
    :param full_resync: send every valid row again; removed rows are left for the next run.
    :param lift_guards: as :class:`~airflow_reverse_etl.operators.ReverseEtlOperator` takes it.
    :param partitions: most load tasks.
    :param approve: let a person approve the plan. A rejected plan is discarded, and the tasks after it are skipped; the
        next run makes a new plan. A mapping has arguments of Airflow's ``ApprovalOperator``: ``assigned_users``,
        ``notifiers``, ``response_timeout`` … A plan with removed rows waits 24 hours by default.
    :param trigger_rule: trigger rule of the plan, the first task of the group.
    :param task_arguments: arguments of every task of the group except the approval: ``retries``, ``deferrable``,
        ``pool`` …
    """
    with TaskGroup(group_id) as group:
        plan = ReverseEtlPlanOperator(
            task_id="plan",
            sync=sync,
            catalog=catalog,
            gate=gate,
            reset=reset,
            full_resync=full_resync,
            lift_guards=lift_guards,
            partitions=partitions,
            approval=bool(approve),
            trigger_rule=trigger_rule,
            **task_arguments,
        )
        summary = XComArg(plan, key="plan")
        load = ReverseEtlLoadOperator.partial(task_id="load", sync=sync, **task_arguments).expand(share=plan.output)
        # If there is nothing to send, approval and loads are skipped, and the other tasks must still run. A closed gate
        # skips all tasks.
        arguments = {"sync": sync, "plan": summary, "trigger_rule": "none_failed_min_one_success", **task_arguments}
        steps: list[Any] = [load, ReverseEtlCommitOperator(task_id="commit", **arguments)]
        known = plan.known_sync()
        if known is None or known.mode == "mirror":
            steps.insert(0, ReverseEtlRemoveOperator(task_id="remove", **arguments))
        chain(*steps)
        if approve:
            from airflow_reverse_etl.operators.approval import PlanApprovalOperator

            settings = approve if isinstance(approve, Mapping) else {}
            approval = PlanApprovalOperator(task_id="approve", sync=sync, plan=summary, **settings)
            approval >> steps  # a rejection skips only direct successors, whatever their trigger rule
    return group


def _skip_dry_run(plan: Mapping[str, Any]) -> None:
    """Skip the task of a plan that is not sent.

    :raises AirflowSkipException: the sync says ``dry_run``.
    """
    if plan.get("dry_run"):
        raise AirflowSkipException("Nothing was sent: the sync says dry_run")


def _as_planned(sync: Sync, handed_on: Mapping[str, Any]) -> Sync:
    """Return the sync with the columns that the plan found, as the plan's task handed them on."""
    return sync.with_fields(handed_on.get("columns", ()))


def _counts_or_wait(loaded: Loaded) -> dict[str, int] | Wait:
    return loaded.waiting or _counts(loaded.checkpoint)


def _counts(progress: Checkpoint) -> dict[str, int]:
    from airflow_reverse_etl.spec.receipts import Outcome

    return {outcome.value: progress.count(outcome) for outcome in Outcome}
