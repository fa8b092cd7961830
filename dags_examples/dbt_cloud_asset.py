"""Send customers to a CRM after every successful run of a dbt Cloud job.

The triggerer polls dbt Cloud once a minute for all watched jobs together. An event may arrive more than once; the first
task accepts each run once, and skips the rest of the DAG for a repeated event.

Connections: ``dbt_cloud`` (a read-only token is enough), ``warehouse``, ``crm``.
"""

from __future__ import annotations

from airflow.sdk import dag

from airflow_reverse_etl.operators import DbtCloudModelSyncOperator, ReverseEtlOperator
from airflow_reverse_etl.sensors import DbtCloudJobSensor
from airflow_reverse_etl.triggers import dbt_cloud_job


@dag(schedule=[dbt_cloud_job("dbt_cloud", 70403)], tags=["reverse-etl", "dbt-cloud"])
def dbt_cloud_asset() -> None:
    run = DbtCloudJobSensor(task_id="run", dbt_cloud_conn_id="dbt_cloud", job_id=70403, wait=False)
    models = DbtCloudModelSyncOperator(task_id="models", dbt_cloud_conn_id="dbt_cloud", run=run.output)
    ReverseEtlOperator(task_id="contacts", sync="syncs/contacts_to_crm.yaml", catalog=models.output)


dbt_cloud_asset()
