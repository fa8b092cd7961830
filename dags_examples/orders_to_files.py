"""Orders that a partner has not been told of yet become Parquet files in a bucket, once a day.

A query as the model; mode ``insert``, so an order is written once and later changes to it are not. Connection:
``warehouse``. ``PARTNER_URL`` says where the files go: a folder, or ``s3://``, ``gs://``, ``az://``; for a bucket the
destination also takes a ``connection`` whose extra ``storage_options`` has the credentials.
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
