"""Send a shop's markets and customers to HubSpot every hour, behind dbt: companies first, then contacts of them.

Each country is a company, which the unique property ``market_key`` identifies; each contact is associated with its own.
The contacts go only if the gate is open: dbt has built their model in this run, and its tests have passed. The ids that
HubSpot gives to contacts come back into the warehouse, for joins in dbt.

Connections: ``git_dbt`` (the dbt project's repository), ``warehouse``, ``hubspot`` (type HubSpot). In HubSpot, create
the property ``market_key`` of companies with *Require unique values*, and ``lifetime_value`` of contacts.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import Sync
from airflow_reverse_etl.operators import DbtModelSyncOperator, DbtOperator, ReverseEtlOperator

MARKETS = Sync.load(
    {
        "name": "markets_to_hubspot",
        "model": {"sql": "select distinct country from analytics.customers"},
        "source": "warehouse",
        "primary_key": "country",
        "mapping": {"market_key": "country", "name": "country"},
        "destination": {
            "type": "hubspot",
            "connection": "hubspot",
            "object": "companies",
            "match_on": "market_key",
        },
    }
)


@dag(schedule="@hourly", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def shop_to_hubspot() -> None:
    models = DbtModelSyncOperator(
        task_id="models", git_conn_id="git_dbt", ref="main", project_path="analytics", profile_conn_id="warehouse"
    )
    built = DbtOperator(task_id="dbt_build", command="build", project=models.output, profile_conn_id="warehouse")
    companies = ReverseEtlOperator(task_id="companies", sync=MARKETS, retries=3)
    contacts = ReverseEtlOperator(
        task_id="contacts",
        sync="syncs/customers_to_hubspot.yaml",
        catalog=models.output,
        gate=built.output,
        retries=3,
    )

    models >> built >> companies >> contacts


shop_to_hubspot()
