with runs as (

    select * from {{ ref("reverse_etl_runs") }}

),

deliveries as (

    select sync, max(committed_at) as last_delivered_at
    from runs
    where accepted > 0
    group by sync

),

recent as (

    select
        sync,
        count(*) as recent_runs,
        sum(planned) as recent_planned,
        sum(accepted) as recent_accepted,
        sum(rejected + invalid) as recent_rejected
    from runs
    where {{ reverse_etl.is_recent("committed_at") }}
    group by sync

),

rejections as (

    select sync, count(*) as rejected_rows, min(first_seen) as rejected_since
    from {{ ref("stg_reverse_etl__rejections") }}
    where outcome = 'rejected'
    group by sync

)

select
    runs.sync,
    runs.mode,
    runs.run_id as last_run_id,
    runs.committed_at as last_run_at,
    {{ reverse_etl.hours_since("runs.committed_at") }} as hours_since_last_run,
    deliveries.last_delivered_at,
    runs.model_rows,
    runs.planned as last_planned,
    runs.accepted as last_accepted,
    runs.rejected as last_rejected,
    runs.invalid as last_invalid,
    runs.reject_rate as last_reject_rate,
    coalesce(recent.recent_runs, 0) as recent_runs,
    coalesce(recent.recent_accepted, 0) as recent_accepted,
    coalesce(recent.recent_rejected, 0) as recent_rejected,
    1.0 * recent.recent_rejected / nullif(recent.recent_planned, 0) as recent_reject_rate,
    coalesce(rejections.rejected_rows, 0) as rejected_rows,
    rejections.rejected_since
from runs
left join deliveries on runs.sync = deliveries.sync
left join recent on runs.sync = recent.sync
left join rejections on runs.sync = rejections.sync
where runs.age = 1
