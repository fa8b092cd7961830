"""Parts of a report that several formats share."""

from __future__ import annotations

from airflow_reverse_etl.check.findings import Finding
from airflow_reverse_etl.spec.folders.reading import Place


def place_in_repository(finding: Finding) -> Place:
    """Return the first place of a finding that is inside the repository, where its host can show it.

    Files of syncs may be elsewhere, such as next to a DAG; files of models never are.
    """
    return next((place for place in finding.places if not place.file.startswith(("/", ".."))), finding.place)


def sentences(finding: Finding) -> str:
    """Return the message and the advice of a finding as sentences."""
    return f"{finding.message}. {finding.todo[:1].upper()}{finding.todo[1:]}".strip()
