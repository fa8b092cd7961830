"""The operator that runs a sync."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_reverse_etl._airflow import (
    AirflowException,
    AirflowFailException,
    BaseOperator,
    BaseOperatorLink,
    Context,
    connection_info,
    dbapi_connect,
    open_warehouse,
    state_files,
    state_store,
)
from airflow_reverse_etl.assets import destination_asset, inlets
from airflow_reverse_etl.errors import AttentionError, ConfigurationError, ReverseEtlError, TryLaterError
from airflow_reverse_etl.operators._running import LogObserver, SystemClock, resolve_model, run_id
from airflow_reverse_etl.sync.spec import Sync

if TYPE_CHECKING:
    from airflow.sdk import XComArg
    from airflow.sdk.types import TaskInstanceKey

    from airflow_reverse_etl.sync.ports import ConnectionInfo, Destination, Warehouse
    from airflow_reverse_etl.sync.receipts import Report


class DestinationLink(BaseOperatorLink):
    """A button on the task instance that leads to the destination, where it is a web address."""

    name = "Destination"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Called in the task's process when it ends; Airflow keeps the answer."""
        return str(getattr(operator, "destination_url", ""))


class ReverseEtlOperator(BaseOperator):
    """Bring a destination up to date with a model: plan, load, commit.

    Sends only what changed since the destination last acknowledged it. A try that is cut short is continued by the
    next one, hence set ``retries``. Reads the model through the connection that the sync names as ``source``.

    Returns, and pushes to XCom also when the task fails after sending: ``run_id``, ``planned`` (``added``,
    ``changed``, ``removed``, ``invalid``), ``accepted``, ``rejected``, ``retryable``, ``unknown``, ``skipped``,
    ``requests``, ``seconds``, ``errors`` and, where the model changed since the last run, ``drift``. Has the model as
    inlet and the destination object as outlet asset; the outlet's event carries the counts.

    What it does not do: build the model, or notice that nobody did. Put the task that does before this one.

    :param sync: a :class:`~airflow_reverse_etl.Sync`, a dict with the same names, or the path of a YAML file, absolute
        or relative to the folder of the DAG file. A path is templated; what is in a sync is not.
    :param catalog: output of a ``DbtModelSyncOperator``; needed when the sync's model is a dbt model. Templated.
    :raises AirflowFailException: fix the configuration, or look at what was rejected; no retry would help.
    :raises AirflowException: a retry continues.
    """

    template_fields: Sequence[str] = ("sync", "catalog")
    operator_extra_links = (DestinationLink(),)
    ui_color = "#e8f3ec"

    def __init__(
        self,
        *,
        sync: Sync | Mapping[str, Any] | str | Path | XComArg,
        catalog: Mapping[str, Any] | XComArg | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # A dict becomes a Sync here: Airflow would render the row templates inside a dict.
        self.sync: Any = Sync.load(sync) if isinstance(sync, Mapping) else str(sync) if isinstance(sync, Path) else sync
        self.catalog: Any = catalog
        self.destination_url = ""
        self._drift: list[dict[str, Any]] = []
        self._stop: Callable[[], object] | None = None
        self._declare_assets()

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the sync; see the class."""
        try:
            sync = self._load_sync()
            report = self._run(sync, context)
        except (ConfigurationError, AttentionError) as error:
            self._push_report(context, error)
            # Not chained: what a driver said may repeat a row's values. str(error) says all that is needed.
            raise AirflowFailException(str(error)) from None
        except TryLaterError as error:
            self._push_report(context, error)
            raise AirflowException(str(error)) from None
        except asyncio.CancelledError:
            raise AirflowException(
                "The task was told to stop. What was delivered is kept; a new try continues."
            ) from None
        counts = {**report.to_json(), **({"drift": self._drift} if self._drift else {})}
        self.log.info("%s: %s", sync.name, ", ".join(f"{name} {counts[name]:,}" for name in _COUNTS))
        for reason in counts["errors"]:
            self.log.warning("%s: %s rows: %s", sync.name, reason["count"], reason["code"])
        self._annotate_outlet(sync, counts, context)
        return counts

    def on_kill(self) -> None:
        """Let the requests in flight be answered, save the progress, stop. A new try continues from there."""
        if self._stop is not None:
            self._stop()

    def _run(self, sync: Sync, context: Context) -> Report:
        # A late import: the engine is needed by a task, not by whoever parses the DAG.
        from airflow_reverse_etl.sync.run import run

        query, primary_key = resolve_model(sync, self._load_catalog() if isinstance(sync.model, str) else None)
        destination = self._destination(sync)
        store, warehouse = state_store(), open_warehouse(sync.source)
        try:
            self._look_for_drift(sync, query, warehouse)
        except BaseException:
            _close(warehouse)
            raise
        ti = context["ti"]

        async def main() -> Report:
            task, loop = asyncio.current_task(), asyncio.get_running_loop()
            assert task is not None
            self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
            return await run(
                sync,
                query=query,
                primary_key=primary_key,
                warehouse=warehouse,
                store=store,
                destination=destination,
                run_id=run_id(ti.dag_id, ti.run_id, ti.task_id, ti.map_index if ti.map_index is not None else -1),
                observer=LogObserver(self.log.info),
                clock=SystemClock(),
            )

        try:
            return asyncio.run(main())
        finally:
            self._stop = None
            _close(warehouse)

    def _look_for_drift(self, sync: Sync, query: str, warehouse: Warehouse) -> None:
        from airflow_reverse_etl.operators._drift import look_for_drift

        output = self.catalog if isinstance(self.catalog, Mapping) else None
        found = look_for_drift(sync, query=query, warehouse=warehouse, files=state_files(), output=output)
        for finding in found:
            self.log.warning("%s: changed since the last run: %s", sync.name, finding.message)
        self._drift = [{"rule": f.rule, "level": f.level.value, "message": f.message} for f in found]

    # -- what the task works with ----------------------------------------------------------------------------------

    def _load_sync(self) -> Sync:
        from airflow_reverse_etl.destinations.registry import check

        return Sync.load(self._place(self.sync) if isinstance(self.sync, str) else self.sync, check=check)

    def _load_catalog(self) -> Any:
        if self.catalog is None:
            return None
        from airflow_reverse_etl.dbt.catalog import load_catalog

        return load_catalog(state_files(), self.catalog)

    def _destination(self, sync: Sync) -> Destination:
        from airflow_reverse_etl.destinations.registry import create

        conn_id = sync.destination.connection
        if conn_id is None:
            return create(sync, connection=None)
        connection = connection_info(conn_id)
        self.destination_url = _web_address(connection)
        return create(sync, connection=connection, connect=lambda: dbapi_connect(conn_id)())

    def _place(self, path: str) -> Path:
        """A path relative to the DAG file, wherever this worker has it."""
        dag = self.get_dag()
        file = dag.fileloc if dag is not None else ""
        return Path(file).parent / path if file else Path(path)

    # -- assets and reports ----------------------------------------------------------------------------------------

    def _declare_assets(self) -> None:
        sync = self.sync
        if isinstance(sync, str):
            if "{{" in sync:
                return  # known when the task runs; its assets are then not declared
            path = self._place(sync)
            if not path.is_file():
                self.log.warning(
                    "The sync file %s is not there. Task %s will fail, and has no assets, until it is.",
                    path,
                    self.task_id,
                )
                return
            sync = Sync.load(path)
        if isinstance(sync, Sync):
            self.inlets = [*self.inlets, *inlets(sync)]
            self.outlets = [*self.outlets, destination_asset(sync)]

    def _annotate_outlet(self, sync: Sync, counts: Mapping[str, Any], context: Context) -> None:
        asset = destination_asset(sync)
        if asset in self.outlets:
            context["outlet_events"][asset].extra = {
                "sync": sync.name,
                **{name: value for name, value in counts.items() if name != "errors"},
            }

    def _push_report(self, context: Context, error: ReverseEtlError) -> None:
        report: Report | None = getattr(error, "report", None)
        if report is not None:
            context["ti"].xcom_push(key="return_value", value=report.to_json())


_COUNTS = ("accepted", "rejected", "retryable", "unknown", "skipped", "requests")


def _web_address(connection: ConnectionInfo) -> str:
    """The connection's host where it is a web address, without credentials; empty otherwise."""
    host = connection.host or ""
    if "://" not in host:
        if connection.conn_type not in ("http", "reverse_etl_http") or not host:
            return ""
        host = f"{connection.schema or 'https'}://{host}"
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    port = parts.port or connection.port
    return f"{parts.scheme}://{parts.hostname}{f':{port}' if port else ''}{parts.path}"


def _close(warehouse: Warehouse) -> None:
    try:
        warehouse.close()
    except Exception:  # noqa: BLE001 - the rows are read: nothing is lost when the driver cannot say goodbye
        return
