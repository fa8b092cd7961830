select
    customers.customer_id,
    customers.email,
    customers.country,
    coalesce(orders.order_total, 0) as order_total,
    orders.last_ordered_on >= current_date - {{ var('active_days') }} as is_active
from {{ ref('stg_customers') }} as customers
left join {{ ref('customer_orders') }} as orders
    on customers.customer_id = orders.customer_id
