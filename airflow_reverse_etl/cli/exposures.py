"""The command ``reverse-etl exposures``."""

from __future__ import annotations

import argparse

from airflow_reverse_etl.cli.options import project_loader, syncs_of


def run_exposures(options: argparse.Namespace) -> str:
    """Return dbt exposures for the syncs, as YAML."""
    from airflow_reverse_etl.check.exposures import exposures

    version = project_loader(options).load(options.project)
    return exposures(syncs_of(options, version), version, owner=options.owner).rstrip()
