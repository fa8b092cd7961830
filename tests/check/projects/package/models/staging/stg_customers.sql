with source as (

    select * from {{ source('crm', 'customers') }}

),

renamed as (

    select
        id as customer_id,
        {{ customer_metrics.clean_email('email') }} as email,
        cast(country as varchar) as country,
        cast(created_at as timestamp) as created_at
    from source

)

select * from renamed
