"""Send customers to a CRM within a second of a dbt Cloud job's end: the job's webhook starts this DAG.

``reverse-etl dbt-cloud webhook create 70403 https://<airflow>/reverse-etl/dbt-cloud/dbt_cloud`` creates the webhook.
Its secret goes into the connection's extra ``webhook_secret``, and ``[reverse_etl] dbt_cloud_webhooks = dbt_cloud``
opens the receiver. The trigger still polls, once an hour, and finds runs that finished while Airflow was down or this
DAG was paused.

Connections: ``dbt_cloud``, ``warehouse``, ``crm``.
"""

from __future__ import annotations

from airflow.sdk import dag

from airflow_reverse_etl.operators import DbtCloudModelSyncOperator, ReverseEtlOperator
from airflow_reverse_etl.sensors import DbtCloudJobSensor
from airflow_reverse_etl.triggers import dbt_cloud_job


@dag(schedule=[dbt_cloud_job("dbt_cloud", 70403, poll_interval=3600)], tags=["reverse-etl", "dbt-cloud"])
def dbt_cloud_webhook() -> None:
    run = DbtCloudJobSensor(task_id="run", dbt_cloud_conn_id="dbt_cloud", job_id=70403, wait=False)
    models = DbtCloudModelSyncOperator(task_id="models", dbt_cloud_conn_id="dbt_cloud", run=run.output)
    ReverseEtlOperator(task_id="contacts", sync="syncs/contacts_to_crm.yaml", catalog=models.output)


dbt_cloud_webhook()
