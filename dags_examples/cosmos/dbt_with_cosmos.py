"""Run dbt with Cosmos, one Airflow task per model; a model that was built and passed its tests updates its asset.

Cosmos's own assets are named after the table's address, and updated before the tests run. The loop below adds
``model_asset`` to the last task of each model, which is its test if it has one. ``contacts_after_cosmos`` waits for one
of these assets.

``DBT_MANIFEST`` is the path of the manifest that ``dbt parse`` wrote with the production profile when the project was
deployed. Connection: ``warehouse``. One task runs at a time because DuckDB allows one writer.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import dag
from cosmos import DbtTaskGroup, ExecutionConfig, InvocationMode, ProfileConfig, ProjectConfig
from cosmos.profiles import DuckDBUserPasswordProfileMapping
from pendulum import datetime

from airflow_reverse_etl.assets import model_asset

PROJECT = Path(__file__).parents[1] / "dbt_project"
MANIFEST = os.environ.get("DBT_MANIFEST", str(PROJECT / "target" / "manifest.json"))


@dag(schedule="@hourly", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, max_active_tasks=1)
def dbt_with_cosmos() -> None:
    profile = DuckDBUserPasswordProfileMapping(conn_id="warehouse", profile_args={"schema": "analytics"})
    dbt = DbtTaskGroup(
        group_id="dbt",
        project_config=ProjectConfig(manifest_path=MANIFEST, project_name="analytics"),
        execution_config=ExecutionConfig(dbt_project_path=PROJECT, invocation_mode=InvocationMode.SUBPROCESS),
        profile_config=ProfileConfig(profile_name="analytics", target_name="prod", profile_mapping=profile),
    )
    for unique_id, tasks in dbt.tasks_map.items():
        if unique_id.startswith("model."):
            for last in tasks.leaves:
                last.outlets.append(model_asset(unique_id.removeprefix("model."), "warehouse"))


dbt_with_cosmos()
