"""The command ``reverse-etl schema``."""

from __future__ import annotations

import argparse


def run_schema(_: argparse.Namespace) -> str:
    """Return the JSON Schema of a sync file."""
    import json

    from airflow_reverse_etl.destinations.registry import sync_schema

    return json.dumps(sync_schema(), indent=2)
