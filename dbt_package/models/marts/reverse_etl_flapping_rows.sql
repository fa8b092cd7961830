{{ config(enabled=var("reverse_etl_change_log", false)) }}

with delivered as (

    select
        sync,
        key_hi,
        key_lo,
        row_key,
        plan_id,
        committed_at,
        -- What the destination had then
        case when change = 'removed' then 'removed' else cast(fingerprint as {{ dbt.type_string() }}) end as content
    from {{ ref("stg_reverse_etl__change_log") }}
    where outcome = 'accepted' and {{ reverse_etl.is_recent("committed_at") }}

),

compared as (

    select
        *,
        lag(content) over (partition by sync, key_hi, key_lo order by committed_at, plan_id) as content_before,
        row_number() over (partition by sync, key_hi, key_lo, content order by committed_at, plan_id) as nth_time,
        row_number() over (partition by sync, key_hi, key_lo order by committed_at desc, plan_id desc) as age
    from delivered

)

select
    sync,
    -- The key of a row may change, while the record stays
    max(case when age = 1 then row_key end) as row_key,
    key_hi,
    key_lo,
    count(*) as deliveries,
    count(distinct content) as contents,
    sum(case when nth_time > 1 and content <> content_before then 1 else 0 end) as returns,
    min(committed_at) as first_delivered_at,
    max(committed_at) as last_delivered_at
from compared
group by sync, key_hi, key_lo
having sum(case when nth_time > 1 and content <> content_before then 1 else 0 end) > 0
