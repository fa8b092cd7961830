"""The two examples with Cosmos are DAGs, and one waits for what the other says. ``test_e2e.py`` runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.assets import model_asset
from airflow_reverse_etl.connections import connection_info
from airflow_reverse_etl.dbt.profiles import from_connection
from airflow_reverse_etl.dbt.runner import DbtProject
from tests.examples import FOLDER, load

pytestmark = pytest.mark.airflow


@pytest.mark.long
def test_a_model_is_announced_by_its_last_task_and_the_sync_waits_for_that(
    tmp_path: Path,
    add_connection: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    serialize_dag: Callable[[Any], dict[str, Any]],
) -> None:
    """Its test, where it has one; in the names that syncs have for their models."""
    add_connection("warehouse", conn_type="duckdb", host=str(tmp_path / "shop.duckdb"))
    profile = from_connection(connection_info("warehouse"), schema="analytics")
    DbtProject(FOLDER / "dbt_project", profile=profile).run(["parse"], target_path=tmp_path)
    monkeypatch.setenv("DBT_MANIFEST", str(tmp_path / "manifest.json"))

    cosmos, contacts = load("cosmos/dbt_with_cosmos"), load("cosmos/contacts_after_cosmos")

    assert serialize_dag(cosmos)
    announced = {asset.uri: task.task_id for task in cosmos.tasks for asset in task.outlets if hasattr(asset, "uri")}
    assert announced == {
        model_asset("stg_customers", "warehouse").uri: "dbt.stg_customers_run",
        model_asset("stg_orders", "warehouse").uri: "dbt.stg_orders_run",
        model_asset("customers", "warehouse").uri: "dbt.customers.test",
    }
    customers = model_asset("customers", "warehouse")
    assert customers.uri in str(serialize_dag(contacts)["dag"]["timetable"])
    assert customers in contacts.get_task("contacts").inlets
