"""The engine: what to send, sending it, and what became of it. Knows no Airflow, no network, no driver."""
