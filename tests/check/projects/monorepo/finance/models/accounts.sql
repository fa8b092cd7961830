select account_id, name, {{ cents_to_euros('balance_cents') }} as balance
from {{ ref('shared', 'stg_accounts') }}
