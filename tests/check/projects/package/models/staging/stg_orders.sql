select
    id as order_id,
    customer_id,
    cast(amount as integer) as amount,
    cast(ordered_on as date) as ordered_on
from {{ source('crm', 'orders') }}
