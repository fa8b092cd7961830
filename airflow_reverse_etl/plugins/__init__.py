"""Plugins of Airflow's API server, loaded through the entry point group ``airflow.plugins``."""
