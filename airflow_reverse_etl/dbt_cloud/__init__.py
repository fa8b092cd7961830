"""dbt Cloud: its API, its runs and who has consumed them, its webhooks."""
