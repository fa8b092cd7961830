"""BigQuery."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.dialects.planner import PlannerDialect

BIGQUERY = PlannerDialect(
    name="bigquery",
    aliases=("gcpbigquery", "google_cloud_platform"),
    hooks={"google_cloud_platform": ("google.cloud.hooks.bigquery", "BigQueryHook", "gcp_conn_id")},
    name_case="exact",
    # writing
    transactions=False,
    # errors
    error_words={"concurrent update": ErrorKind.CONFLICT},
    error_classes={"Forbidden": ErrorKind.DENIED, "NotFound": ErrorKind.MISSING, "Unauthorized": ErrorKind.LOGIN},
    # text forms
    string="STRING",
    float="CAST({x} + 0 AS STRING)",
    instant="FORMAT_TIMESTAMP('%F %H:%M:%E*S', {x}, 'UTC') || 'Z'",
    binary="TO_HEX({x})",
    nested="TO_JSON_STRING({x})",
    json="TO_JSON_STRING({x})",  # BigQuery cannot cast it to text
    decimal="CAST({x} AS STRING)",
    free_scale=True,
    time="FORMAT_TIME('%H:%M:%E*S', {x})",  # a cast writes fractions in groups of three digits
    timestamp="FORMAT_DATETIME('%F %H:%M:%E*S', {x})",
    # digests and JSON
    digest="TO_HEX(MD5({x}))",
    sha256="TO_HEX(SHA256({x}))",
    high="CAST('0x' || SUBSTR({h}, 1, 15) AS INT64)",
    low="CAST('0x' || SUBSTR({h}, 17, 15) AS INT64)",
    array="TO_JSON_STRING([{items}])",
    record="JSON_OBJECT({items})",
    record_text="TO_JSON_STRING({x})",
    # state
    timestamptz="TIMESTAMP",
    bigint="INT64",
    double="FLOAT64",
    describe=(
        "SELECT column_name, data_type FROM {schema}.INFORMATION_SCHEMA.COLUMNS"
        " WHERE table_name = '{table}' ORDER BY ordinal_position"
    ),
    identity=(
        "SELECT CASE WHEN SESSION_USER() LIKE '%.gserviceaccount.com' THEN 'serviceAccount:' ELSE 'user:' END"
        " || SESSION_USER(), @@project_id"
    ),
    has_schema="SELECT 1 FROM INFORMATION_SCHEMA.SCHEMATA WHERE schema_name = '{schema_name}'",
    grant_schema='GRANT `roles/bigquery.user` ON PROJECT `{database}` TO "{user}";',
    grant_tables='GRANT `roles/bigquery.dataEditor` ON SCHEMA `{database}`.{schema} TO "{user}";',
    # Google's own driver. The one in Airflow's hook runs a statement unchanged.
    doubles_percent="google.cloud.bigquery.dbapi",
)
