"""A sync spread over workers: plan, approve, load in mapped tasks, commit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl._airflow import Context, TaskGroup, open_warehouse
from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.operators._running import close, run_id
from airflow_reverse_etl.operators._sync import PlanningOperator, SyncOperator

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import XComArg

    from airflow_reverse_etl.sync.ports import Destination, Plan, StateStore
    from airflow_reverse_etl.sync.receipts import Report
    from airflow_reverse_etl.sync.run import Run
    from airflow_reverse_etl.sync.spec import Sync

#: Keys of each kind of change that a plan shows.
_SAMPLE = 5


class ReverseEtlPlanOperator(PlanningOperator):
    """Plan a sync without sending anything: what would go out, and how long it would take.

    Returns the shares that the plan is loaded in, for ``ReverseEtlLoadOperator.expand(share=…)``: a list of
    ``{"run_id", "partition", "partitions"}``, never empty. Pushes the XCom ``plan``: ``run_id``, ``planned``,
    ``skipped``, ``model_rows``, ``requests`` and ``minutes`` (estimates at the sync's rate; ``minutes`` is null without
    one), ``sample`` (kind of change → keys), ``text``, all of it for a person to read, and ``drift``, where the model
    changed since the last run.

    Guards are checked here: beyond one of them the plan is discarded and the task fails.

    :param sync: as :class:`ReverseEtlOperator` takes it. A path is templated.
    :param catalog: output of a ``DbtModelSyncOperator``; needed when the sync's model is a dbt model. Templated.
    :param reset: record every valid row as delivered, and send nothing. Templated.
    :param full_resync: send every valid row again; removed rows are left for the next run. Templated.
    :param partitions: shares to load at the same time, at most one for each batch of the plan.
    :param preview: forget the plan again, and return what is otherwise the XCom ``plan``.
    :param sample: keys of each kind of change to show; 0 for none. Keys are values of your rows.
    """

    def __init__(self, *, partitions: int = 1, preview: bool = False, sample: int = _SAMPLE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partitions = partitions
        self.preview = preview
        self.sample = sample

    def _work(self, sync: Sync, context: Context) -> Any:
        ti = context["ti"]
        index = -1 if ti.map_index is None else ti.map_index
        this = run_id(ti.dag_id, ti.run_id, ti.task_id, index) + ("-preview" if self.preview else "")
        destination = self._destination(sync)
        query, primary_key = self._model(sync)
        around = self._around(sync, context, query=query)
        warehouse = open_warehouse(sync.source)
        try:
            drift = [] if self.preview else self._look_for_drift(sync, query, warehouse)
            summary, total = self._await(
                self._plan(sync, this, around, destination, warehouse=warehouse, query=query, primary_key=primary_key)
            )
        finally:
            close(warehouse)
        if drift:
            summary["drift"] = drift
        self.log.info("%s", summary["text"])
        if self.preview:
            return summary
        ti.xcom_push(key="plan", value=summary)
        batch = min(sync.rate.batch_size or math.inf, destination.capabilities.max_batch_rows)
        shares = max(1, min(self.partitions, math.ceil(total / batch)))
        return [{"run_id": this, "partition": number, "partitions": shares} for number in range(shares)]

    async def _plan(
        self,
        sync: Sync,
        this: str,
        around: Mapping[str, Any],
        destination: Destination,
        *,
        warehouse: Any,
        query: str,
        primary_key: tuple[str, ...],
    ) -> tuple[dict[str, Any], int]:
        from airflow_reverse_etl.sync.ports import PlanRequest
        from airflow_reverse_etl.sync.receipts import Report
        from airflow_reverse_etl.sync.run import Run

        steps, store = Run(sync, run_id=this, **around), around["store"]
        request = PlanRequest(sync, query, primary_key, this, around["clock"].now(), **self._options())
        async with steps.lease():
            if self.preview:
                plan: Plan | Report = await steps.preview(request, warehouse)
            else:
                plan = await steps.plan(request, warehouse, destination)
            if isinstance(plan, Report):
                return {"run_id": this, "text": f"{sync.name}: this run is committed already"}, 0
            try:
                return _summary(sync, plan, store, destination, sample=self.sample), plan.total
            finally:
                if self.preview:
                    store.discard(plan)


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
        return self._await(self._load(sync, self._around(sync, context), destination))

    async def _load(self, sync: Sync, around: Mapping[str, Any], destination: Destination) -> dict[str, int]:
        from airflow_reverse_etl.sync.load import Share
        from airflow_reverse_etl.sync.receipts import Outcome, Report
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_id=self.share["run_id"], **around)
        async with steps.lease(release=False):
            found = await _plan_or_report(sync, steps)
            if isinstance(found, Report):
                return {}
            share = Share.of(found, self.share["partition"], self.share["partitions"])
            checkpoint = await steps.load(found, destination, share)
        return {outcome.value: checkpoint.count(outcome) for outcome in Outcome}


class ReverseEtlCommitOperator(SyncOperator):
    """Commit a plan that was loaded, and report on all of it, as :class:`ReverseEtlOperator` does.

    Has the destination object as outlet asset.

    :param sync: the sync that was planned. A path is templated.
    :param shares: what the :class:`ReverseEtlPlanOperator` returned. Templated.
    """

    template_fields: Sequence[str] = ("sync", "shares")
    _writes = True

    def __init__(self, *, shares: Sequence[Mapping[str, Any]] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shares: Any = shares

    def _work(self, sync: Sync, context: Context) -> dict[str, Any]:
        from airflow_reverse_etl.sync.guards import check_failure_policy

        report = self._await(self._commit(sync, self._around(sync, context)))
        check_failure_policy(sync, report)
        return self._tell(sync, report, context)

    async def _commit(self, sync: Sync, around: Mapping[str, Any]) -> Report:
        from airflow_reverse_etl.sync.receipts import Report
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_id=self.shares[0]["run_id"], **around)
        async with steps.lease():
            found = await _plan_or_report(sync, steps)
            return found if isinstance(found, Report) else await steps.commit(found)


def reverse_etl(
    sync: Sync | Mapping[str, Any] | str | Path,
    *,
    catalog: Mapping[str, Any] | XComArg | None = None,
    partitions: int = 1,
    approve: bool = False,
    group_id: str = "reverse_etl",
    **task_arguments: Any,
) -> TaskGroup:
    """A sync as a task group: plan, then a person's approval if asked for, then load in mapped tasks, then commit.

    Works with any executor. Nothing but run id and partition numbers, counts and a sample of keys goes through XCom;
    rows go through the state store. The sync's ``requests_per_second`` is one budget for all tasks on the destination's
    connection, those of other DAGs included; ``concurrency`` is of each task. A load that fails leaves the commit
    undone; what was delivered is kept, and the next run of the sync goes on from there.

    :param sync: as :class:`~airflow_reverse_etl.operators.ReverseEtlOperator` takes it.
    :param catalog: output of a ``DbtModelSyncOperator``.
    :param partitions: load tasks at the same time.
    :param approve: let a person see the plan and approve it (Airflow's ``ApprovalOperator``). Without approval it
        is not sent, and the tasks after it are skipped.
    :param task_arguments: of every task of the group: ``retries``, ``pool``, ``queue`` …
    """
    with TaskGroup(group_id) as group:
        plan = ReverseEtlPlanOperator(
            task_id="plan", sync=sync, catalog=catalog, partitions=partitions, **task_arguments
        )
        load = ReverseEtlLoadOperator.partial(task_id="load", sync=sync, **task_arguments).expand(share=plan.output)
        commit = ReverseEtlCommitOperator(task_id="commit", sync=sync, shares=plan.output, **task_arguments)
        if approve:
            from airflow.providers.standard.operators.hitl import ApprovalOperator

            approval = ApprovalOperator(
                task_id="approve",
                subject="May this plan be sent?",
                body=f"{{{{ ti.xcom_pull(task_ids='{plan.task_id}', key='plan')['text'] }}}}",
            )
            plan >> approval >> load
        load >> commit
    return group


async def _plan_or_report(sync: Sync, steps: Run) -> Plan | Report:
    """The plan of this run, or its report when it is committed already."""
    found = await steps.unfinished() or await steps.committed()
    if found is None:
        raise RunConflictError(
            "the plan of this run is gone: another run of the sync came first",
            todo="clear the task group to plan again; set max_active_runs=1 on the DAG",
            sync=sync.name,
        )
    return found


def _summary(sync: Sync, plan: Plan, store: StateStore, destination: Destination, *, sample: int) -> dict[str, Any]:
    """What a person wants to know of a plan before it is sent."""
    batch = min(sync.rate.batch_size or math.inf, destination.capabilities.max_batch_rows)
    requests = sum(math.ceil(count / batch) for name, count in plan.planned if name != "invalid")
    rate = sync.rate.requests_per_second
    counts = {**dict(plan.planned), "skipped": plan.skipped}
    keys = _sample(plan, store, sample)
    lines = [
        f"{sync.name}: of {plan.model_rows:,} rows, "
        + ", ".join(f"{count:,} {name}" for name, count in counts.items())
        + f"; about {requests:,} requests"
        + (f", {requests / rate / 60:,.1f} minutes" if rate else ""),
        *(f"{kind}: {', '.join(json.dumps(key, ensure_ascii=False) for key in some)}" for kind, some in keys.items()),
    ]
    return {
        "run_id": plan.run_id,
        "planned": dict(plan.planned),
        "skipped": plan.skipped,
        "model_rows": plan.model_rows,
        "requests": requests,
        "minutes": round(requests / rate / 60, 2) if rate else None,
        "sample": keys,
        "text": "\n\n".join(lines),
    }


def _sample(plan: Plan, store: StateStore, count: int) -> dict[str, list[str]]:
    """The first keys of each kind of change."""
    found: dict[str, list[str]] = {}
    first = 0
    for kind, rows in plan.planned:
        if kind == "invalid" or not rows or not count:
            continue
        batches = store.changes(plan, after=first, until=first + min(rows, count))
        found[kind] = [key for batch in batches for key in batch.column("key").to_pylist()]
        first += rows
    return found
