"""What this package adds to Airflow's API server. Loaded through the entry point group ``airflow.plugins``."""
