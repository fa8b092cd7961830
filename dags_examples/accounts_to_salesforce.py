"""Send accounts from the warehouse to Salesforce every morning, by an external id, with part of the day's calls.

From 1,000 rows on they are sent as a job of Bulk API 2.0. While Salesforce works, the task is deferred, and its worker
slot is free.

Connections: ``warehouse``, ``salesforce`` (of apache-airflow-providers-salesforce, with the consumer key and secret of
an app, and the domain). In Salesforce, create the field ``Account_Key__c`` of accounts as *External ID* and *Unique*.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import Sync
from airflow_reverse_etl.operators import ReverseEtlOperator

ACCOUNTS = Sync.load(
    {
        "name": "accounts_to_salesforce",
        "model": {"table": "marts.accounts"},
        "source": "warehouse",
        "primary_key": "account_id",
        "mapping": {
            "Account_Key__c": "account_id",
            "Name": "name",
            "AnnualRevenue": "revenue",
            "Parent.Account_Key__c": "parent_id",
        },
        "destination": {
            "type": "salesforce",
            "connection": "salesforce",
            "object": "Account",
            "match_on": "Account_Key__c",
            "bulk_from_rows": 1_000,
        },
        "write_ids": "marts.salesforce_accounts",
        "rate": {"requests_per_day": 20_000},
    }
)


@dag(schedule="0 6 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def accounts_to_salesforce() -> None:
    ReverseEtlOperator(task_id="accounts", sync=ACCOUNTS, deferrable=True, retries=3)


accounts_to_salesforce()
