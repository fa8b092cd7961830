"""Operator that reads the models of a dbt Cloud run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.compat import BaseOperator, airflow_errors
from airflow_reverse_etl.errors import DbtRunError, ProjectError
from airflow_reverse_etl.wiring import state_files

if TYPE_CHECKING:
    from airflow.sdk import XComArg

    from airflow_reverse_etl.compat import Context
    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi
    from airflow_reverse_etl.dbt_cloud.models import CloudRun
    from airflow_reverse_etl.operators.dbt_task import Syncs


class DbtCloudModelSyncOperator(BaseOperator):
    """Read the models of a dbt Cloud run into a catalog that syncs can use: no Git, and no dbt on the worker.

    The catalog comes from the run's ``manifest.json``, so its relations are the ones that were built, at the run's
    commit. Returns the same as :class:`~airflow_reverse_etl.operators.dbt_models.DbtModelSyncOperator`, for
    ``ReverseEtlOperator(catalog=…)``, with ``run_id`` instead of a repository, ``previous`` left out; and compares the
    catalog with the one that this task saw before in the same way. Reads only.

    It is also the gate behind a run: the run must have succeeded; or, with ``require``, these models must have been
    built in it, whatever happened to others. Behind the official ``DbtCloudRunJobOperator``, which fails with its run,
    that needs ``trigger_rule="all_done"`` and ``run="{{ ti.xcom_pull('build', key='job_run_id') }}"``.

    :param run: what :class:`~airflow_reverse_etl.sensors.dbt_cloud.DbtCloudJobSensor` returns, or a run's id.
        Templated.
    :param require: names of models, as syncs write them. Their results are looked for in all steps of the run.
    :param syncs: what to look at for drift: a folder of YAML files, a file, or syncs; paths are absolute or relative to
        the DAG file. Syncs in models' ``meta.reverse_etl`` are looked at as well.
    :param dbt_cloud_conn_id: Airflow connection of type ``dbt_cloud``.
    :raises AirflowException: the run, or a required model, did not succeed; or dbt Cloud does not answer.
    :raises AirflowFailException: the run has no manifest, dbt Cloud refuses the token, or a sync whose ``drift`` is
        ``fail`` uses what is not as it was.
    """

    template_fields: Sequence[str] = ("run", "require", "dbt_cloud_conn_id")
    ui_color = "#f6e4dc"

    def __init__(
        self,
        *,
        run: Mapping[str, Any] | XComArg | int | str,
        require: Sequence[str] = (),
        syncs: Syncs = (),
        dbt_cloud_conn_id: str = "dbt_cloud_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run: Any = run
        self.require = require
        self.syncs = syncs
        self.dbt_cloud_conn_id = dbt_cloud_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Sync the models; see the class."""
        from airflow_reverse_etl.hooks.dbt_cloud import DbtCloudApiHook
        from airflow_reverse_etl.operators.drift import check_drift

        with airflow_errors():
            catalog, found = DbtCloudApiHook(self.dbt_cloud_conn_id).call(self._sync)
            place: str = found["catalog"]
            key = place.split("/")[1]  # of the job: its runs follow one another
            look = check_drift(self, context, read=lambda: catalog, key=key, place=place, syncs=self.syncs)
            with look as drift:
                return {**found, "drift": drift.to_dict()}

    async def _sync(self, api: DbtCloudApi) -> tuple[Catalog, dict[str, Any]]:
        from airflow_reverse_etl.check.privacy.marking import marked
        from airflow_reverse_etl.dbt.manifest import read_manifest

        run = await api.run(int(self.run["run_id"] if isinstance(self.run, Mapping) else self.run))
        if not run.succeeded and not self.require:
            raise DbtRunError(
                f"dbt Cloud run {run.id} did not succeed", todo=f"see {run.href}", connection=self.dbt_cloud_conn_id
            )
        manifest = await api.any_artifact(run.id, "manifest.json")
        if manifest is None:
            raise ProjectError(
                f"dbt Cloud run {run.id} has no manifest.json",
                todo="choose a job with a step such as `dbt build`",
                connection=self.dbt_cloud_conn_id,
                job=run.job_id,
            )
        catalog = marked(read_manifest(manifest, commit=run.git_sha), manifest)
        await self._require(api, run, catalog)
        place = f"catalogs/dbt_cloud-{api.account_id}-{run.job_id}/{run.id}.json"
        state_files().write(place, catalog.to_json())
        self.log.info("dbt Cloud run %s at %s: %s models", run.id, run.git_sha, len(catalog.models))
        return catalog, {
            "project": catalog.project,
            "commit": run.git_sha,
            "ref": run.git_branch,
            "run_id": run.id,
            "catalog": place,
            "models": len(catalog.models),
        }

    async def _require(self, api: DbtCloudApi, run: CloudRun, catalog: Catalog) -> None:
        from airflow_reverse_etl.dbt.gate import BUILT
        from airflow_reverse_etl.dbt_cloud.models import model_results

        if not self.require:
            return
        results = model_results(await api.step_results(run.id))
        bad = {name: results.get(catalog.find(name).unique_id, "not run") for name in self.require}
        bad = {name: status for name, status in bad.items() if status not in BUILT}
        if bad:
            text = ", ".join(f"{name} ({status})" for name, status in bad.items())
            raise DbtRunError(
                f"dbt Cloud run {run.id} did not build {text}",
                todo=f"see {run.href}",
                connection=self.dbt_cloud_conn_id,
                job=run.job_id,
            )
