"""A DAG for people: one action on one sync, and nothing else of the sync's DAG; and the watch of syncs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param

from airflow_reverse_etl.assets import destination_asset, sync_asset
from airflow_reverse_etl.compat import AirflowSkipException, AssetAlias, Context, airflow_errors
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.notifications.watch import SyncWatchOperator
from airflow_reverse_etl.operators.base import SyncOperator, close_quietly, run_id_of
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.context import Wait
from airflow_reverse_etl.sync.guards import GUARDS, lifted_guards
from airflow_reverse_etl.wiring import open_warehouse, recipes

if TYPE_CHECKING:
    from airflow_reverse_etl.notifications import SyncNotifier
    from airflow_reverse_etl.spec.report import RunReport
    from airflow_reverse_etl.stores.recipes import Recipe
    from airflow_reverse_etl.sync.context import RunContext, RunOptions, SourceModel
    from airflow_reverse_etl.sync.ports import Destination

#: Tag by which the page finds maintenance DAGs.
TAG = "reverse_etl_maintenance"

#: Actions that run the sync.
_RUNS = ("full_resync", "reset", "lift_guards")
#: Actions, with what each does.
ACTIONS: Mapping[str, str] = {
    "full_resync": "send every valid row again",
    "reset": "record every valid row as delivered, and send nothing",
    "lift_guards": "run once, without the guards that are named",
    "preview": "plan, and send nothing",
    "rejected": "list the rejected rows",
    "release": "let the next run try rejected rows again",
    "dismiss": "count rejected rows as given up no more, and send them when they change",
}
#: Most rejected rows in a result, and most records that an action can name.
_MOST_ROWS = 200


@dataclass(frozen=True, slots=True)
class Request:
    """An action on a sync, as the DAG run's conf has it.

    :param guards: names of guards that do not stop the run.
    :param records: names of records for ``release`` and ``dismiss``; None for every rejected row.
    """

    sync: str
    action: str
    guards: frozenset[str]
    records: tuple[str, ...] | None

    @classmethod
    def of(cls, params: Mapping[str, Any], syncs: Sequence[str] | None) -> Request:
        """Read the params of a DAG run.

        :param syncs: names of the syncs that the DAG may work on; None for all.
        :raises ConfigurationError: the params are not valid; lists all problems.
        """
        problems = list(_problems(params, syncs))
        if problems:
            raise ConfigurationError(
                "the configuration of the DAG run is not valid: " + "; ".join(problems), todo="correct it"
            )
        guards = lifted_guards(params.get("guards") or None, where="guards", sync=params["sync"])
        records = None if params.get("every_record") else tuple(params.get("records") or ())
        return cls(params["sync"], params["action"], guards, records)


def _problems(params: Mapping[str, Any], syncs: Sequence[str] | None) -> Sequence[str]:
    from airflow_reverse_etl.sql.statements.erasure import RECORD

    found = []
    sync = params.get("sync")
    action = params.get("action")
    records = params.get("records") or []
    if not isinstance(sync, str) or not sync:
        found.append("sync is not the name of a sync")
    elif syncs is not None and sync not in syncs:
        found.append(f"this DAG does not work on the sync {sync!r}")
    if action not in ACTIONS:
        found.append(f"action is not one of {', '.join(ACTIONS)}")
    if not all(isinstance(name, str) and RECORD.fullmatch(name) for name in records):
        found.append("records has something else than names of records")
    if len(records) > _MOST_ROWS:
        found.append(f"records has more than {_MOST_ROWS} names")
    if action in ("release", "dismiss") and bool(records) == bool(params.get("every_record")):
        found.append("one of records and every_record is needed")
    if action == "lift_guards" and not params.get("guards"):
        found.append("guards names no guard")
    return found


class ReverseEtlMaintenanceOperator(SyncOperator):
    """Do one action on one sync, which the params of the DAG run name: :func:`reverse_etl_maintenance_dag`.

    Works from what the last run of the sync's own DAG left: its spec, its model's query and its primary key.

    Returns ``action``, ``sync`` and the result: the run's ``report``; the ``plan``, in counts; ``rows``, the first 200
    rejected rows, with their number as ``total``; or ``changed``, the number of released or dismissed rows.

    :param syncs: names of the syncs that the task may work on; None for all.
    :param keys: show primary keys of rejected and planned rows in the result. Who may read the DAG's XComs reads them.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, syncs: Sequence[str] | None = None, keys: bool = False, **kwargs: Any) -> None:
        super().__init__(sync="", **kwargs)
        self.syncs = None if syncs is None else tuple(syncs)
        self.keys = keys
        self._request: Request | None = None
        self._recipe: Recipe | None = None
        self._events = AssetAlias(f"reverse_etl.maintenance.{self.task_id}")
        self.outlets = [*self.outlets, self._events]

    def known_sync(self) -> Sync | None:
        """Return None: only the DAG run says which sync it is."""
        return None

    def resume(self, context: Context, event: object = None, **kept: Any) -> Any:
        """Do the task's work, also after a deferral."""
        with airflow_errors():
            self._request = Request.of(context["params"], self.syncs)
            self._recipe = recipes().read(self._request.sync)
            _check_approval(self._request, self._recipe)
        self.sync_name = self._request.sync
        self.log.info("%s: %s", self._request.sync, ACTIONS[self._request.action])
        return super().resume(context, event, **kept)

    def _load_sync(self, context: Context) -> Sync:  # noqa: ARG002 - the recipe has no templates
        from airflow_reverse_etl.destinations.registry import check_options

        assert self._recipe is not None
        return Sync.load(self._recipe.spec, check=check_options)

    def _work(self, sync: Sync, context: Context) -> dict[str, Any] | Wait:
        assert self._request is not None
        action = self._request.action
        if action in _RUNS or action == "preview":
            found = self._plan_or_run(sync, context)
        else:
            found = self._rejected(sync, context)
        return found if isinstance(found, Wait) else {"action": action, "sync": sync.name, **found}

    # -- runs --------------------------------------------------------------------------------------------------------

    def _plan_or_run(self, sync: Sync, context: Context) -> dict[str, Any] | Wait:
        from airflow_reverse_etl.sync.context import RunOptions, SourceModel

        assert self._request is not None
        assert self._recipe is not None
        query = self._recipe.query
        action = self._request.action
        options = RunOptions(
            reset=action == "reset", full_resync=action == "full_resync", lift_guards=self._request.guards
        )
        warehouse = open_warehouse(sync.source)
        try:
            sync = self._with_columns(sync, query, warehouse, self._recipe.marks)
            model = SourceModel(query, self._recipe.primary_key, warehouse)
            run_context = self._run_context(sync, context, run_id_of(context["ti"]), query=query)
            destination = self._destination(sync)
            if action == "preview":
                return self._await(self._preview(sync, model, destination, run_context, options))
            return self._run(sync, model, destination, run_context, options, context)
        finally:
            close_quietly(warehouse)

    def _run(
        self,
        sync: Sync,
        model: SourceModel,
        destination: Destination,
        run_context: RunContext,
        options: RunOptions,
        context: Context,
    ) -> dict[str, Any] | Wait:
        from airflow_reverse_etl.sync.run import attempt_sync

        attempt = attempt_sync(sync, model, destination, run_context, options, planned=self._planned)
        found = self._await(attempt)
        return found if isinstance(found, Wait) else {"report": self._tell(sync, found, context)}

    def _tell(self, sync: Sync, report: RunReport, context: Context) -> dict[str, Any]:
        """Report a run, also on the events of the sync's assets: it is a commit like any other."""
        counts = self._report(sync, report, context)
        if sync.dry_run:
            return counts
        extra = {name: value for name, value in counts.items() if name != "reasons"}
        for asset in (destination_asset(sync), sync_asset(sync)):
            context["outlet_events"][self._events].add(asset, extra={"sync": sync.name, **extra})
        return counts

    async def _preview(
        self,
        sync: Sync,
        model: SourceModel,
        destination: Destination,
        run_context: RunContext,
        options: RunOptions,
    ) -> dict[str, Any]:
        from airflow_reverse_etl.sync.preview import summary
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, run_context)
        async with steps.lease():
            plan = await steps.preview(steps.request(model, options), model.warehouse, destination)
            try:
                sample = 5 if self.keys else 0
                found = summary(sync, plan, run_context.store, destination, sample=sample, lifted=options.lift_guards)
            finally:
                run_context.store.discard(plan)
        self.log.info("%s", found["text"])
        return {"plan": found}

    # -- rejected rows -------------------------------------------------------------------------------------------------

    def _rejected(self, sync: Sync, context: Context) -> dict[str, Any]:
        assert self._request is not None
        store: Any = self._run_context(sync, context, run_id_of(context["ti"])).store
        if self._request.action == "rejected":
            return self._list(store.rejections(sync.name))
        changes: dict[str, Callable[..., int]] = {"release": store.release_records, "dismiss": store.dismiss_records}
        return {"changed": changes[self._request.action](sync.name, self._request.records)}

    def _list(self, found: Sequence[Any]) -> dict[str, Any]:
        # Those that people have to look at come first, then the latest.
        latest = sorted(found, key=lambda row: (row.outcome == "dismissed", -row.last_seen.timestamp()))
        return {"total": len(found), "rows": [self._row(row) for row in latest[:_MOST_ROWS]]}

    def _row(self, row: Any) -> dict[str, Any]:
        key = {"key": row.row_key} if self.keys else {}
        return {
            "record": row.record,
            **key,
            "change": row.change,
            "outcome": row.outcome,
            "code": row.code,
            "message": row.message,
            "attempts": row.attempts,
            "first_seen": row.first_seen.isoformat(),
            "last_seen": row.last_seen.isoformat(),
        }


def _check_approval(request: Request, recipe: Recipe) -> None:
    """Make sure that no run evades the approval of a person.

    :raises ConfigurationError: the sync's plans are approved in its own DAG.
    """
    if recipe.approved and request.action in _RUNS:
        raise ConfigurationError(
            "a person approves the plans of this sync before they are sent",
            todo=f"trigger the DAG {recipe.dag_id}, with the configuration "
            f'{{"reverse_etl": {{"{request.sync}": {{…}}}}}}, so that its plan is approved there',
            sync=request.sync,
        )


def reverse_etl_maintenance_dag(
    syncs: Sequence[str] | None = None,
    *,
    dag_id: str = "reverse_etl_maintenance",
    keys: bool = False,
    watch: Sequence[Sync | Mapping[str, Any] | str | Path] = (),
    notifier: SyncNotifier | None = None,
    retries: int = 2,
    **dag_arguments: Any,
) -> DAG:
    """Build a DAG that does one action on one sync: full resync, reset, a run without a guard, preview, rejected rows.

    Nothing else of the sync's own DAG runs. The page *Reverse ETL* triggers this DAG; so can a person, with Airflow's
    form, or an API. Airflow's permissions and audit log apply: **who may trigger this DAG has power over all syncs
    that it names**, whichever DAGs they belong to.

    :param syncs: names of the syncs that the DAG may work on; None for all. Several DAGs cut them by team.
    :param dag_id: id of the DAG.
    :param keys: show primary keys of rejected and planned rows. Who may read the DAG's XComs reads them.
    :param watch: syncs, or YAML files or folders of them, that a scheduled run looks at: it reports those that are
        late, stuck or never ran. A run that is triggered does the action only.
    :param notifier: reports the syncs of ``watch``.
    :param retries: of the task. A new try resumes an interrupted run.
    :param dag_arguments: further arguments of Airflow's ``DAG``. ``schedule`` is every ten minutes with ``watch``.
    :raises ConfigurationError: only one of ``watch`` and ``notifier`` is given.
    """
    if bool(watch) != (notifier is not None):
        raise ConfigurationError(
            "the maintenance DAG has only one of watch and notifier", todo="pass both, or none of them"
        )
    known: dict[str, Any] = {"enum": sorted(syncs)} if syncs is not None else {"minLength": 1}
    strings: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
    params = {
        "sync": Param(None, type=["null", "string"], description="name of the sync", **_or_null(known)),
        "action": Param("preview", type="string", enum=list(ACTIONS), description="what to do"),
        "guards": Param(
            [],
            **{**strings, "items": {"type": "string", "enum": list(GUARDS)}},
            description="guards that do not stop this run",
        ),
        "records": Param([], **strings, description="names of rejected records to release or dismiss"),
        "every_record": Param(default=False, type="boolean", description="release or dismiss every rejected row"),
    }
    arguments = {
        "schedule": "*/10 * * * *" if watch else None,
        "catchup": False,
        "is_paused_upon_creation": False,
        **dag_arguments,
    }
    arguments["tags"] = [*arguments.get("tags", ()), TAG]
    with DAG(dag_id, params=params, **arguments) as dag:
        ReverseEtlMaintenanceOperator(
            task_id="maintain", syncs=syncs, keys=keys, retries=retries, pre_execute=_skip_scheduled
        )
        if notifier:
            SyncWatchOperator(task_id="watch", syncs=watch, notifier=notifier, pre_execute=_skip_triggered)
    return dag


def _skip_scheduled(context: Context) -> None:
    if _is_scheduled(context):
        raise AirflowSkipException("A scheduled run watches the syncs, and has no action.")


def _skip_triggered(context: Context) -> None:
    if not _is_scheduled(context):
        raise AirflowSkipException("A triggered run does its action only.")


def _is_scheduled(context: Context) -> bool:
    return bool(context["dag_run"].run_type == "scheduled")


def _or_null(known: Mapping[str, Any]) -> dict[str, Any]:
    """Allow no sync too: Airflow checks the defaults of the params when it reads the DAG."""
    return {"enum": [None, *known["enum"]]} if "enum" in known else dict(known)
