{{ config(severity="warn", enabled=var("reverse_etl_change_log", false)) }}

select sync, key_hi, key_lo, deliveries, contents, returns
from {{ ref("reverse_etl_flapping_rows") }}
where returns > {{ reverse_etl.limit_of("reverse_etl_max_returns") }}
