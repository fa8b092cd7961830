"""What happens after contacts were delivered: a DAG that waits for the CRM's contacts, not for a time of day.

Scheduled on the asset that the sync of ``activate_contacts`` writes. The event carries the counts of that run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import dag, task
from pendulum import datetime

from airflow_reverse_etl import Sync
from airflow_reverse_etl.assets import destination_asset

CONTACTS = destination_asset(Sync.load(Path(__file__).parent / "syncs" / "contacts_to_crm.yaml"))


@dag(schedule=[CONTACTS], start_date=datetime(2026, 1, 1), catchup=False, tags=["reverse-etl"])
def contacts_delivered() -> None:
    @task
    def tell(triggering_asset_events: Any = None) -> list[str]:
        """One line per delivery. Several deliveries may arrive in one run."""
        lines = []
        for event in triggering_asset_events[CONTACTS]:
            counts = event.extra
            lines.append(f"{counts['accepted']} contacts delivered, {counts['rejected']} refused")
        print("\n".join(lines))
        return lines

    tell()


contacts_delivered()
