select
    cast(id as integer) as account_id,
    cast(name as varchar) as name,
    cast(owner as varchar) as owner,
    cast(balance as integer) as balance_cents,
    cast(closed_at as timestamp) as closed_at
from {{ source('erp', 'accounts') }}
