"""All databases of which something is known, by sqlglot's name of their dialect."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_reverse_etl.sql.dialects.bigquery import BIGQUERY
from airflow_reverse_etl.sql.dialects.databricks import DATABRICKS
from airflow_reverse_etl.sql.dialects.duckdb import DUCKDB
from airflow_reverse_etl.sql.dialects.planner import PlannerDialect
from airflow_reverse_etl.sql.dialects.postgres import POSTGRES
from airflow_reverse_etl.sql.dialects.redshift import REDSHIFT
from airflow_reverse_etl.sql.dialects.snowflake import SNOWFLAKE

#: The databases that plan and keep state.
PLANNERS: Mapping[str, PlannerDialect] = {
    dialect.name: dialect for dialect in (DUCKDB, POSTGRES, REDSHIFT, SNOWFLAKE, BIGQUERY, DATABRICKS)
}
