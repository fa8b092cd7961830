"""SQLite."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import Dialect

SQLITE = Dialect(name="sqlite", aliases=("sqlite3",))
