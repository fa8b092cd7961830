with open_accounts as (
    select * from {{ ref('stg_accounts') }} where closed_at is null
)

select account_id, name, owner from open_accounts
