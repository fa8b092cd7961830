"""PostgreSQL."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.planner import BLANK_TEXT, PlannerDialect

POSTGRES = PlannerDialect(
    name="postgres",
    aliases=("postgresql",),
    name_case="lower",
    # writing
    explains=True,
    upsert="ON CONFLICT",
    many_rows=True,  # executemany of psycopg2 takes a round trip a row
    unique_constraints="""
        SELECT i.relname, COALESCE(c.condeferrable, FALSE), a.attname, NOT a.attnotnull
        FROM pg_index AS x
        JOIN pg_class AS i ON i.oid = x.indexrelid
        CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k (attnum, place)
        LEFT JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
        LEFT JOIN pg_constraint AS c ON c.conindid = x.indexrelid AND c.conrelid = x.indrelid
        WHERE x.indrelid = to_regclass({table}) AND x.indisunique AND x.indpred IS NULL AND k.place <= x.indnkeyatts
        ORDER BY i.relname, k.place
    """,
    # errors
    references="""
        SELECT conrelid::regclass::text FROM pg_constraint
        WHERE contype = 'f' AND confrelid = to_regclass({table}) AND conrelid <> confrelid
        ORDER BY 1
    """,
    unique_violations=(r'^duplicate key value violates unique constraint "([^"]+)"',),
    # text forms
    string="TEXT",
    # the cast also writes the shortest digits, but switches to an exponent at other limits
    float=(
        "CASE WHEN ABS({x}) >= 1e-4 AND ABS({x}) < 1e16"
        " THEN CAST(TRIM_SCALE(CAST(CAST({x} AS TEXT) AS NUMERIC)) AS TEXT)"
        " WHEN {x} = 0 THEN '0' ELSE REPLACE(LOWER(CAST({x} AS TEXT)), 'infinity', 'inf') END"
    ),
    instant="CAST({x} AT TIME ZONE 'UTC' AS TEXT) || 'Z'",
    binary="ENCODE({x}, 'hex')",
    nested="CAST(TO_JSON({x}) AS TEXT)",
    decimal="CAST(TRIM_SCALE({x}) AS TEXT)",
    free_scale=True,
    trimmed=f"BTRIM({{x}}, {BLANK_TEXT})",
    # In a database with the locale C, LOWER alone knows ASCII only. A server without ICU does not have the collation.
    collation="und-x-icu",
    has_collation=(
        "SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu' AND pg_collation_is_visible(oid)"
        " AND current_setting('server_encoding') = 'UTF8'"
    ),
    # digests and JSON
    sha256="ENCODE(SHA256(CONVERT_TO({x}, 'UTF8')), 'hex')",
    high="CAST(CAST('x0' || SUBSTR({h}, 1, 15) AS BIT(64)) AS BIGINT)",
    low="CAST(CAST('x0' || SUBSTR({h}, 17, 15) AS BIT(64)) AS BIGINT)",
    array="CAST(ARRAY_TO_JSON(ARRAY[{items}]) AS TEXT)",
    record="JSON_BUILD_OBJECT({items})",
    record_text="CAST({x} AS TEXT)",
    # state
    session=(
        "SET TimeZone = 'UTC'",
        "SET DateStyle = 'ISO, YMD'",
        "SET IntervalStyle = 'postgres'",
        "SET extra_float_digits = 1",
        "SET lock_timeout = '15s'",
        # The locks of a process that was stopped in the middle of a transaction must not hold up its retry. Between two
        # statements of ours pass milliseconds.
        "SET idle_in_transaction_session_timeout = '15s'",
    ),
    plan_in_transaction=True,
    one_moment="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    describe=(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = CAST('{schema}.{table}' AS regclass) AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum"
    ),
    identity="SELECT current_user, current_database()",
    has_schema="SELECT 1 FROM pg_namespace WHERE nspname = LOWER('{schema_name}')",
    grant_schema='CREATE SCHEMA {schema} AUTHORIZATION "{user}";',
    grant_tables='GRANT USAGE, CREATE ON SCHEMA {schema} TO "{user}";',
    analyzed="ANALYZE {table}",
    indexed="CREATE INDEX ON {table} (seq)",
    range_rows=65_536,
)
