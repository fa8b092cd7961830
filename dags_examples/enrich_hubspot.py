"""Enrich the contacts that sales has in HubSpot with figures of the warehouse, every hour; create none.

The mode is ``update``: a customer whom HubSpot does not have is skipped, and tried again once a day. Only mapped
properties are written, so what sales enters by hand stays.

Connections: ``warehouse``, ``hubspot`` (type HubSpot). In HubSpot, create the properties ``lifetime_value`` and
``orders_last_90_days`` of contacts.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import Sync
from airflow_reverse_etl.operators import ReverseEtlOperator

ENRICHMENT = Sync.load(
    {
        "name": "enrich_hubspot",
        "model": {"table": "marts.customer_figures"},
        "source": "warehouse",
        "primary_key": "customer_id",
        "destination": {"type": "hubspot", "connection": "hubspot", "object": "contacts", "match_on": "email"},
        "mode": "update",
        "mapping": {
            "email": "email",
            "lifetime_value": {"sql": "round(lifetime_value, 2)"},
            "orders_last_90_days": "orders_last_90_days",
        },
        "guards": {"max_changes": "50%"},
    }
)


@dag(schedule="@hourly", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def enrich_hubspot() -> None:
    ReverseEtlOperator(task_id="contacts", sync=ENRICHMENT, retries=3)


enrich_hubspot()
