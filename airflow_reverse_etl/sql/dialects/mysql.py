"""MySQL and MariaDB, and databases that speak like them."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import Dialect

#: Comments whose text the database executes.
_EXECUTED_COMMENT = r"(/\*M?!)"

MYSQL = Dialect(
    name="mysql",
    ignores_case=True,
    more_than_select=_EXECUTED_COMMENT,
    explains=True,
    upsert="ON DUPLICATE KEY",
)
DORIS = Dialect(name="doris", more_than_select=_EXECUTED_COMMENT)
SINGLESTORE = Dialect(name="singlestore", more_than_select=_EXECUTED_COMMENT)
STARROCKS = Dialect(name="starrocks", more_than_select=_EXECUTED_COMMENT)
