"""Databricks SQL."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.dialects.planner import BLANK_TEXT, PlannerDialect

#: TRIM, because RTRIM takes the characters to trim as its *first* argument, according to Databricks' manual.
_TRIMMED = "TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM CAST({x} AS STRING)))"

DATABRICKS = PlannerDialect(
    name="databricks",
    aliases=("databricks_sql",),
    hooks={"databricks": ("databricks.hooks.databricks_sql", "DatabricksSqlHook", "databricks_conn_id")},
    scalar_functions=frozenset({"flatten"}),
    # writing
    transactions=False,
    # errors
    error_words={
        "concurrentmodification": ErrorKind.CONFLICT,
        "concurrentappend": ErrorKind.CONFLICT,
        "delta_concurrent": ErrorKind.CONFLICT,
    },
    # text forms
    string="STRING",
    # Java writes 1.0E16, 1.5E-5. A decimal of 38 digits holds every number that is written without an exponent.
    float=(
        "CASE WHEN {x} = 0 THEN '0' WHEN ABS({x}) >= 1e-4 AND ABS({x}) < 1e16 THEN "
        + _TRIMMED.format(x="CAST(CAST({x} AS STRING) AS DECIMAL(38, 21))")
        + " ELSE REGEXP_REPLACE(REGEXP_REPLACE(REPLACE(REPLACE(LOWER(CAST({x} AS STRING)),"
        " '.0e', 'e'), 'infinity', 'inf'), 'e([0-9])', 'e+$1'), 'e([+-])([0-9])$', 'e$10$2') END"
    ),
    instant="CAST(TO_UTC_TIMESTAMP({x}, CURRENT_TIMEZONE()) AS STRING) || 'Z'",
    binary="LOWER(HEX({x}))",
    nested="TO_JSON({x}, MAP('ignoreNullFields', 'false'))",
    decimal=_TRIMMED,
    trimmed=f"BTRIM({{x}}, {BLANK_TEXT})",
    # digests and JSON
    high="CAST(CONV(SUBSTR({h}, 1, 15), 16, 10) AS BIGINT)",
    low="CAST(CONV(SUBSTR({h}, 17, 15), 16, 10) AS BIGINT)",
    array="TO_JSON(ARRAY({items}))",
    record="NAMED_STRUCT({items})",
    record_text="TO_JSON({x}, MAP('ignoreNullFields', 'false'))",
    clocks_as_text=True,  # TO_JSON cuts off microseconds
    # state
    timestamptz="TIMESTAMP",
    double="DOUBLE",
    session=("SET TIME ZONE 'UTC'",),
    describe="DESCRIBE TABLE {schema}.{table}",
    identity="SELECT current_user(), current_catalog()",
    has_schema="SHOW SCHEMAS LIKE '{schema_name}'",
    grant_schema="GRANT CREATE SCHEMA ON CATALOG `{database}` TO `{user}`;",
    grant_tables="GRANT USE SCHEMA, CREATE TABLE, SELECT, MODIFY ON SCHEMA `{database}`.{schema} TO `{user}`;",
    add_column="ADD COLUMNS ({column})",
)
