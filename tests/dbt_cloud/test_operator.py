"""The models that a dbt Cloud run built, and the gate that checks the synced model's own result."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from airflow_reverse_etl.compat import AirflowException, AirflowFailException
from airflow_reverse_etl.dbt.catalog import load_catalog
from airflow_reverse_etl.dbt_cloud.models import RunStatus
from airflow_reverse_etl.operators import DbtCloudModelSyncOperator
from airflow_reverse_etl.wiring import state_files
from tests.dbt_cloud.server import DbtCloudServer

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("connect", "state_url")]

MANIFEST = json.loads((Path(__file__).parents[1] / "dbt" / "manifests" / "v12-1.12.6.json").read_text())


def results(**statuses: str) -> dict[str, Any]:
    rows = [
        {"unique_id": f"model.jaffle.{name.replace('_v', '.v')}", "status": status} for name, status in statuses.items()
    ]
    return {"results": rows}


def build(
    cloud: DbtCloudServer,
    status: RunStatus = RunStatus.SUCCESS,
    *,
    job: int | None = None,
    manifest: dict[str, Any] = MANIFEST,
    **statuses: str,
) -> int:
    steps = [
        {},
        {"manifest.json": manifest, "run_results.json": results(**statuses)},
        {"run_results.json": {"results": [{"unique_id": "test.jaffle.t", "status": "fail"}]}},
    ]
    return cloud.add_run(job or cloud.add_job(), status=status, steps=steps)


def sync(run: Any, **options: Any) -> dict[str, Any]:
    operator = DbtCloudModelSyncOperator(task_id="models", dbt_cloud_conn_id="dbt_cloud", run=run, **options)
    context: Any = {"ti": Mock(dag_id="d", task_id="models")}
    return operator.execute(context)


def test_the_catalog_is_the_runs_own(cloud: DbtCloudServer) -> None:
    """The manifest may come from any step. The run is given by the sensor's result, an id, or the id's text."""
    run = build(cloud)
    output = sync({"run_id": run})
    assert {**output, "catalog": "", "drift": {}} == {
        "project": "jaffle", "commit": cloud.sha(run), "ref": "main", "run_id": run, "catalog": "", "models": 5,
        "drift": {},
    }  # fmt: skip
    catalog = load_catalog(state_files(), output)
    assert catalog.commit == cloud.sha(run)
    assert catalog.find("orders").relation == '"jaffle"."main"."orders"'
    assert sync(str(run)) == sync(run) == output


def test_a_failed_run_is_refused(cloud: DbtCloudServer) -> None:
    with pytest.raises(AirflowException, match="did not succeed"):
        sync(build(cloud, RunStatus.ERROR))


def test_required_models_decide_whatever_became_of_others(cloud: DbtCloudServer) -> None:
    run = build(cloud, RunStatus.ERROR, orders="success", customers_v2="error", stg_orders="skipped")
    assert sync(run, require=["orders"])["run_id"] == run
    with pytest.raises(
        AirflowException, match=r"customers \(error\), stg_orders \(skipped\), stg_customers \(not run\)"
    ):
        sync(run, require=["orders", "customers", "stg_orders", "stg_customers"])


def test_what_a_run_changed_for_the_syncs_is_told_and_stops_where_they_say_so(cloud: DbtCloudServer) -> None:
    """The comparison is with the job's run that this task saw before, as for models from Git."""
    spec = {
        "name": "crm",
        "model": "orders",
        "source": "w",
        "primary_key": "order_id",
        "destination": {"type": "http", "connection": "c", "path": "/"},
        "mapping": {"id": "order_id"},
    }
    job, changed = cloud.add_job(), copy.deepcopy(MANIFEST)
    del changed["nodes"]["model.jaffle.orders"]
    first = build(cloud, job=job)
    assert sync(first, syncs=[spec])["drift"]["findings"] == []
    drift = sync(build(cloud, job=job, manifest=changed), syncs=[spec])["drift"]
    assert (drift["since"], drift["findings"][0]["sync"]) == (cloud.sha(first), "crm")
    strict = {**spec, "drift": "fail"}
    sync(build(cloud, job=job), syncs=[strict])
    with pytest.raises(AirflowFailException, match="crm"):
        sync(build(cloud, job=job, manifest=changed), syncs=[strict])


def test_a_run_without_manifest_says_so(cloud: DbtCloudServer) -> None:
    with pytest.raises(AirflowFailException, match=r"no manifest\.json"):
        sync(cloud.add_run(cloud.add_job(), steps=[{}]))


@pytest.mark.long
def test_the_official_operator_starts_the_run_that_is_gated(
    cloud: DbtCloudServer, run_dag: Callable[..., Any], task_states: Callable[[Any], dict[str, str]]
) -> None:
    """The official operator fails with its run, yet its ``job_run_id`` leads to the models that were built."""
    from airflow.sdk import task

    job = cloud.add_job()

    @task
    def trigger(ti: Any) -> None:
        from airflow_reverse_etl.hooks.dbt_cloud import DbtCloudApiHook

        reply = DbtCloudApiHook("dbt_cloud").official().trigger_job_run(job_id=job, cause="test")
        run = reply.json()["data"]["id"]
        ti.xcom_push(key="job_run_id", value=run)
        cloud._runs[run].steps = [{"manifest.json": MANIFEST, "run_results.json": results(orders="success")}]
        cloud.finish(run, RunStatus.ERROR)
        raise RuntimeError("the job failed")

    from airflow.sdk import DAG

    with DAG("gated", schedule=None) as dag:
        trigger() >> DbtCloudModelSyncOperator(
            task_id="models",
            dbt_cloud_conn_id="dbt_cloud",
            run="{{ ti.xcom_pull('trigger', key='job_run_id') }}",
            require=["orders"],
            trigger_rule="all_done",
        )
    assert task_states(run_dag(dag)) == {"trigger": "failed", "models": "success"}
