"""The ``reverse-etl`` program. One module a command; only ``airflow`` loads Airflow, when a command needs it."""
