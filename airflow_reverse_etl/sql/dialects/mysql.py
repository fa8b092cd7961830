"""MySQL and MariaDB, and databases that speak like them."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import Dialect, ErrorKind

#: Comments whose text the database executes.
_EXECUTED_COMMENT = r"(/\*M?!)"

MYSQL = Dialect(
    name="mysql",
    ignores_case=True,
    more_than_select=_EXECUTED_COMMENT,
    explains=True,
    upsert="ON DUPLICATE KEY",
    references="""
        SELECT DISTINCT table_name FROM information_schema.key_column_usage
        WHERE referenced_table_schema = COALESCE(NULLIF({schema}, ''), DATABASE())
        AND referenced_table_name = {name} AND (table_schema <> referenced_table_schema OR table_name <> {name})
        ORDER BY 1
    """,
    unique_violations=(r"^Duplicate entry .* for key '([^']+)'$",),
    # the manual's chapter "Server Error Message Reference"
    error_codes={
        "1044": ErrorKind.DENIED,
        "1045": ErrorKind.LOGIN,
        "1049": ErrorKind.MISSING,  # database
        "1054": ErrorKind.WRONG,  # column
        "1062": ErrorKind.UNIQUE,
        "1142": ErrorKind.DENIED,
        "1143": ErrorKind.DENIED,
        "1146": ErrorKind.MISSING,  # table
        "1205": ErrorKind.CONFLICT,  # a lock was not given in time
        "1213": ErrorKind.CONFLICT,  # a deadlock
    },
)
DORIS = Dialect(name="doris", more_than_select=_EXECUTED_COMMENT)
SINGLESTORE = Dialect(name="singlestore", more_than_select=_EXECUTED_COMMENT)
STARROCKS = Dialect(name="starrocks", more_than_select=_EXECUTED_COMMENT)
