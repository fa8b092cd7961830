{{ config(severity="warn") }}

select sync, rejected_rows, rejected_since
from {{ ref("reverse_etl_syncs") }}
where {{ dbt.datediff("rejected_since", dbt.current_timestamp(), "day") }}
    > {{ reverse_etl.limit_of("reverse_etl_max_rejection_days") }}
