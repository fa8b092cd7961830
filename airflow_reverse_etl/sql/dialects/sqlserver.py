"""Microsoft SQL Server and Fabric."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import Dialect, ErrorKind

SQLSERVER = Dialect(
    name="tsql",
    aliases=("fabric", "mssql", "odbc", "sqlserver", "synapse"),
    ignores_case=True,
    # no semicolon is required between statements, and these words are reserved, so they cannot name columns
    more_than_select=(
        r"\b(ALTER|BACKUP|BEGIN|CHECKPOINT|COMMIT|CREATE|DBCC|DECLARE|DELETE|DENY|DROP|EXEC|EXECUTE|GRANT|INSERT|KILL"
        r"|MERGE(?! (?:JOIN|UNION) )|RECONFIGURE|RESTORE|REVOKE|ROLLBACK|SET|SHUTDOWN|TRUNCATE|UPDATE|WAITFOR) "
    ),
    merge_end=";",
    references="""
        SELECT OBJECT_NAME(parent_object_id) FROM sys.foreign_keys
        WHERE referenced_object_id = OBJECT_ID({table}) AND parent_object_id <> referenced_object_id
        ORDER BY 1
    """,
    unique_violations=(
        r"Violation of (?:UNIQUE|PRIMARY) KEY constraint '([^']+)'",
        r"Cannot insert duplicate key row in object '[^']+' with unique index '([^']+)'",
    ),
    # the manual's "Database engine events and errors"
    error_codes={
        "208": ErrorKind.MISSING,
        "229": ErrorKind.DENIED,
        "1205": ErrorKind.CONFLICT,
        "18456": ErrorKind.LOGIN,
    },
)
