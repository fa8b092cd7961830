"""An audience goes to a CRM on eight workers, twice a day, after a person has seen what would be sent.

A task group: ``plan``, ``approve``, ``load`` once for each of up to eight shares, ``commit``. What waits for an answer
is listed under "Required Actions" in Airflow; a notifier can tell people of it. Rejected, or not answered for six
hours, the plan is discarded, and nothing is sent.

Connections: ``warehouse``, ``crm``. The CRM takes five requests a second from everybody together: the rate is a budget
of the connection, which all loads, and other DAGs' syncs to ``crm``, share. The pool limits how many tasks work on the
CRM at all: ``airflow pools set crm 8 "Tasks that send to the CRM"``.
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
            "path": "/v1/contacts/batch/upsert",
            "records": "records",
            "results": {"list": "errors", "rows": "failed", "key": {"email": "email"}},
        },
        "mapping": {"email": "email", "properties.segment": "segment"},
        "guards": {"min_rows": 100, "max_changes": "50%"},
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
