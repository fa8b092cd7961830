"""SQLite."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import Dialect

SQLITE = Dialect(
    name="sqlite",
    aliases=("sqlite3",),
    autocommits=True,
    explains=True,
    upsert="ON CONFLICT",
    stores_as_text=True,
)
