select customer_id, email, 1 as orders from {{ ref('stg_customers') }}
