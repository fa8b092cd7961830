{{ config(severity="warn") }}

select sync, rejected_rows, rejected_since
from {{ ref("reverse_etl_syncs") }}
where {{ reverse_etl.hours_since("rejected_since") }} / 24 > {{ reverse_etl.limit_of("reverse_etl_max_rejection_days") }}
