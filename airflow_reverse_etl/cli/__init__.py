"""The ``reverse-etl`` program: commands that work without Airflow running. Only ``state`` imports Airflow."""
