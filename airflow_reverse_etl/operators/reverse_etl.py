"""Operator that runs a sync in one task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_reverse_etl.compat import BaseOperator, BaseOperatorLink, Context
from airflow_reverse_etl.connections import connection_info
from airflow_reverse_etl.operators.base import PlanningOperator, SyncLink, close_quietly, records_url, run_id_of
from airflow_reverse_etl.sync.context import Wait
from airflow_reverse_etl.wiring import open_warehouse

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.spec.report import RunReport
    from airflow_reverse_etl.sync.ports import ConnectionInfo


class DestinationLink(BaseOperatorLink):
    """Button on the task instance that opens the destination, if the connection's host is a web address."""

    name = "Destination"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the destination's address. Airflow calls this at the end of the task, and stores the result."""
        return str(getattr(operator, "destination_url", ""))


class ReverseEtlOperator(PlanningOperator):
    """Bring a destination up to date with a model: plan, load, commit.

    Sends only the rows that changed since the destination last acknowledged them. Set ``retries``: the next try resumes
    an interrupted one. Reads the model through the connection that the sync names as ``source``.

    Returns, and pushes to XCom also when the task fails after sending: ``run_id``, ``planned`` (``added``,
    ``changed``, ``removed``, ``invalid``), ``accepted``, ``rejected``, ``retryable``, ``unknown``, ``skipped``,
    ``given_up``, ``moved``, ``held``, ``model_rows``, ``invalid``, ``other_writers``, ``requests``, ``seconds``,
    ``attention``, ``answers``, ``reasons`` and, where the model changed since the last run, ``drift``. Has the model
    as inlet and the destination object as outlet asset; the outlet's event carries the counts.

    If the destination is another place than before, the task fails, unless the sync's ``on_destination_change`` or a
    DAG run's conf says what to do: ``{"reverse_etl": {"<sync>": {"on_destination_change": "resync"}}}``, or ``keep``.

    It does not build the model, and does not check that the model was built, unless ``gate`` is set: put the task that
    builds it before this one. To spread a sync over workers, or let a person approve its plan, see
    :func:`airflow_reverse_etl.reverse_etl`.

    :param sync: a :class:`~airflow_reverse_etl.Sync`, a dict with the same names, or the path of a YAML file, absolute
        or relative to the folder of the DAG file. A path is templated; the contents of a sync are not.
    :param catalog: output of a ``DbtModelSyncOperator``; needed when the sync's model is a dbt model. Templated.
    :param reset: record every valid row as delivered, and send nothing. Templated, so a DAG's ``params`` can set it:
        ``"{{ params.reset }}"``.
    :param full_resync: send every valid row again; removed rows are left for the next run. Templated.
    :param lift_guards: guards that do not stop this run: true for all of them, or a list of their names, as in
        ``["max_removed"]``. Templated; a template gives ``true``, ``false`` or names with commas between them. A DAG
        run's conf lifts guards as well: ``{"reverse_etl": {"<sync>": {"lift_guards": ["max_removed"]}}}``.
    :param deferrable: wait in the triggerer, without a worker slot, if a wait is longer than a minute: for a run of the
        sync that is at work, or because the destination asks for it. Otherwise the task waits on its worker. Default:
        Airflow's ``[operators] default_deferrable``.
    :param gate: output of a ``DbtOperator``, or several of one dbt run (freshness, run, test). The sync runs only if,
        according to them, its model was built, the model's tests passed and its sources were fresh. Otherwise the task
        is skipped, and logs the reason. To run also after a dbt task that failed for another model, set
        ``trigger_rule="all_done"``. Templated.
    :raises AirflowFailException: a retry would not help: fix the configuration, or look at the rejected rows.
    :raises AirflowException: a retry resumes the run.
    """

    operator_extra_links: Any = (SyncLink(), DestinationLink())
    _writes = True
    destination_url = ""

    def _work(self, sync: Sync, context: Context) -> dict[str, Any] | Wait:
        self._check_after(sync, context)
        self._check_gate(sync, context)
        found, drift = self._run(sync, context)
        return found if isinstance(found, Wait) else self._report(sync, found, context, drift=drift)

    def _run(self, sync: Sync, context: Context) -> tuple[RunReport | Wait, list[dict[str, str]]]:
        from airflow_reverse_etl.sync.context import SourceModel
        from airflow_reverse_etl.sync.run import attempt_sync

        options = self._run_options(sync, context)
        query, primary_key = self._model(sync)
        self._leave_recipe(sync, query, primary_key, context)
        if sync.destination.connection:
            self.destination_url = _web_address(connection_info(sync.destination.connection))
        warehouse = open_warehouse(sync.source)
        try:
            sync = self._with_columns(sync, query, warehouse, self._marks)
            destination = self._destination(sync)
            drift = self._look_for_drift(sync, query, warehouse, context)
            run_context = self._run_context(sync, context, run_id_of(context["ti"]), query=query)
            model = SourceModel(query, primary_key, warehouse)
            attempt = attempt_sync(sync, model, destination, run_context, options, planned=self._planned)
            found = self._await(attempt)
            self.records_link = records_url(destination)
            self.destination_url = self.records_link or self.destination_url
        finally:
            close_quietly(warehouse)
        return found, drift


def _web_address(connection: ConnectionInfo) -> str:
    """Return the connection's host without credentials if it is a web address, else an empty string."""
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
