"""Run every sync of a folder, in two environments: accounts before contacts, and nothing is sent from dev.

The files are in ``syncs/crm``; its ``defaults.yaml`` says what they share, and what differs in dev.
Connections: ``warehouse``, ``crm``. ``[reverse_etl] environment`` is ``dev`` or ``prod``.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import sync_group


@dag(schedule="@hourly", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def folder_of_syncs() -> None:
    sync_group("syncs/crm", retries=3)


folder_of_syncs()
