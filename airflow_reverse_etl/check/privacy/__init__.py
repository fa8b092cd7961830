"""The privacy policy: which marks each column of a dbt project carries, and what a sync may do with them."""
