"""The report as JSON."""

from __future__ import annotations

import json

from airflow_reverse_etl.check.findings import CheckReport


def as_json(report: CheckReport) -> str:
    """Return the report as JSON, for programs."""
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
