with runs as (

    select
        *,
        added + changed + removed + invalid as planned,
        row_number() over (partition by sync order by committed_at desc, plan_id desc) as age
    from {{ ref("stg_reverse_etl__runs") }}

)

select
    sync,
    run_id,
    plan_id,
    mode,
    planned_at,
    committed_at,
    model_rows,
    planned,
    added,
    changed,
    removed,
    invalid,
    accepted,
    rejected,
    retryable,
    unknown,
    skipped,
    -- The same share as that of `failure.max_rejected`
    1.0 * (rejected + invalid) / nullif(planned, 0) as reject_rate,
    requests,
    seconds,
    age
from runs
