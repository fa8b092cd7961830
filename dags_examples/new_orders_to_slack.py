"""Post a message to a Slack channel for each new large order, every five minutes.

The first run records the orders of the past and posts nothing (``initial: baseline``). Slack cannot recognise a message
that it has: a message whose answer was lost counts as posted (``on_unknown: accept``), so none is posted twice.

Connections: ``warehouse``; ``slack`` (type HTTP API) with ``https://slack.com`` as host, and as password the token of a
bot that is in the channel and has the scope ``chat:write``. Put the id of your channel into ``mapping``.
"""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import Sync
from airflow_reverse_etl.operators import ReverseEtlOperator

MESSAGES = Sync.load(
    {
        "name": "new_orders_to_slack",
        "model": {"sql": "select order_id, customer, amount from marts.orders where amount >= 1000"},
        "source": "warehouse",
        "primary_key": "order_id",
        "initial": "baseline",
        "destination": {
            "type": "http",
            "connection": "slack",
            "object": "messages",
            "path": "/api/chat.postMessage",
            "rows": "single",
            # Slack answers 200 to everything: the body has the verdict.
            "success": {"path": "ok", "value": True},
            "error": {"code": "error"},
            "codes": {
                "ratelimited": "throttle",
                "channel_not_found": "configuration",
                "not_in_channel": "configuration",
                "invalid_auth": "credentials",
                "not_authed": "credentials",
                "token_revoked": "credentials",
                "missing_scope": "credentials",
            },
        },
        "mode": "insert",
        "mapping": {
            "channel": {"value": "C0000000000"},
            "text": {"template": "Order {{ row.order_id }} of {{ row.customer }}: {{ row.amount }} EUR"},
        },
        "guards": {"max_changes": 20},
        "failure": {"on_unknown": "accept"},
        "rate": {"requests_per_second": 1, "concurrency": 1},
    }
)


@dag(schedule="*/5 * * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def new_orders_to_slack() -> None:
    ReverseEtlOperator(task_id="messages", sync=MESSAGES, retries=3)


new_orders_to_slack()
