"""Send customers to a CRM every morning, once the nightly dbt Cloud job has finished; each run of the job once.

Connections: ``dbt_cloud`` (a read-only token is enough), ``warehouse``, ``crm``.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl.operators import DbtCloudModelSyncOperator, ReverseEtlOperator
from airflow_reverse_etl.sensors import DbtCloudJobSensor


@dag(schedule="0 5 * * *", start_date=datetime(2026, 1, 1), catchup=False, tags=["reverse-etl", "dbt-cloud"])
def dbt_cloud_sensor() -> None:
    finished = DbtCloudJobSensor(task_id="dbt_done", dbt_cloud_conn_id="dbt_cloud", job_id=70403, retries=2)
    models = DbtCloudModelSyncOperator(task_id="models", dbt_cloud_conn_id="dbt_cloud", run=finished.output)
    ReverseEtlOperator(task_id="contacts", sync="syncs/contacts_to_crm.yaml", catalog=models.output)


dbt_cloud_sensor()
