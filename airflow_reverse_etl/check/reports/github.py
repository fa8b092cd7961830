"""A check's report as GitHub's workflow commands and annotations.

Source: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from typing import Any

from airflow_reverse_etl.check.findings import RULE_TITLES, CheckReport, Level
from airflow_reverse_etl.check.reports.wording import place_in_repository, sentences

_GITHUB = {Level.BREAKING: "error", Level.REVIEW: "warning", Level.WARNING: "notice"}


def github(report: CheckReport) -> str:
    """Workflow commands: GitHub shows them beside the lines of the pull request."""
    lines = []
    for finding in report.findings:
        place = place_in_repository(finding)
        line = f",line={place.line}" if place.line else ""
        title = _property(f"{finding.sync}: {RULE_TITLES[finding.rule]}")
        lines.append(
            f"::{_GITHUB[finding.level]} file={_property(place.file)}{line},title={title}::{_data(sentences(finding))}"
        )
    return "\n".join([*lines, report.summary]) + "\n"


def check_annotations(report: CheckReport) -> list[dict[str, Any]]:
    """For a GitHub check run."""
    levels = {Level.BREAKING: "failure", Level.REVIEW: "warning", Level.WARNING: "notice"}
    return [
        {
            "path": place.file,
            "start_line": place.line or 1,
            "end_line": place.line or 1,
            "annotation_level": levels[finding.level],
            "title": f"{finding.sync}: {RULE_TITLES[finding.rule]}"[:255],
            "message": sentences(finding),
        }
        for finding in report.findings
        for place in [place_in_repository(finding)]
    ]


def _data(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")
