"""The report formats by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.check.reports.github import github
from airflow_reverse_etl.check.reports.json import as_json
from airflow_reverse_etl.check.reports.junit import junit
from airflow_reverse_etl.check.reports.sarif import sarif
from airflow_reverse_etl.check.reports.text import text

FORMATS: Mapping[str, Callable[[CheckReport], str]] = {
    "text": text,
    "json": as_json,
    "junit": junit,
    "sarif": sarif,
    "github": github,
}
