{%- set columns = {
    "run_id": dbt.type_string(),
    "plan_id": dbt.type_string(),
    "mode": dbt.type_string(),
    "planned_at": dbt.type_timestamp(),
    "committed_at": dbt.type_timestamp(),
    "model_rows": dbt.type_bigint(),
    "snapshot_rows": dbt.type_bigint(),
    "added": dbt.type_bigint(),
    "changed": dbt.type_bigint(),
    "removed": dbt.type_bigint(),
    "invalid": dbt.type_bigint(),
    "accepted": dbt.type_bigint(),
    "rejected": dbt.type_bigint(),
    "retryable": dbt.type_bigint(),
    "unknown": dbt.type_bigint(),
    "skipped": dbt.type_bigint(),
    "requests": dbt.type_bigint(),
    "seconds": dbt.type_float(),
    "report": dbt.type_string(),
} -%}

{{ reverse_etl.state_rows("runs", columns) }}
