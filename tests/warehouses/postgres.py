"""The ways to read a Postgres."""

from __future__ import annotations

from typing import Any

from airflow_reverse_etl.sync.ports import Warehouse
from airflow_reverse_etl.warehouses.adbc import AdbcWarehouse
from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse

WAYS = ("psycopg2", "psycopg", "adbc")


def open_way(way: str, dsn: str) -> Warehouse:
    """Build a reader of the database that cannot fall back on another."""
    if way == "adbc":
        import adbc_driver_postgresql.dbapi

        return AdbcWarehouse(lambda: adbc_driver_postgresql.dbapi.connect(dsn), dialect="postgres", conn_id="pg")
    driver: Any = __import__(way)
    return DbApiWarehouse(lambda: driver.connect(dsn), dialect="postgres", conn_id="pg")
