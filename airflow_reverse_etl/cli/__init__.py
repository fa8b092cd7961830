"""``reverse-etl``: what can be done without Airflow running. Imports no Airflow."""
