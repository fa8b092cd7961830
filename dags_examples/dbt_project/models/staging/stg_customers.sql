select
    customer_id,
    lower(trim(email)) as email,
    first_name,
    country,
    plan,
    created_at
from {{ source('shop', 'customers') }}
