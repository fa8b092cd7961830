"""Microsoft SQL Server and Fabric."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import Dialect

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
)
