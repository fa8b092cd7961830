"""The report as text for people."""

from __future__ import annotations

from airflow_reverse_etl.check.findings import CheckReport, Finding


def text(report: CheckReport) -> str:
    """Return a few lines for each finding: ``file:line: level: message``, sync and model, and what to do."""
    lines: list[str] = []
    for finding in report.findings:
        lines.append(f"{finding.place}: {finding.level}: {finding.message} [{finding.rule}]")
        lines.append(f"    {_origin(finding)}")
        if finding.todo:
            lines.append(f"    What to do: {finding.todo}")
    lines += [f"not checked: sync {name}: {reason}" for name, reason in sorted(report.unrelated.items())]
    lines.append(f"{report.summary} (policy {report.policy}; {report.base} → {report.head})")
    return "\n".join(lines) + "\n"


def _origin(finding: Finding) -> str:
    parts = [f"sync {finding.sync}", f"model {finding.model}"]
    parts += [str(place) for place in finding.places[1:]]
    return ", ".join(parts)
