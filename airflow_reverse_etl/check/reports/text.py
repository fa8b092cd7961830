"""A check's report for people."""

from __future__ import annotations

from airflow_reverse_etl.check.findings import CheckReport, Finding


def text(report: CheckReport) -> str:
    """For people: ``file:line: level: what``, and what to do."""
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.place}: {finding.level}: {finding.message} [{finding.rule}]")
        lines.append(f"    {_where(finding)}")
        if finding.todo:
            lines.append(f"    What to do: {finding.todo}")
    lines += [f"not checked: sync {name}: {why}" for name, why in sorted(report.unrelated.items())]
    lines.append(f"{report.summary} (policy {report.policy}; {report.base} → {report.head})")
    return "\n".join(lines) + "\n"


def _where(finding: Finding) -> str:
    return ", ".join([f"sync {finding.sync}", f"model {finding.model}", *(str(place) for place in finding.places[1:])])
