"""A dbt project at one commit: how it is loaded, and what each of its nodes is made from."""
