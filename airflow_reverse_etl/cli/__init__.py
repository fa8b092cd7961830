"""The ``reverse-etl`` program: commands that work without Airflow running. Imports no Airflow."""
