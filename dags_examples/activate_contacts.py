"""Send customers from the warehouse to a CRM every hour: only those that changed since the CRM last accepted them.

Connections: ``git_dbt`` (the dbt project's repository), ``warehouse``, ``crm``. ``make demo`` runs this DAG.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl.operators import DbtModelSyncOperator, DbtOperator, ReverseEtlOperator


@dag(schedule="@hourly", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def activate_contacts() -> None:
    models = DbtModelSyncOperator(
        task_id="models", git_conn_id="git_dbt", ref="main", project_path="analytics", profile_conn_id="warehouse"
    )
    built = DbtOperator(task_id="dbt_build", command="build", project=models.output, profile_conn_id="warehouse")
    contacts = ReverseEtlOperator(task_id="contacts", sync="syncs/contacts_to_crm.yaml", catalog=models.output)

    models >> built >> contacts


activate_contacts()
