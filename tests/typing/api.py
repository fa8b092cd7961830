"""What a DAG author writes, as a type checker sees it. Checked by mypy, never run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_type

from airflow.sdk import dag

from airflow_reverse_etl import ReverseEtlError, Sync
from airflow_reverse_etl.operators import DbtModelSyncOperator, DbtOperator, ReverseEtlOperator


@dag(schedule="@hourly", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False)
def activate() -> None:
    models = DbtModelSyncOperator(task_id="models", git_conn_id="git_dbt", ref="main", project_path="analytics")
    built = DbtOperator(task_id="dbt_build", command="build", project=models.output, target="prod")
    contacts = ReverseEtlOperator(task_id="contacts", sync="syncs/contacts.yaml", catalog=models.output, retries=3)
    assert_type(contacts, ReverseEtlOperator)
    models >> built >> contacts


def load() -> Sync:
    try:
        sync = Sync.load("syncs/contacts.yaml")
    except ReverseEtlError as error:
        assert_type(error.todo, str)
        raise
    assert_type(sync, Sync)
    return sync
