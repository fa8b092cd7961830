"""The command ``reverse-etl schema``."""

from __future__ import annotations

import json

from airflow_reverse_etl.cli.frame import Answer


def schema() -> Answer:
    """Return the JSON Schema of a sync file."""
    from airflow_reverse_etl.destinations.registry import sync_schema

    found = sync_schema()
    return Answer(found, [json.dumps(found, indent=2)])
