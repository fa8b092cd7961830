with spending as (
    select
        customer_id,
        count(*) as orders,
        sum(amount) as lifetime_value,
        max(ordered_at) as last_order_at
    from {{ ref('stg_orders') }}
    group by customer_id
)

select
    customers.customer_id,
    customers.email,
    customers.first_name,
    customers.country,
    customers.plan,
    customers.created_at,
    coalesce(spending.orders, 0) as orders,
    coalesce(spending.lifetime_value, 0) as lifetime_value,
    spending.last_order_at
from {{ ref('stg_customers') }} as customers
left join spending on customers.customer_id = spending.customer_id
