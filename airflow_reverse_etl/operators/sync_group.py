"""A sync spread over workers: plan, approve, load in mapped tasks, commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg

from airflow_reverse_etl.compat import Context, TaskGroup
from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.operators.base import PlanningOperator, SyncOperator, close_quietly, run_id_of
from airflow_reverse_etl.wiring import open_warehouse

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.spec.report import RunReport
    from airflow_reverse_etl.sync.context import RunContext, RunOptions, SourceModel
    from airflow_reverse_etl.sync.ports import Destination, Plan
    from airflow_reverse_etl.sync.run import Run

#: Keys of each kind of change that a plan shows.
_SAMPLE = 5


class ReverseEtlPlanOperator(PlanningOperator):
    """Plan a sync without sending anything: what would go out, and how long it would take.

    Returns the shares that the plan is loaded in, for ``ReverseEtlLoadOperator.expand(share=…)``: a list of
    ``{"run_id", "partition", "partitions"}``, empty when there is nothing to send; a try after the first has
    ``partitions`` of them, maybe of no rows. Pushes the XCom ``plan``: ``run_id``, ``planned``, ``total`` (rows to
    send), ``shares``, ``skipped``, ``given_up`` (the skipped rows that were rejected too often or for too long),
    ``invalid`` (cause → number of ``rows``, and ``keys`` of some), ``model_rows``, ``requests`` and ``minutes``
    (estimates at the sync's rate; ``minutes`` is null without one), ``guards`` (what each of them said), ``sample``
    (kind of change → keys), ``changed_fields`` (key of a changed row in the sample → names of the destination fields
    that changed, null where it is not known), ``drift``, where the model changed since the last run, and ``text``, all
    of it for a person to read.

    Which fields changed is known of rows that were delivered since the sync has ``track: {fields: true}``, with the
    mapping that it has now.

    Guards are checked here: beyond one of them that is not lifted the plan is discarded and the task fails.

    :param sync: as :class:`ReverseEtlOperator` takes it. A path is templated.
    :param catalog: output of a ``DbtModelSyncOperator``; needed when the sync's model is a dbt model. Templated.
    :param reset: record every valid row as delivered, and send nothing. Templated.
    :param full_resync: send every valid row again; removed rows are left for the next run. Templated.
    :param lift_guards: as :class:`ReverseEtlOperator` takes it. Templated.
    :param gate: as :class:`ReverseEtlOperator` takes it. Closed, the task is skipped: nothing is planned. Templated.
    :param approval: a person sees the plan before it is sent. A plan of the sync of which nothing was sent yet, left by
        an earlier run or by an earlier try of this task, is then discarded, as nobody may have agreed to it.
    :param partitions: shares to load at the same time, at most one for each batch of the plan.
    :param preview: forget the plan again, and return what is otherwise the XCom ``plan``.
    :param sample: keys of each kind of change, and of invalid rows, to show; 0 for none. Keys are values of your rows.
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

        self._check_gate(sync)
        options = self._run_options(sync, context)
        ti = context["ti"]
        this = run_id_of(ti)
        if self.preview:
            this += "-preview"
        destination = self._destination(sync)
        query, primary_key = self._model(sync)
        run_context = self._run_context(sync, context, this, query=query)
        warehouse = open_warehouse(sync.source)
        try:
            drift = [] if self.preview else self._look_for_drift(sync, query, warehouse)
            model = SourceModel(query, primary_key, warehouse)
            summary = self._await(self._plan(sync, model, destination, run_context, options, drift=drift))
        finally:
            close_quietly(warehouse)
        self.log.info("%s", summary["text"])
        if self.preview:
            return summary
        if ti.try_number > 1:
            # Before the group was cleared there may have been as many loads. To Airflow 3.1, a mapped task of which
            # fewer are left is a deadlock.
            summary["shares"] = self.partitions
        ti.xcom_push(key="plan", value=summary)
        shares = summary["shares"]
        return [{"run_id": this, "partition": number, "partitions": shares} for number in range(shares)]

    async def _plan(
        self,
        sync: Sync,
        model: SourceModel,
        destination: Destination,
        run_context: RunContext,
        options: RunOptions,
        *,
        drift: Sequence[Mapping[str, str]],
    ) -> dict[str, Any]:
        from airflow_reverse_etl.spec.report import RunReport
        from airflow_reverse_etl.sync.preview import summary
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_context)
        request = steps.request(model, options)
        async with steps.lease():
            if self.preview:
                plan: Plan | RunReport = await steps.preview(request, model.warehouse)
            else:
                plan = await steps.plan(
                    request,
                    model.warehouse,
                    destination,
                    approval=self.approval,
                    lift_guards=options.lift_guards,
                )
            if isinstance(plan, RunReport):
                text = f"{sync.name}: this run is committed already"
                return {"run_id": run_context.run_id, "total": 0, "shares": 0, "text": text}
            try:
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
                if self.preview:
                    run_context.store.discard(plan)


class ReverseEtlLoadOperator(SyncOperator):
    """Send one share of a plan. Mapped over what a :class:`ReverseEtlPlanOperator` returns.

    A try that is cut short is continued by the next one, hence set ``retries``.

    :param sync: the sync that was planned. A path is templated.
    :param share: one of the plan's shares. Templated.
    """

    template_fields: Sequence[str] = ("sync", "share")

    def __init__(self, *, share: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share: Any = share

    def _work(self, sync: Sync, context: Context) -> dict[str, int]:
        destination = self._destination(sync)
        run_context = self._run_context(sync, context, self.share["run_id"])
        return self._await(self._load(sync, run_context, destination))

    async def _load(self, sync: Sync, run_context: RunContext, destination: Destination) -> dict[str, int]:
        from airflow_reverse_etl.spec.receipts import Outcome
        from airflow_reverse_etl.spec.report import RunReport
        from airflow_reverse_etl.sync.load.loader import Share
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_context)
        async with steps.lease(release=False):
            found = await _plan_or_report(sync, steps)
            if isinstance(found, RunReport):
                return {}
            share = Share.of(found, self.share["partition"], self.share["partitions"])
            checkpoint = await steps.load(found, destination, share)
        return {outcome.value: checkpoint.count(outcome) for outcome in Outcome}


class ReverseEtlCommitOperator(SyncOperator):
    """Commit a plan that was loaded, and report on all of it, as :class:`ReverseEtlOperator` does.

    Has the destination object as outlet asset.

    :param sync: the sync that was planned. A path is templated.
    :param plan: the XCom ``plan`` of the :class:`ReverseEtlPlanOperator`. Templated.
    """

    template_fields: Sequence[str] = ("sync", "plan")
    _writes = True

    def __init__(self, *, plan: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan: Any = plan

    def _work(self, sync: Sync, context: Context) -> dict[str, Any]:
        from airflow_reverse_etl.sync.guards import check_failure_policy

        run_context = self._run_context(sync, context, self.plan["run_id"])
        report = self._await(self._commit(sync, run_context, self._destination(sync)))
        check_failure_policy(sync, report)
        return self._report(sync, report, context)

    async def _commit(self, sync: Sync, run_context: RunContext, destination: Destination) -> RunReport:
        from airflow_reverse_etl.spec.report import RunReport
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_context)
        async with steps.lease():
            found = await _plan_or_report(sync, steps)
            if isinstance(found, RunReport):
                steps.check_whole(found)
                return found
            return await steps.commit(found, destination)


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
    """A sync as a task group: plan, then a person's approval if asked for, then load in mapped tasks, then commit.

    Works with any executor. Nothing but run id and partition numbers, counts and a sample of keys goes through XCom;
    rows go through the state store. The sync's ``requests_per_second`` is one budget for all tasks on the destination's
    connection, those of other DAGs included; ``concurrency`` is of each task. A load that fails leaves the commit
    undone; what was delivered is kept, and the next run of the sync goes on from there. Without anything to send,
    approval and loads are skipped.

    :param sync: as :class:`~airflow_reverse_etl.operators.ReverseEtlOperator` takes it.
    :param catalog: output of a ``DbtModelSyncOperator``.
    :param gate: as :class:`~airflow_reverse_etl.operators.ReverseEtlOperator` takes it. Closed, the group is skipped.
    :param reset: record every valid row as delivered, and send nothing.
    :param full_resync: send every valid row again; removed rows are left for the next run.
    :param lift_guards: as :class:`~airflow_reverse_etl.operators.ReverseEtlOperator` takes it.
    :param partitions: load tasks at the same time.
    :param approve: let a person see the plan and approve it. Rejected, it is discarded, and the tasks after it are
        skipped; the next run plans anew. A mapping is for Airflow's ``ApprovalOperator``: ``assigned_users``,
        ``notifiers``, ``response_timeout`` …
    :param trigger_rule: of the plan, the first task of the group.
    :param task_arguments: of every task of the group but the approval: ``retries``, ``pool``, ``queue`` …
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
        seen = XComArg(plan, key="plan")
        load = ReverseEtlLoadOperator.partial(task_id="load", sync=sync, **task_arguments).expand(share=plan.output)
        # Not one of these is enough: loads are skipped where there is nothing to send, and all tasks by a closed gate.
        commit = ReverseEtlCommitOperator(
            task_id="commit",
            sync=sync,
            plan=seen,
            trigger_rule="none_failed_min_one_success",
            **task_arguments,
        )
        if approve:
            from airflow_reverse_etl.operators.approval import PlanApprovalOperator

            more = approve if isinstance(approve, Mapping) else {}
            approval = PlanApprovalOperator(task_id="approve", sync=sync, plan=seen, **more)
            approval >> [load, commit]  # both, as rejecting skips the next tasks whatever their trigger rule
        load >> commit
    return group


async def _plan_or_report(sync: Sync, steps: Run) -> Plan | RunReport:
    """The plan of this run, or its report when it is committed already."""
    found = await steps.unfinished() or await steps.committed()
    if found is None:
        raise RunConflictError(
            "the plan of this run is gone: it was rejected, or another run of the sync came first",
            todo="clear the task group to plan again; set max_active_runs=1 on the DAG",
            sync=sync.name,
        )
    return found
