"""Snowflake."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.dialects.planner import NO_FRACTION, PlannerDialect

#: Always with nine digits of a second, so that trimming zeros stops at the decimal point.
_CLOCK = "RTRIM(RTRIM(TO_VARCHAR({x}, '%sHH24:MI:SS.FF9'), '0'), '.')"
_SETTINGS = (
    "ALTER SESSION SET TIMEZONE = 'UTC', TIMESTAMP_NTZ_OUTPUT_FORMAT = 'YYYY-MM-DD HH24:MI:SS.FF9',"
    " DATE_OUTPUT_FORMAT = 'YYYY-MM-DD', TIME_OUTPUT_FORMAT = 'HH24:MI:SS.FF9', BINARY_OUTPUT_FORMAT = 'HEX',"
    " LOCK_TIMEOUT = 60"  # seconds; the default is twelve hours
)

SNOWFLAKE = PlannerDialect(
    name="snowflake",
    name_case="upper",
    more_than_select=r"(->>) ",  # the flow operator runs several statements in order; it is not a JSON operator here
    # writing
    autocommits=True,
    references="",  # foreign keys are not enforced
    # errors
    error_words={"has locked table": ErrorKind.CONFLICT, "waiters for this lock": ErrorKind.CONFLICT},
    # text forms
    string="VARCHAR",
    float="REPLACE(LOWER(" + NO_FRACTION % "VARCHAR" + "), 'infinity', 'inf')",
    instant=_CLOCK.replace("{x}", "CONVERT_TIMEZONE('UTC', {x})") % "YYYY-MM-DD " + " || 'Z'",
    binary="LOWER(HEX_ENCODE({x}))",
    nested="TO_JSON(TO_VARIANT({x}))",
    time=_CLOCK % "",
    timestamp=_CLOCK % "YYYY-MM-DD ",
    # digests and JSON
    high="TO_NUMBER(SUBSTR({h}, 1, 15), 'XXXXXXXXXXXXXXX')",
    low="TO_NUMBER(SUBSTR({h}, 17, 15), 'XXXXXXXXXXXXXXX')",
    array="TO_JSON(ARRAY_CONSTRUCT({items}))",
    record="OBJECT_CONSTRUCT_KEEP_NULL({items})",
    record_text="TO_JSON({x})",
    # state
    timestamptz="TIMESTAMP_TZ",
    session=(_SETTINGS,),
    plan_in_transaction=False,  # CREATE TABLE ends the open transaction
    describe="DESCRIBE TABLE {schema}.{table}",  # the information schema has no scale in NUMBER's type
    identity="SELECT CURRENT_ROLE(), CURRENT_DATABASE()",
    grant_schema='GRANT CREATE SCHEMA ON DATABASE "{database}" TO ROLE "{user}";',
    grant_tables='GRANT USAGE, CREATE TABLE ON SCHEMA {schema} TO ROLE "{user}";',
)
