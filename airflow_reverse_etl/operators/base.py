"""Base classes of the operators that work on a sync: its adapters, its assets, and how its errors reach Airflow."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from airflow_reverse_etl.assets import destination_asset, inlets, sync_asset
from airflow_reverse_etl.compat import (
    AirflowException,
    AirflowRescheduleException,
    AirflowSkipException,
    Asset,
    BaseOperator,
    BaseOperatorLink,
    Context,
    airflow_configuration,
    airflow_error,
)
from airflow_reverse_etl.config import environment, sync_page
from airflow_reverse_etl.dbt.model_query import resolve_model
from airflow_reverse_etl.errors import ConfigurationError, ReverseEtlError, RunConflictError
from airflow_reverse_etl.spec.folders.reading import load_known
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING, RunTiming
from airflow_reverse_etl.sync.context import Wait
from airflow_reverse_etl.sync.log_observer import LogObserver
from airflow_reverse_etl.wiring import (
    destination_of,
    earlier_rows,
    privacy_policy,
    recipes,
    run_context,
    state_files,
)

if TYPE_CHECKING:
    from airflow.sdk import XComArg
    from airflow.sdk.types import TaskInstanceKey
    from airflow.triggers.base import BaseTrigger

    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.spec.alerts.health import Health
    from airflow_reverse_etl.spec.privacy.marks import ModelMarks
    from airflow_reverse_etl.spec.report import RunReport
    from airflow_reverse_etl.sync.context import RunContext, RunOptions
    from airflow_reverse_etl.sync.ports import Destination, Warehouse

T = TypeVar("T")

#: Shortest deferral. Airflow fails a task whose trigger fires before the scheduler has noted the deferral
#: (apache/airflow#66374).
_SHORTEST_DEFERRAL = timedelta(seconds=15)

#: Time between two looks at a sync that another one comes after.
_LOOK_AGAIN = timedelta(seconds=30)

#: Key of the health document, in the state store of the asset ``sync/<name>`` or in XCom.
HEALTH = "health"

_COUNTS = ("accepted", "rejected", "retryable", "unknown", "skipped", "given_up", "moved", "held", "requests")


class SyncLink(BaseOperatorLink):
    """Button on the task instance that opens the page of its sync."""

    name = "Sync"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the page's address. Airflow calls this at the end of the task, and stores the result."""
        name = getattr(operator, "sync_name", "")
        return sync_page(name) if name else ""


class SyncOperator(BaseOperator):
    """Base class for a task that does a run of a sync, or a step of one. Subclasses define ``_work``.

    :param deferrable: see :class:`~airflow_reverse_etl.operators.ReverseEtlOperator`.
    """

    template_fields: Sequence[str] = ("sync",)
    ui_color = "#e8f3ec"
    operator_extra_links: Any = (SyncLink(),)
    #: Name of the sync, and the address of the destination's own list of records, once the task knows them.
    sync_name = ""
    records_link = ""
    #: Not an argument: the intervals are for tests to shorten.
    timing: ClassVar[RunTiming] = DEFAULT_TIMING
    #: Assets of the sync that this task reads and writes.
    _reads: ClassVar[bool] = False
    _writes: ClassVar[bool] = False

    def __init__(
        self,
        *,
        sync: Sync | Mapping[str, Any] | str | Path | XComArg,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if deferrable is None:
            deferrable = airflow_configuration().getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable
        if isinstance(sync, Mapping):
            # Airflow would render the row templates inside a dict.
            sync = Sync.load(sync, environment=environment())
        elif isinstance(sync, Path):
            sync = str(sync)
        self.sync: Any = sync
        self._stop: Callable[[], object] | None = None
        # What a callback of this task, in the same process, may want to know; see SyncNotifier.
        self.loaded_sync: Sync | None = None
        self.last_report: RunReport | None = None
        self.last_health: Health | None = None
        # What a try keeps over a wait; see resume().
        self._planned = False
        self._deadline: datetime | None = None
        self._drift: list[dict[str, str]] | None = None
        self._finished: frozenset[str] = frozenset()
        self._declare_assets()

    def execute(self, context: Context) -> Any:
        """Do the task's work, and translate its errors for Airflow."""
        return self.resume(context)

    def resume(
        self,
        context: Context,
        event: object = None,
        *,
        planned: bool = False,
        deadline: str | None = None,
        drift: list[dict[str, str]] | None = None,
        finished: Sequence[str] = (),
    ) -> Any:
        """Do the task's work after a deferral, from the last checkpoint.

        ``dag.test()`` passes only the event.

        :param planned: the run has a plan.
        :param deadline: time at which the ``execution_timeout`` of this try is over.
        :param drift: changes to the model that this try has found.
        :param finished: jobs of other runs that this try has found finished.
        """
        if isinstance(event, Mapping) and event.get("error"):
            self.log.warning("Asks for its jobs on this worker, as the triggerer could not: %s", event["error"])
            self.deferrable = False
        self._finished = frozenset(finished)
        self._planned = planned
        self._drift = drift
        self._deadline = datetime.fromisoformat(deadline) if deadline else None
        try:
            sync = self._load_sync(context)
            self.loaded_sync = sync
            while isinstance(done := self._work_or_wait(sync, context), Wait):
                self._wait(sync, done, context)
            return done
        except ReverseEtlError as error:
            self._push_report(context, error)
            self._push_error(context, error)
            # Not chained: a driver's message may contain values of a row. str(error) has all that is needed.
            raise airflow_error(error) from None
        except asyncio.CancelledError:
            raise AirflowException(
                "The task was stopped. Delivered rows are recorded; a new try sends the remaining ones."
            ) from None

    def on_kill(self) -> None:
        """Wait for the answers to requests in flight, save the progress, and stop. A new try resumes from there."""
        stop = self._stop
        self._stop = None  # a second cancellation would not wait for the answers
        if stop is not None:
            stop()

    def _work(self, sync: Sync, context: Context) -> Any:
        """Do the work; returns its result, or a :class:`Wait` after which the same call resumes it."""
        raise NotImplementedError

    # -- waits -----------------------------------------------------------------------------------------------------

    def _work_or_wait(self, sync: Sync, context: Context) -> Any:
        try:
            return self._work(sync, context)
        except RunConflictError as error:
            if error.until is None:
                raise
            return Wait(error.until, error.what)

    def _wait(self, sync: Sync, wait: Wait, context: Context) -> None:
        """Wait on this worker, or end this process by a deferral."""
        self._planned = self._planned or wait.planned
        self._finished |= wait.finished
        where = "without a worker slot" if self.deferrable else "on this worker"
        self.log.warning("%s: waits %s %s", sync.name, where, wait)
        if self.deferrable:
            self._defer(wait, context)
        else:
            self._await(asyncio.sleep((wait.until - datetime.now(UTC)).total_seconds()))

    def _defer(self, wait: Wait, context: Context) -> NoReturn:
        now = datetime.now(UTC)
        until = min((ref.deadline for ref in wait.jobs), default=wait.until)
        kept: dict[str, Any] = {"planned": self._planned, "drift": self._drift}
        if self._finished:
            kept["finished"] = sorted(self._finished)
        timeout = None
        if self.execution_timeout is not None:
            # Airflow gives a resumed task its whole execution_timeout again.
            deadline = self._deadline or context["ti"].start_date + self.execution_timeout
            kept["deadline"] = deadline.isoformat()
            until = min(until, deadline)
            timeout = deadline - now + timedelta(minutes=1)
        moment = max(until, now + _SHORTEST_DEFERRAL)
        self.defer(trigger=_trigger(wait, moment, now), method_name="resume", kwargs=kept, timeout=timeout)

    # -- adapters of a step ----------------------------------------------------------------------------------------

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that ``on_kill`` cancels."""

        async def main() -> T:
            task = asyncio.current_task()
            loop = asyncio.get_running_loop()
            assert task is not None
            self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
            left = (self._deadline - datetime.now(UTC)).total_seconds() if self._deadline else None
            try:
                async with asyncio.timeout(left) as limit:
                    return await work
            except TimeoutError:
                if not limit.expired():
                    raise
                raise AirflowException(
                    "The execution_timeout is over, waits included. "
                    "Delivered rows are recorded; a new try sends the remaining ones."
                ) from None

        try:
            return asyncio.run(main())
        finally:
            self._stop = None

    def _run_context(self, sync: Sync, context: Context, run_id: str, *, query: str | None = None) -> RunContext:
        """Build the surroundings of a run in this task.

        :param query: the model as a SELECT; only a task that plans has one.
        """
        return run_context(
            sync,
            run_id,
            query=query,
            label=_label(context["ti"]),
            log=self.log.info,
            observer=LogObserver(self.log.info, self.log.warning),
            deferrable=self.deferrable,
            timing=self.timing,
            finished=self._finished,
        )

    def _load_sync(self, context: Context) -> Sync:
        from airflow_reverse_etl.destinations.registry import check_options

        source = self._resolve_path(self.sync) if isinstance(self.sync, str) else self.sync
        sync = Sync.load(source, check=check_options, environment=environment())
        self.sync_name = sync.name
        return self._rendered(sync, context)

    def _rendered(self, sync: Sync, context: Context) -> Sync:
        """Render the templates of a sync with ``templated: true``.

        :raises ConfigurationError: a template cannot be rendered.
        """
        from jinja2 import TemplateError

        try:
            return sync.rendered(lambda text: str(self.render_template(text, context)))
        except TemplateError as error:
            raise ConfigurationError(
                f"a template of the sync cannot be rendered: {error}",
                todo=f"correct {' or '.join(sync.to_render)}",
                sync=sync.name,
            ) from None

    def _destination(self, sync: Sync) -> Destination:
        return destination_of(sync)

    def _with_columns(self, sync: Sync, query: str, warehouse: Warehouse, marks: ModelMarks | None) -> Sync:
        """Return the sync with the model's columns in the place of ``"*"``, once the privacy policy allows them all.

        :param marks: of the sync's model; None if they are not known.
        """
        from airflow_reverse_etl.check.privacy.rule import check_privacy
        from airflow_reverse_etl.sync.planning import with_model_columns

        sync = with_model_columns(sync, query, warehouse)
        check_privacy(privacy_policy(), sync, marks)
        return sync

    def _resolve_path(self, path: str) -> Path:
        """Resolve a path relative to the DAG file on this worker."""
        dag = self.get_dag()
        file = dag.fileloc if dag is not None else ""
        return Path(file).parent / path if file else Path(path)

    # -- assets and reports ----------------------------------------------------------------------------------------

    def known_sync(self) -> Sync | None:
        """Return the sync when the DAG is parsed, or None if it is known only when the task runs."""
        if isinstance(self.sync, Sync):
            return Sync.load(self.sync, environment=environment())
        if not isinstance(self.sync, str) or "{{" in self.sync:
            return None
        path = self._resolve_path(self.sync)
        if not path.is_file():
            self.log.warning(
                "Sync file %s not found. Until it exists, task %s fails, and has no assets.", path, self.task_id
            )
            return None
        return load_known(path, environment=environment())[0]

    def _declare_assets(self) -> None:
        sync = self.known_sync()
        if sync is None:
            return
        unknown = sync.to_render
        if self._reads and "source" not in unknown:
            self.inlets = [*self.inlets, *inlets(sync)]
        if self._writes:
            written = [] if "destination.connection" in unknown else [destination_asset(sync)]
            self.outlets = [*self.outlets, *written, sync_asset(sync)]

    def _report(
        self, sync: Sync, report: RunReport, context: Context, *, drift: Sequence[Mapping[str, str]] = ()
    ) -> dict[str, Any]:
        """Report a run's counts: in the log, on the events of the task's assets, and as the returned XCom."""
        self.last_report = report
        self.last_health = _health(sync, report, drifted=bool(drift))
        counts = report.to_json()
        if drift:
            counts["drift"] = list(drift)
        self._log_report(report, sync.name)
        extra = {name: value for name, value in counts.items() if name != "reasons"}
        if self.records_link:
            extra["records_url"] = self.records_link
        for asset in (destination_asset(sync), sync_asset(sync)):
            if self._has_outlet(asset):
                context["outlet_events"][asset].extra = {"sync": sync.name, **extra}
        self._keep_health(context, sync.name, report, self.last_health)
        if sync.dry_run:
            # Airflow adds an event to each outlet of a task that succeeds, and nothing was sent.
            self.outlets = [outlet for outlet in self.outlets if not isinstance(outlet, Asset)]
        return counts

    def _has_outlet(self, asset: Asset) -> bool:
        return any(asset.name == outlet.name for outlet in self.outlets if isinstance(outlet, Asset))

    def _log_report(self, report: RunReport, sync: str) -> None:
        """Log the counts, and the reasons why rows were not accepted."""
        from airflow_reverse_etl.spec.receipts import reason_text

        counts = report.to_json()
        text = ", ".join(f"{name} {counts[name]:,}" for name in _COUNTS)
        self.log.info("%s: %s", sync, text)
        for reason in report.reasons:
            self.log.warning("%s: %s", sync, reason_text(reason))

    def _push_report(self, context: Context, error: ReverseEtlError) -> None:
        if error.report is not None:
            self.last_report = error.report
            self._log_report(error.report, error.where.get("sync", self.task_id))
            context["ti"].xcom_push(key="return_value", value=error.report.to_json())

    def _push_error(self, context: Context, error: ReverseEtlError) -> None:
        """Leave what failed, and what to do about it, where the page finds it. The text has no value of a row."""
        from airflow_reverse_etl.spec.alerts.health import Health

        context["ti"].xcom_push(key="error", value=error.with_hint())
        health = Health("failing", (error.what,))
        self._keep_health(context, self.sync_name, error.report, health, error=error.with_hint())

    def _keep_health(
        self, context: Context, sync: str, report: RunReport | None, health: Health, *, error: str = ""
    ) -> None:
        """Keep the sync's health where the page finds it, if this task commits the sync.

        From Airflow 3.3, that is the asset state store; before, an XCom.
        """
        from airflow_reverse_etl.spec.alerts.health import health_document

        asset = next((one for one in self.outlets if isinstance(one, Asset) and one.name == f"sync/{sync}"), None)
        if asset is None:
            return
        ti = context["ti"]
        stores = context.get("asset_state_store")
        # The page shows less without it. The run has committed, and must not fail for that.
        try:
            if stores is None:
                before: Any = ti.xcom_pull(task_ids=self.task_id, key=HEALTH, include_prior_dates=True)
            else:
                before = stores[asset].get(HEALTH)
            now = datetime.now(UTC)
            found = health_document(before or {}, report, health, error=error, run_id=ti.run_id, now=now)
            if stores is None:
                ti.xcom_push(key=HEALTH, value=found)
            else:
                stores[asset].set(HEALTH, found)
        except Exception as problem:  # noqa: BLE001 - Airflow raises its own errors of several kinds
            self.log.warning("The health of the sync was not kept in Airflow: %s", type(problem).__name__)


class PlanningOperator(SyncOperator):
    """Base class for a task that plans, and therefore reads the model."""

    template_fields: Sequence[str] = ("sync", "catalog", "reset", "full_resync", "lift_guards", "gate")
    _reads = True

    def __init__(
        self,
        *,
        catalog: Mapping[str, Any] | XComArg | None = None,
        reset: bool | str = False,
        full_resync: bool | str = False,
        lift_guards: bool | str | Sequence[str] = False,
        gate: Mapping[str, Any] | Sequence[Mapping[str, Any]] | XComArg | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.gate: Any = gate
        self.catalog: Any = catalog
        self.reset: Any = reset
        self.full_resync: Any = full_resync
        self.lift_guards: Any = lift_guards
        #: Syncs that this one comes after, each with its last task, and with its map index if that is mapped.
        self.after: Sequence[tuple[str, str, int | None]] = ()
        self._picture: dict[str, Any] = {}
        self._evidence: Mapping[str, Any] | None = None
        self._marks: ModelMarks | None = None

    def _run_options(self, sync: Sync, context: Context) -> RunOptions:
        """Read the options of this run from the arguments and the DAG run's conf; templates render to text."""
        from airflow_reverse_etl.sync.context import RunOptions
        from airflow_reverse_etl.sync.guards import destination_change_by_conf, records_by_conf, switches_by_conf

        switches = switches_by_conf(context["dag_run"].conf, sync.name)
        return RunOptions(
            reset=_is_true(self.reset) or "reset" in switches,
            full_resync=_is_true(self.full_resync) or "full_resync" in switches,
            on_destination_change=destination_change_by_conf(context["dag_run"].conf, sync.name),
            lift_guards=self._lifted_guards(sync, context),
            records=records_by_conf(context["dag_run"].conf, sync.name),
        )

    def _lifted_guards(self, sync: Sync, context: Context) -> frozenset[str]:
        """Return the guards that do not stop this run, from ``lift_guards`` and the DAG run's conf."""
        from airflow_reverse_etl.sync.guards import lifted_by_conf, lifted_guards

        option = self.lift_guards
        if isinstance(option, str):  # a template renders to text
            option = _flag_or_names(option)
        lifted = lifted_guards(option, where="lift_guards", sync=sync.name)
        lifted |= lifted_by_conf(context["dag_run"].conf, sync.name)
        if lifted:
            self.log.warning("%s: guards lifted for this run: %s", sync.name, ", ".join(sorted(lifted)))
        return lifted

    def _check_after(self, sync: Sync, context: Context) -> None:
        """Make sure that the syncs that this one comes after have succeeded.

        The trigger rule does not say so: with ``all_done`` for the gate, or between instances of a mapped task.

        :raises AirflowRescheduleException: one is not finished.
        :raises AirflowSkipException: one was skipped.
        :raises ConfigurationError: one has failed.
        """
        ti: Any = context["ti"]
        for name, task_id, index in self.after:
            found = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=[task_id], map_index=index)
            states = {str(state) for of_run in found.values() for state in of_run.values()}
            if states <= {"success"} and states:
                continue
            if states & {"failed", "upstream_failed", "removed"}:
                raise ConfigurationError(
                    f"the sync comes after {name}, which has failed",
                    todo=f"mend {name}, then clear both tasks",
                    sync=sync.name,
                )
            if states <= {"skipped"} and states:
                raise AirflowSkipException(f"Nothing was sent: the sync comes after {name}, which was skipped")
            self.log.info("%s comes after %s, which is not finished", sync.name, name)
            # A task that keeps its slot could keep that sync from running. A deferred task would need a triggerer.
            raise AirflowRescheduleException(datetime.now(UTC) + _LOOK_AGAIN)  # type: ignore[no-untyped-call]

    def _check_gate(self, sync: Sync, context: Context) -> None:
        """Skip the task unless dbt has built the model, its tests passed, and its sources were fresh.

        :raises AirflowSkipException: the gate is closed.
        """
        if self.gate is None:
            return
        if not isinstance(sync.model, str) or self.catalog is None:
            raise ConfigurationError(
                "a gate needs a dbt model and its catalog", todo="set catalog=, or remove gate=", sync=sync.name
            )
        from airflow_reverse_etl.dbt.catalog import load_catalog
        from airflow_reverse_etl.dbt.run_state import gate_evidence, gate_reasons

        catalog = load_catalog(state_files(), self.catalog)
        gate = [self.gate] if isinstance(self.gate, Mapping) else self.gate
        self._evidence = gate_evidence(state_files(), gate)
        if reasons := gate_reasons(gate, self._evidence, catalog.find(sync.model).unique_id):
            context["ti"].xcom_push(key="picture", value=self._draw(sync.model, catalog))
            raise AirflowSkipException("Nothing was sent: " + "; ".join(reasons))

    def _model(self, sync: Sync) -> tuple[str, tuple[str, ...]]:
        """Return the model as a SELECT, and its primary key."""
        if not isinstance(sync.model, str) or self.catalog is None:
            return resolve_model(sync, None)
        from airflow_reverse_etl.dbt.catalog import load_catalog

        catalog = load_catalog(state_files(), self.catalog)
        found = resolve_model(sync, catalog)
        self._marks = catalog.find(sync.model).marks
        self._picture = self._draw(sync.model, catalog)
        return found

    def _draw(self, model: str, catalog: Catalog) -> dict[str, Any]:
        """Return what the page shows of a model: where it comes from, and what the dbt run of the gate said."""
        from airflow_reverse_etl.dbt.gate import shown_results

        marks = catalog.find(model).marks
        picture = catalog.upstream(model)
        if self._evidence:
            for node in picture["nodes"]:
                node |= shown_results(self._evidence, node["id"])
        return {
            "repository": self.catalog.get("repository"),
            "project": catalog.project,
            "project_path": self.catalog.get("project_path"),
            "commit": catalog.commit,
            "marks": marks.names() if marks else {},
            **picture,
        }

    def _leave_recipe(
        self, sync: Sync, query: str, primary_key: tuple[str, ...], context: Context, *, approved: bool = False
    ) -> None:
        """Leave what a maintenance run needs to repeat this run, and what the page shows of the model."""
        from airflow_reverse_etl.stores.recipes import Recipe

        context["ti"].xcom_push(key="picture", value=self._picture)
        dag_id = context["ti"].dag_id
        recipe = Recipe.of(sync, query, primary_key, approved=approved, dag_id=dag_id, marks=self._marks)
        recipes().save(sync.name, recipe)

    def _look_for_drift(self, sync: Sync, query: str, warehouse: Warehouse, context: Context) -> list[dict[str, str]]:
        """Find and log changes to the model since the sync's last run, as its ``drift`` asks.

        Leaves the types of the model's columns for the page.

        A look forgets what was before it, so a task that has waited keeps what it found.
        """
        if self._drift is not None:
            return self._drift
        from airflow_reverse_etl.check.drift_memory import look_for_drift

        output = self.catalog if isinstance(self.catalog, Mapping) else None
        found, columns = look_for_drift(sync, query=query, warehouse=warehouse, files=state_files(), output=output)
        self._picture["types"] = {column.name: column.data_type for column in columns}
        context["ti"].xcom_push(key="picture", value=self._picture)
        for finding in found:
            self.log.warning("%s: changed since the last run: %s", sync.name, finding.message)
        self._drift = [{"rule": f.rule, "level": f.level.value, "message": f.message} for f in found]
        return self._drift


def _health(sync: Sync, report: RunReport, *, drifted: bool) -> Health:
    """Judge a run whose task succeeds, by the sync's alerts."""
    from airflow_reverse_etl.spec.alerts.health import health_after

    earlier: Sequence[int] = ()
    if sync.alerts is not None and sync.alerts.need_usual:
        earlier = earlier_rows(sync, report.run_id, runs=sync.alerts.usual_runs)
    return health_after(report, sync.alerts, earlier=earlier, drifted=drifted)


def _trigger(wait: Wait, moment: datetime, now: datetime) -> BaseTrigger:
    """Return the trigger that ends a wait, at that moment or, if it is for jobs, once none of them is at work."""
    if not wait.jobs:
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        return DateTimeTrigger(moment)
    from airflow_reverse_etl.triggers.jobs import JobTrigger

    one = wait.jobs[0]
    return JobTrigger(
        one.type,
        one.connection,
        [ref.to_json() for ref in wait.jobs if (ref.type, ref.connection) == (one.type, one.connection)],
        (wait.until - now).total_seconds(),
        moment.isoformat(),
    )


def _label(ti: Any) -> str:
    """Describe a task instance to other runs of the sync."""
    mapped = ti.map_index is not None and ti.map_index >= 0
    index = f", map index {ti.map_index}" if mapped else ""
    return f"DAG {ti.dag_id}, run {ti.run_id}, task {ti.task_id}{index}"


def _is_true(option: Any) -> bool:
    return str(option).strip().lower() == "true"


def _flag_or_names(text: str) -> bool | list[str]:
    """Read a rendered template: a flag, or names separated by commas."""
    word = text.strip().lower()
    if word in ("true", "false", "none", ""):
        return word == "true"
    return [name.strip() for name in text.split(",")]


def run_id_of(ti: Any) -> str:
    """Return the run id of a task instance."""
    map_index = -1 if ti.map_index is None else ti.map_index
    return run_id(ti.dag_id, ti.run_id, ti.task_id, map_index)


def run_id(dag_id: str, dag_run: str, task_id: str, map_index: int) -> str:
    """Build an id that all tries of one task instance share, and no other; safe in file names."""
    identity = "\0".join((dag_id, dag_run, task_id, str(map_index)))
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def close_quietly(warehouse: Warehouse) -> None:
    """Close a warehouse after its rows were read, and ignore errors: nothing can be lost any more."""
    with contextlib.suppress(Exception):
        warehouse.close()


def records_url(destination: Destination) -> str:
    """Return the address at which people see the records of a destination's object; empty if it is not known."""
    address = getattr(destination, "records_url", None)
    return str(address()) if callable(address) else ""
