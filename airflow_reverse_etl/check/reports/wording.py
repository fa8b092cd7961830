"""Wording that several formats share."""

from __future__ import annotations

from airflow_reverse_etl.check.findings import Finding
from airflow_reverse_etl.check.usage import Place


def place_in_repository(finding: Finding) -> Place:
    """Where the repository's host can show it: syncs may be elsewhere, such as beside a DAG; models never are."""
    return next((place for place in finding.places if not place.file.startswith(("/", ".."))), finding.place)


def sentences(finding: Finding) -> str:
    """A finding's message and what to do, as sentences."""
    return f"{finding.message}. {finding.todo[:1].upper()}{finding.todo[1:]}".strip()
