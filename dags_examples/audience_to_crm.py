"""Keep an audience in a CRM equal to the model, on eight workers, twice a day, after a person has approved the plan.

The mode is ``mirror``: people who leave the model are deleted from the CRM, those that other tools put there stay.

A task group: ``plan``, ``approve``, ``load`` for each of up to eight partitions, ``commit``. Airflow lists plans that
wait for an answer under "Required Actions"; a notifier can announce them. If a person rejects the plan, or nobody
answers within six hours, the plan is discarded and nothing is sent.

Connections: ``warehouse``, ``crm``. The CRM accepts five requests a second in total, so the rate is a budget of the
connection: all loads share it, as do other DAGs' syncs to ``crm``. The pool limits the number of tasks that send to the
CRM at the same time: ``airflow pools set crm 8 "Tasks that send to the CRM"``.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import Sync, reverse_etl

AUDIENCE = Sync.load(
    {
        "name": "audience_to_crm",
        "model": {"table": "marts.audience"},
        "source": "warehouse",
        "primary_key": "customer_id",
        "destination": {
            "type": "http",
            "connection": "crm",
            "object": "contacts",
            "match_on": "email",
            "records": "records",
            "results": {"list": "errors", "rows": "failed", "key": {"email": "email"}},
            "operations": {
                "upsert": {"path": "/v1/contacts/batch/upsert"},
                "delete": {"path": "/v1/contacts/batch/delete"},
            },
        },
        "mode": "mirror",
        "mapping": {"email": "email", "properties.segment": "segment"},
        "guards": {"min_rows": 100, "max_changes": "50%", "max_removed": "20%"},
        "rate": {"batch_size": 100, "requests_per_second": 5, "concurrency": 2},
    }
)


@dag(schedule="0 6,18 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def audience_to_crm() -> None:
    reverse_etl(
        AUDIENCE,
        partitions=8,
        approve={"response_timeout": timedelta(hours=6), "defaults": "Reject"},
        pool="crm",
        retries=3,
    )


audience_to_crm()
