"""The example DAGs of dbt Cloud run unchanged, with a dbt Cloud, a warehouse and a CRM on this machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.dbt_cloud.server import DbtCloudServer
from tests.examples import load

pytestmark = pytest.mark.airflow

JOB, CUSTOMERS = 70403, 120
UNIQUE_ID = "model.analytics.customers"


def manifest() -> dict[str, Any]:
    """Return a manifest with the fields that are read."""
    node = {
        "resource_type": "model", "unique_id": UNIQUE_ID, "name": "customers", "package_name": "analytics",
        "database": "warehouse", "schema": "main", "alias": "customers",
        "relation_name": '"warehouse"."main"."customers"', "description": "", "columns": {}, "constraints": [],
        "config": {"materialized": "table"}, "tags": [], "meta": {}, "version": None, "latest_version": None,
        "primary_key": ["customer_id"], "access": "protected", "original_file_path": "models/customers.sql",
        "checksum": {"name": "sha256", "checksum": "0"}, "depends_on": {"nodes": []}, "group": None,
        "deprecation_date": None, "contract": {"enforced": False}, "raw_code": "", "fqn": ["analytics", "customers"],
        "patch_path": None,
    }  # fmt: skip
    schema = "https://schemas.getdbt.com/dbt/manifest/v12.json"
    about = {
        "dbt_schema_version": schema,
        "dbt_version": "1.11.0",
        "project_name": "analytics",
        "adapter_type": "duckdb",
    }
    return {"metadata": about, "nodes": {UNIQUE_ID: node}}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "first"), [("dbt_cloud_sensor", "dbt_done"), ("dbt_cloud_asset", "run"), ("dbt_cloud_webhook", "run")]
)
def test_a_finished_job_brings_its_customers_to_the_crm_once(
    name: str,
    first: str,
    cloud: DbtCloudServer,
    connect: Any,
    state_url: Path,
    tmp_path: Path,
    add_connection: Callable[..., None],
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
) -> None:
    from dags_examples.demo.shop import Crm

    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as warehouse:
        warehouse.execute(
            "create table customers as select i as customer_id, 'c' || i || '@example.com' as email,"
            f" 'Ada' as first_name, 'pro' as plan, i * 1.5 as lifetime_value from range({CUSTOMERS}) numbers(i)"
        )
    add_connection("warehouse", conn_type="duckdb", host=str(tmp_path / "warehouse.duckdb"))
    results = {"results": [{"unique_id": UNIQUE_ID, "status": "success"}]}
    run = cloud.add_run(cloud.add_job(job_id=JOB), steps=[{"manifest.json": manifest(), "run_results.json": results}])
    with Crm.running(tmp_path / "crm.sqlite", tmp_path / "crm.log") as crm:
        add_connection("crm", conn_type="reverse_etl_http", host=crm.url, password=crm.token)
        dag = load(name)
        dag_run = run_dag(dag)
        assert task_states(dag_run) == {first: "success", "models": "success", "contacts": "success"}
        assert len(crm.contacts()) == CUSTOMERS
    assert xcom(dag_run, first)["run_id"] == run
    assert xcom(dag_run, "models")["commit"] == cloud.sha(run)
    assert xcom(dag_run, "contacts")["accepted"] == CUSTOMERS
    if first == "run":  # a repeated event finds nothing left to take
        assert set(task_states(run_dag(dag)).values()) == {"skipped"}


@pytest.mark.long
def test_a_finished_job_reaches_every_destination(
    cloud: DbtCloudServer,
    connect: Any,
    state_url: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    add_connection: Callable[..., None],
    run_dag: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
) -> None:
    """The CRM refuses its token, and the others are delivered."""
    import pyarrow.parquet as pq

    from dags_examples.demo.shop import Crm

    database = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(database)) as warehouse:
        warehouse.execute(
            "create table customers as select i as customer_id, 'c' || i || '@example.com' as email,"
            f" 'Ada' as first_name, 'pro' as plan, i * 1.5 as lifetime_value from range({CUSTOMERS}) numbers(i)"
        )
    app = sqlite3.connect(tmp_path / "app.sqlite")
    app.execute("create table plans (customer_id integer primary key, plan text)")
    add_connection("warehouse", conn_type="duckdb", host=str(database))
    add_connection("app_database", conn_type="sqlite", host=str(tmp_path / "app.sqlite"))
    monkeypatch.setenv("PARTNER_URL", str(tmp_path / "partner"))
    results = {"results": [{"unique_id": UNIQUE_ID, "status": "success"}]}
    cloud.add_run(cloud.add_job(job_id=JOB), steps=[{"manifest.json": manifest(), "run_results.json": results}])
    with Crm.running(tmp_path / "crm.sqlite", tmp_path / "crm.log") as crm:
        add_connection("crm", conn_type="reverse_etl_http", host=crm.url, password="expired")
        states = task_states(run_dag(load("dbt_cloud_to_everything")))
    assert states == {
        "run": "success",
        "models": "success",
        "contacts": "failed",
        "plans": "success",
        "export": "success",
    }
    assert app.execute("select count(*) from plans").fetchone() == (CUSTOMERS,)
    written = [pq.read_table(path) for path in (tmp_path / "partner").rglob("*.parquet")]
    assert sum(table.num_rows for table in written) == CUSTOMERS
