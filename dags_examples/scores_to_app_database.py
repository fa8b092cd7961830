"""Send scores from the warehouse to a table of an application's database, every quarter of an hour.

The model is a table, the sync is written in Python, and the destination is any SQL database with a connection.
Connections: ``warehouse``, ``app_database``.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import Sync
from airflow_reverse_etl.operators import ReverseEtlOperator

SCORES = Sync.load(
    {
        "name": "scores_to_app_database",
        "model": {"table": "marts.customer_scores"},
        "source": "warehouse",
        "primary_key": "customer_id",
        "destination": {
            "type": "table",
            "connection": "app_database",
            "object": "customer_scores",
            "match_on": "customer_id",
        },
        "mode": "mirror",
        "mapping": {"customer_id": "customer_id", "score": {"sql": "round(score, 2)"}, "segment": "segment"},
        "guards": {"max_removed": "10%"},
    }
)


@dag(schedule="*/15 * * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def scores_to_app_database() -> None:
    ReverseEtlOperator(task_id="scores", sync=SCORES, retries=3)


scores_to_app_database()
