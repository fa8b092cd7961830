"""SQL that each warehouse needs to store state, apart from the plan statement: types, sessions, grants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Settings of every session of ours: they make text forms independent of the user's and the server's settings.
_POSTGRES_SESSION = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 1",
    "SET lock_timeout = '15s'",
    # The locks of a process that was stopped in the middle of a transaction must not hold up its retry. Between two
    # statements of ours pass milliseconds.
    "SET idle_in_transaction_session_timeout = '15s'",
)
_SNOWFLAKE_SESSION = (
    "ALTER SESSION SET TIMEZONE = 'UTC', TIMESTAMP_NTZ_OUTPUT_FORMAT = 'YYYY-MM-DD HH24:MI:SS.FF9',"
    " DATE_OUTPUT_FORMAT = 'YYYY-MM-DD', TIME_OUTPUT_FORMAT = 'HH24:MI:SS.FF9', BINARY_OUTPUT_FORMAT = 'HEX',"
    " LOCK_TIMEOUT = 60"  # seconds; the default is twelve hours
)


@dataclass(frozen=True, slots=True)
class StateSql:
    """SQL of one dialect, with placeholders ``{schema}``, ``{table}``, ``{user}`` and ``{database}``.

    :param types: our word for a type, as in :mod:`airflow_reverse_etl.sync.committing` → the warehouse's.
    :param session: statements at the start of each session.
    :param begin: statement that starts a transaction; None if the warehouse has no transactions of several statements.
    :param plan_in_transaction: CREATE TABLE can be part of a transaction. In Snowflake, it ends the open one.
    :param one_moment: statement that lets a new transaction see all data as of one moment.
    :param describe: query for the name and type of each column of a table, in order.
    :param identity: query for the session's user (or role) and database.
    :param has_schema: query that returns a row if the schema exists.
    :param grant_schema: statement for an administrator if the schema is missing.
    :param grant_tables: statement for an administrator if the schema exists.
    :param analyzed: statement that refreshes the statistics of a table after many changes.
    :param indexed: statement that makes ranges of ``seq`` fast to read, and in order.
    :param add_column: the part of ALTER TABLE that adds a column.
    :param piece: most characters of one text constant; warehouses accept about a megabyte of SQL in a statement.
    """

    name: str
    types: Mapping[str, str]
    describe: str
    identity: str
    has_schema: str
    grant_schema: str
    grant_tables: str
    session: tuple[str, ...] = ()
    begin: str | None = "BEGIN"
    plan_in_transaction: bool = False
    one_moment: str = ""
    analyzed: str = ""
    indexed: str = ""
    add_column: str = "ADD COLUMN {column}"
    piece: int = 200_000


def _types(text: str, instant: str, *, integer: str = "BIGINT", double: str = "DOUBLE PRECISION") -> dict[str, str]:
    return {"VARCHAR": text, "TIMESTAMPTZ": instant, "BIGINT": integer, "DOUBLE": double}


_COLUMNS = (
    "SELECT column_name, data_type FROM information_schema.columns WHERE LOWER(table_schema) = LOWER('{schema}')"
    " AND LOWER(table_name) = '{table}' ORDER BY ordinal_position"
)
_SCHEMA = "SELECT 1 FROM information_schema.schemata WHERE LOWER(schema_name) = LOWER('{schema}')"
_POSTGRES: Mapping[str, Any] = {
    "identity": "SELECT current_user, current_database()",
    "has_schema": "SELECT 1 FROM pg_namespace WHERE nspname = LOWER('{schema}')",
    "grant_schema": 'CREATE SCHEMA {schema} AUTHORIZATION "{user}";',
    "grant_tables": 'GRANT USAGE, CREATE ON SCHEMA {schema} TO "{user}";',
}
#: Query on Redshift's catalog, after v_generate_tbl_ddl in https://github.com/awslabs/amazon-redshift-utils.
_REDSHIFT_COLUMNS = (
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a JOIN pg_class AS c"
    " ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = LOWER('{schema}')"
    " AND c.relname = '{table}' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)
_READ_ONLY_FILE = "-- DuckDB has no grants: open the file without read_only"

STATE_SQL: Mapping[str, StateSql] = {
    dialect.name: dialect
    for dialect in (
        StateSql(
            name="duckdb",
            types=_types("VARCHAR", "TIMESTAMPTZ"),
            session=("SET TimeZone = 'UTC'",),
            plan_in_transaction=True,
            describe=_COLUMNS,
            identity="SELECT current_user, current_database()",
            has_schema=_SCHEMA,
            grant_schema=_READ_ONLY_FILE,
            grant_tables=_READ_ONLY_FILE,
        ),
        StateSql(
            name="postgres",
            types=_types("TEXT", "TIMESTAMPTZ"),
            session=_POSTGRES_SESSION,
            plan_in_transaction=True,
            one_moment="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            analyzed="ANALYZE {table}",
            indexed="CREATE INDEX ON {table} (seq)",
            describe=(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = CAST('{schema}.{table}' AS regclass) AND attnum > 0 AND NOT attisdropped"
                " ORDER BY attnum"
            ),
            **_POSTGRES,
        ),
        StateSql(
            name="redshift",
            types=_types("VARCHAR(MAX)", "TIMESTAMPTZ"),
            # the default of 15 digits of a float hides changes
            session=("SET timezone = 'UTC'", "SET datestyle = 'ISO, YMD'", "SET extra_float_digits = 2"),
            plan_in_transaction=True,
            analyzed="ANALYZE {table}",
            piece=60_000,  # VARCHAR(MAX) holds 65535 bytes
            describe=_REDSHIFT_COLUMNS,
            **_POSTGRES,
        ),
        StateSql(
            name="snowflake",
            types=_types("VARCHAR", "TIMESTAMP_TZ"),
            session=(_SNOWFLAKE_SESSION,),
            describe="DESCRIBE TABLE {schema}.{table}",  # the information schema has no scale in NUMBER's type
            identity="SELECT CURRENT_ROLE(), CURRENT_DATABASE()",
            has_schema=_SCHEMA,
            grant_schema='GRANT CREATE SCHEMA ON DATABASE "{database}" TO ROLE "{user}";',
            grant_tables='GRANT USAGE, CREATE TABLE ON SCHEMA {schema} TO ROLE "{user}";',
        ),
        StateSql(
            name="bigquery",
            types=_types("STRING", "TIMESTAMP", integer="INT64", double="FLOAT64"),
            begin=None,
            describe=(
                "SELECT column_name, data_type FROM {schema}.INFORMATION_SCHEMA.COLUMNS"
                " WHERE table_name = '{table}' ORDER BY ordinal_position"
            ),
            identity=(
                "SELECT CASE WHEN SESSION_USER() LIKE '%.gserviceaccount.com' THEN 'serviceAccount:' ELSE 'user:' END"
                " || SESSION_USER(), @@project_id"
            ),
            has_schema="SELECT 1 FROM INFORMATION_SCHEMA.SCHEMATA WHERE schema_name = '{schema}'",
            grant_schema='GRANT `roles/bigquery.user` ON PROJECT `{database}` TO "{user}";',
            grant_tables='GRANT `roles/bigquery.dataEditor` ON SCHEMA `{database}`.{schema} TO "{user}";',
        ),
        StateSql(
            name="databricks",
            types=_types("STRING", "TIMESTAMP", double="DOUBLE"),
            session=("SET TIME ZONE 'UTC'",),
            begin=None,
            describe="DESCRIBE TABLE {schema}.{table}",
            identity="SELECT current_user(), current_catalog()",
            add_column="ADD COLUMNS ({column})",
            has_schema="SHOW SCHEMAS LIKE '{schema}'",
            grant_schema="GRANT CREATE SCHEMA ON CATALOG `{database}` TO `{user}`;",
            grant_tables="GRANT USE SCHEMA, CREATE TABLE, SELECT, MODIFY ON SCHEMA `{database}`.{schema} TO `{user}`;",
        ),
    )
}
