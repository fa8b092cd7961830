"""Amazon Redshift, which began as a Postgres."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.dialects.planner import BLANK_TEXT, NO_FRACTION, PlannerDialect
from airflow_reverse_etl.sql.dialects.postgres import POSTGRES

#: A literal, because the documentation of Redshift's CHR covers ASCII only.
_NO_BREAK_SPACE = "'\u00a0'"

REDSHIFT = PlannerDialect(
    name="redshift",
    name_case="ignored",  # of quoted names, too, unless enable_case_sensitive_identifier is set
    references="",  # foreign keys are not enforced
    # errors
    error_words={"serializable isolation": ErrorKind.CONFLICT},
    # text forms
    string="VARCHAR(MAX)",
    float="REPLACE(LOWER(" + NO_FRACTION % "VARCHAR" + "), 'infinity', 'inf')",
    instant="CAST({x} AT TIME ZONE 'UTC' AS VARCHAR) || 'Z'",
    binary="LOWER(TO_HEX({x}))",
    nested="JSON_SERIALIZE({x})",
    boolean="CASE WHEN {x} THEN 'true' WHEN NOT {x} THEN 'false' END",  # Redshift cannot cast it to text
    trimmed=f"BTRIM({{x}}, {BLANK_TEXT.replace('CHR(160)', _NO_BREAK_SPACE)})",
    # digests and JSON
    high="STRTOL(SUBSTRING({h}, 1, 15), 16)",
    low="STRTOL(SUBSTRING({h}, 17, 15), 16)",
    array="JSON_SERIALIZE(ARRAY({items}))",
    record="OBJECT({items})",
    record_text="JSON_SERIALIZE({x})",
    clocks_as_text=True,  # OBJECT does not accept them
    # state
    # the default of 15 digits of a float hides changes
    session=("SET timezone = 'UTC'", "SET datestyle = 'ISO, YMD'", "SET extra_float_digits = 2"),
    plan_in_transaction=True,
    range_rows=250_000,  # without an index, each statement reads the whole column
    # after v_generate_tbl_ddl in https://github.com/awslabs/amazon-redshift-utils
    describe=(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a JOIN pg_class AS c"
        " ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = LOWER('{schema_name}') AND c.relname = '{table}' AND a.attnum > 0 AND NOT a.attisdropped"
        " ORDER BY a.attnum"
    ),
    identity=POSTGRES.identity,
    has_schema=POSTGRES.has_schema,
    grant_schema=POSTGRES.grant_schema,
    grant_tables=POSTGRES.grant_tables,
    analyzed="ANALYZE {table}",
    piece=60_000,  # VARCHAR(MAX) holds 65535 bytes
)
