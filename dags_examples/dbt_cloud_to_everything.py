"""After each successful run of a dbt Cloud job, send its models to a CRM, an application's database and a partner.

The three syncs read the models of that run, as its artifacts name them, and run side by side. Each has a state, retries
and a failure policy of its own: if the CRM is down, the others are delivered.

Connections: ``dbt_cloud`` (a read-only token is enough), ``warehouse``, ``crm``, ``app_database``. ``PARTNER_URL`` is
the place of the partner's files.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import dag

from airflow_reverse_etl.operators import DbtCloudModelSyncOperator, ReverseEtlOperator
from airflow_reverse_etl.sensors import DbtCloudJobSensor
from airflow_reverse_etl.triggers import dbt_cloud_job

CUSTOMERS = {"model": "customers", "source": "warehouse"}
PLANS: dict[str, Any] = {
    **CUSTOMERS,
    "name": "plans_to_app_database",
    "destination": {"type": "table", "connection": "app_database", "object": "plans", "match_on": "customer_id"},
    "mode": "mirror",
    "mapping": {"customer_id": "customer_id", "plan": "plan"},
}
EXPORT: dict[str, Any] = {
    **CUSTOMERS,
    "name": "customers_to_partner",
    "destination": {
        "type": "file",
        "url": os.environ.get("PARTNER_URL", "/tmp/partner"),
        "object": "customers",
        "format": "parquet",
    },
    "mapping": {"customer": "customer_id", "plan": "plan", "email_sha256": {"column": "email", "hash": "sha256"}},
}


@dag(schedule=[dbt_cloud_job("dbt_cloud", 70403)], default_args={"retries": 3}, tags=["reverse-etl", "dbt-cloud"])
def dbt_cloud_to_everything() -> None:
    run = DbtCloudJobSensor(task_id="run", dbt_cloud_conn_id="dbt_cloud", job_id=70403, wait=False)
    models = DbtCloudModelSyncOperator(task_id="models", dbt_cloud_conn_id="dbt_cloud", run=run.output)
    ReverseEtlOperator(task_id="contacts", sync="syncs/contacts_to_crm.yaml", catalog=models.output)
    ReverseEtlOperator(task_id="plans", sync=PLANS, catalog=models.output)
    ReverseEtlOperator(task_id="export", sync=EXPORT, catalog=models.output)


dbt_cloud_to_everything()
