{{ config(materialized='ephemeral') }}
select * from {{ source('raw', 'customers') }}
