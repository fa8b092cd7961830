"""The report as GitHub workflow commands and check run annotations.

Source: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from typing import Any

from airflow_reverse_etl.check.findings import RULE_TITLES, CheckReport, Level
from airflow_reverse_etl.check.reports.wording import place_in_repository, sentences

_COMMANDS = {Level.BREAKING: "error", Level.REVIEW: "warning", Level.WARNING: "notice"}


def github(report: CheckReport) -> str:
    """Return workflow commands, which GitHub shows next to the lines of the pull request."""
    lines: list[str] = []
    for finding in report.findings:
        place = place_in_repository(finding)
        title = f"{finding.sync}: {RULE_TITLES[finding.rule]}"
        properties = f"file={_property(place.file)}"
        if place.line:
            properties += f",line={place.line}"
        properties += f",title={_property(title)}"
        lines.append(f"::{_COMMANDS[finding.level]} {properties}::{_data(sentences(finding))}")
    lines.append(report.summary)
    return "\n".join(lines) + "\n"


def check_annotations(report: CheckReport) -> list[dict[str, Any]]:
    """Return the annotations of a GitHub check run."""
    levels = {Level.BREAKING: "failure", Level.REVIEW: "warning", Level.WARNING: "notice"}
    annotations: list[dict[str, Any]] = []
    for finding in report.findings:
        place = place_in_repository(finding)
        line = place.line or 1
        annotations.append(
            {
                "path": place.file,
                "start_line": line,
                "end_line": line,
                "annotation_level": levels[finding.level],
                "title": f"{finding.sync}: {RULE_TITLES[finding.rule]}"[:255],
                "message": sentences(finding),
            }
        )
    return annotations


def _data(text: str) -> str:
    """Escape the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
