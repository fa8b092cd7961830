"""Send events from the warehouse to Mixpanel, every quarter of an hour, each event once.

The mode is ``insert``. Mixpanel recognises an event that it has by ``$insert_id``, so sending one twice is safe, and
the sync says so by ``idempotent``. With a cursor, a run reads only events that are newer than those of the last run, or
an hour older: events may reach the warehouse late.

Connections: ``warehouse``; ``mixpanel`` (type HTTP API) with ``https://api.mixpanel.com`` as host, and the name and
secret of a service account as login and password. Put the id of your project into ``path``.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import Sync
from airflow_reverse_etl.operators import ReverseEtlOperator

EVENTS = Sync.load(
    {
        "name": "events_to_analytics",
        "model": {"table": "marts.events"},
        "source": "warehouse",
        "primary_key": "event_id",
        "track": {"cursor": "loaded_at", "lag": "1h"},
        "destination": {
            "type": "http",
            "connection": "mixpanel",
            "object": "events",
            "path": "/import?strict=1&project_id=1",
            "max_batch_rows": 2000,
            "idempotent": ["insert"],
            # With strict=1 valid events are imported even if others are not: the reply names the others.
            "statuses": {400: "partial"},
            "results": {
                "list": "failed_records",
                "rows": "failed",
                "index": "index",
                "code": "field",
                "accepted": "num_records_imported",
            },
        },
        "mode": "insert",
        "mapping": {
            "event": "name",
            "properties.time": "happened_at_ms",
            "properties.distinct_id": "user_id",
            "properties.$insert_id": "event_id",
            "properties.amount": "amount",
        },
    }
)


@dag(schedule="*/15 * * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def events_to_analytics() -> None:
    ReverseEtlOperator(task_id="events", sync=EVENTS, retries=3)


events_to_analytics()
