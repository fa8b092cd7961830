"""Hook of HubSpot's connections."""

from __future__ import annotations

from airflow_reverse_etl.destinations.hubspot import INFO
from airflow_reverse_etl.hooks.http import connection_hook

HubSpotHook = connection_hook(INFO)
