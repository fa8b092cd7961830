"""The check: what a change to a dbt project does to the syncs that use it."""
