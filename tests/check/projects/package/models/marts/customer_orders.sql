with totals as (

    select
        customer_id,
        count(*) as order_count,
        sum(amount) as order_total,
        max(ordered_on) as last_ordered_on
    from {{ ref('stg_orders') }}
    group by customer_id

)

select
    totals.customer_id,
    cast(totals.order_count as integer) as order_count,
    cast(totals.order_total as integer) as order_total,
    totals.last_ordered_on
from totals
where totals.order_total > 0
