"""dbt: running it, and what its artifacts say."""
