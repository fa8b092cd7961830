{{ config(severity="warn") }}

select sync, last_run_id, last_rejected, last_invalid, last_planned, last_reject_rate
from {{ ref("reverse_etl_syncs") }}
where last_reject_rate > {{ reverse_etl.limit_of("reverse_etl_max_reject_rate") }}
