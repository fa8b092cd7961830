"""Run after contacts were delivered: a DAG that waits for the CRM's contacts instead of a time of day.

Its schedule is the asset that the sync of ``activate_contacts`` updates. The event has the counts of that run.
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
    def summarize(triggering_asset_events: Any = None) -> list[str]:
        """Return one line per delivery. One run may be triggered by several deliveries."""
        lines = []
        for event in triggering_asset_events[CONTACTS]:
            counts = event.extra
            lines.append(f"{counts['accepted']} contacts delivered, {counts['rejected']} rejected")
        print("\n".join(lines))
        return lines

    summarize()


contacts_delivered()
