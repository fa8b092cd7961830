"""freshness, snapshot, run, test, docs with real dbt in real Airflow, and the syncs behind them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl.operators import DbtModelSyncOperator, DbtPipeline, ReverseEtlOperator
from tests.git.servers import Origin

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

PROJECT = {
    "dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: shop\nmodels: {+materialized: table}\n",
    "models/good.sql": "select id from {{ source('raw', 'fresh') }}",
    "models/doubled.sql": "select id from {{ source('raw', 'fresh') }} union all select 1",
    "models/outdated.sql": "select id from {{ source('raw', 'stale') }}",
    "models/all.yml": """
sources:
  - name: raw
    config: {loaded_at_field: loaded_at, freshness: {error_after: {count: 1, period: day}}}
    tables: [name: fresh, name: stale]
models:
  - {name: good, columns: [{name: id, data_tests: [unique, not_null]}]}
  - {name: doubled, columns: [{name: id, data_tests: [unique, not_null]}]}
  - {name: outdated, columns: [{name: id, data_tests: [unique, not_null]}]}
""",
    "snapshots/fresh_history.yml": """
snapshots:
  - name: fresh_history
    relation: source('raw', 'fresh')
    config: {unique_key: id, strategy: check, check_cols: all}
""",
}


@pytest.fixture
def warehouse(
    tmp_path: Path, state_url: Path, add_connection: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The project behind ``git_dbt``; its sources behind ``warehouse``, one of them not loaded for years."""
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    origin = Origin.create(tmp_path / "git")
    origin.commit(PROJECT)
    path = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("create schema raw")
        for table, loaded_at in {"fresh": "now()::timestamp", "stale": "timestamp '2020-01-01'"}.items():
            db.execute(f"create table raw.{table} as select i as id, {loaded_at} as loaded_at from range(1, 6) t(i)")
    add_connection("git_dbt", conn_type="git", host=str(origin.bare), extra={"allow_protocols": ["file"]})
    add_connection("warehouse", conn_type="duckdb", host=str(path))
    return path


def dag_of(dag_id: str, folder: Path, *models: str, **dbt: Any) -> Any:
    """The pipeline, and behind it a sync of each model."""
    from airflow.sdk import DAG

    with DAG(dag_id, schedule=None) as dag:
        synced = DbtModelSyncOperator(task_id="models", git_conn_id="git_dbt", profile_conn_id="warehouse")
        pipeline = DbtPipeline(project=synced.output, dbt={"profile_conn_id": "warehouse", **dbt})
        for model in models:
            spec = {
                "name": f"{dag_id}_{model}", "model": model, "source": "warehouse", "primary_key": "id",
                "destination": {"type": "file", "url": str(folder), "object": f"{dag_id}_{model}"},
                "mapping": {"id": "id"},
            }  # fmt: skip
            sync = ReverseEtlOperator(
                task_id=model, sync=spec, catalog=synced.output, gate=pipeline.outputs, trigger_rule="all_done"
            )
            synced >> pipeline >> sync
    return dag


def test_each_sync_waits_for_its_own_model(
    warehouse: Path,
    tmp_path: Path,
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where steps go on after a failure: built, tested and fresh is sent; a failing test and a stale source are not."""
    dag = dag_of("each", tmp_path / "sent", "good", "doubled", "outdated", trigger_rule="all_done")
    run = run_dag(dag)
    log = capsys.readouterr().out
    assert task_states(run) == {
        "models": "success", "dbt.freshness": "failed", "dbt.snapshot": "success", "dbt.run": "success",
        "dbt.test": "failed", "dbt.docs": "success", "good": "success", "doubled": "skipped", "outdated": "skipped",
    }  # fmt: skip
    assert xcom(run, "good")["accepted"] == 5
    assert [path.name for path in (tmp_path / "sent").iterdir()] == ["each_good"]
    stale, failed = sorted(re.findall(r"reason='Nothing was sent: (.*?)'", log))  # the tasks run in any order
    assert stale == "source.shop.raw.stale: freshness error"
    assert "unique_doubled_id" in failed
    assert failed.endswith(": fail")
    assert not list((tmp_path / "state" / "dbt_state").rglob("manifest.json"))  # a failed test is no success
    assert xcom(run, "dbt.snapshot")["counts"] == {"success": 1}
    with duckdb.connect(str(warehouse), read_only=True) as db:
        assert db.execute("select count(*) from main.fresh_history").fetchone() == (5,)


def test_a_stale_source_stops_the_pipeline(
    warehouse: Path,
    tmp_path: Path,
    run_dag: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it is by default: nothing is built, nothing is sent, and the skipped sync says for which source."""
    run = run_dag(dag_of("stops", tmp_path / "sent", "outdated", retry_failed_only=True))
    states = task_states(run)
    assert states.pop("models") == "success"
    assert states.pop("dbt.freshness") == "failed"
    assert states.pop("outdated") == "skipped"
    assert set(states.values()) == {"upstream_failed"}
    log = capsys.readouterr().out
    assert "source.shop.raw.stale: freshness error; an upstream dbt task produced no result" in log
    assert not (tmp_path / "sent").exists()
