{{ config(severity="warn") }}

select sync, last_run_at, hours_since_last_run
from {{ ref("reverse_etl_syncs") }}
where hours_since_last_run > {{ reverse_etl.limit_of("reverse_etl_max_hours") }}
