{{ config(enabled=var("reverse_etl_change_log", false)) }}

{%- set columns = {
    "run_id": dbt.type_string(),
    "plan_id": dbt.type_string(),
    "change": dbt.type_string(),
    "row_key": dbt.type_string(),
    "key_hi": dbt.type_bigint(),
    "key_lo": dbt.type_bigint(),
    "fingerprint": dbt.type_bigint(),
    "outcome": dbt.type_string(),
    "code": dbt.type_string(),
    "committed_at": dbt.type_timestamp(),
} -%}

{{ reverse_etl.state_rows("change_log", columns) }}
