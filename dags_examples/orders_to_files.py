"""Write new orders for a partner to Parquet files in a bucket, once a day.

The model is a query. The mode is ``insert``: each order is written once, and later changes to it are not written.

Connection: ``warehouse``. ``PARTNER_URL`` is the place of the files: a folder, or ``s3://``, ``gs://``, ``az://``. For
a bucket, set the destination's ``connection`` to one whose extra ``storage_options`` has the credentials.
"""

from __future__ import annotations

import os

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl import Sync
from airflow_reverse_etl.operators import ReverseEtlOperator

ORDERS = Sync.load(
    {
        "name": "orders_to_files",
        "model": {"sql": "select order_id, customer_id, amount, ordered_at from raw.orders where amount > 0"},
        "source": "warehouse",
        "primary_key": "order_id",
        "destination": {
            "type": "file",
            "url": os.environ.get("PARTNER_URL", "/tmp/partner"),
            "object": "orders",
            "format": "parquet",
            "operation_column": None,
        },
        "mode": "insert",
        "mapping": {"order": "order_id", "customer": "customer_id", "amount": "amount", "at": "ordered_at"},
    }
)


@dag(schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["reverse-etl"])
def orders_to_files() -> None:
    ReverseEtlOperator(task_id="orders", sync=ORDERS, retries=3)


orders_to_files()
