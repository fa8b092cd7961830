{%- set columns = {
    "row_key": dbt.type_string(),
    "key_hi": dbt.type_bigint(),
    "key_lo": dbt.type_bigint(),
    "fingerprint": dbt.type_bigint(),
    "change": dbt.type_string(),
    "outcome": dbt.type_string(),
    "code": dbt.type_string(),
    "message": dbt.type_string(),
    "attempts": dbt.type_bigint(),
    "first_seen": dbt.type_timestamp(),
    "last_seen": dbt.type_timestamp(),
} -%}

{{ reverse_etl.state_rows("rejections", columns) }}
