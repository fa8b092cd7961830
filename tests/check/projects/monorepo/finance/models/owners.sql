select account_id, name from {{ ref('shared', 'stg_accounts') }} where closed_at is null
