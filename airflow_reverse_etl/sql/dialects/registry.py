"""All databases of which something is known."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_reverse_etl.sql.dialects.base import Dialect
from airflow_reverse_etl.sql.dialects.bigquery import BIGQUERY
from airflow_reverse_etl.sql.dialects.databricks import DATABRICKS
from airflow_reverse_etl.sql.dialects.duckdb import DUCKDB
from airflow_reverse_etl.sql.dialects.mysql import DORIS, MYSQL, SINGLESTORE, STARROCKS
from airflow_reverse_etl.sql.dialects.others import ATHENA, CLICKHOUSE, HIVE, ORACLE, PRESTO, SPARK, SPARK2, TRINO
from airflow_reverse_etl.sql.dialects.planner import PlannerDialect
from airflow_reverse_etl.sql.dialects.postgres import POSTGRES
from airflow_reverse_etl.sql.dialects.redshift import REDSHIFT
from airflow_reverse_etl.sql.dialects.snowflake import SNOWFLAKE
from airflow_reverse_etl.sql.dialects.sqlite import SQLITE
from airflow_reverse_etl.sql.dialects.sqlserver import SQLSERVER

#: sqlglot's name of a dialect → the databases that plan and keep state.
PLANNERS: Mapping[str, PlannerDialect] = {
    dialect.name: dialect for dialect in (DUCKDB, POSTGRES, REDSHIFT, SNOWFLAKE, BIGQUERY, DATABRICKS)
}
_OTHERS = (
    *(MYSQL, DORIS, SINGLESTORE, STARROCKS, SQLITE, SQLSERVER),
    *(ATHENA, CLICKHOUSE, HIVE, ORACLE, PRESTO, SPARK, SPARK2, TRINO),
)
_DIALECTS: Mapping[str, Dialect] = {
    name: dialect for dialect in (*PLANNERS.values(), *_OTHERS) for name in (dialect.name, *dialect.aliases)
}


def dialect_of(name: str) -> Dialect:
    """Return the facts about a database.

    :param name: sqlglot's name of the dialect, or an alias. Of a database with another name nothing is known.
    """
    return _DIALECTS.get(name) or Dialect(name=name)


def writable_dialect(name: str) -> Dialect | None:
    """Return the facts about a database, or None if sqlglot cannot write its SQL.

    :param name: see :func:`dialect_of`.
    """
    from sqlglot.dialects.dialect import Dialect as SqlglotDialect

    found = dialect_of(name)
    return found if found.name and SqlglotDialect.get(found.name) else None
