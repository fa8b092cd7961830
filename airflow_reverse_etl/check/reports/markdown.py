"""The report as a comment on a pull request."""

from __future__ import annotations

import re

from airflow_reverse_etl.check.findings import CheckReport, Finding, Level

#: The first line of our comment, by which the next check finds it. Not HTML, which Bitbucket would show.
MARKER = "[//]: # (reverse-etl check)"


def markdown(report: CheckReport, *, limit: int = 60_000) -> str:
    """Return the text of the comment, which begins with ``MARKER`` and is cut after ``limit`` characters."""
    icon = {"failed": "❌", "needs review": "🔍", "passed": "✅"}[report.conclusion]
    lines = [MARKER, "", f"### {icon} Reverse ETL syncs: {report.summary}", ""]
    for level in Level:
        found = report.of(level)
        if found:
            lines += [f"**{level.value.capitalize()}**", ""]
            lines += [_item(finding) for finding in found]
            lines.append("")
    lines.append(f"Policy `{report.policy}`; `{report.base}` → `{report.head}`")
    text = "\n".join(lines)
    if len(text) > limit:
        return f"{text[:limit]}\n\n… truncated; the log of the CI job has the whole report."
    return text


def _item(finding: Finding) -> str:
    item = f"- **{_escaped(finding.sync)}** (`{finding.place}`): {_escaped(finding.message)}"
    if finding.todo:
        item += f"\n    - {_escaped(finding.todo)}"  # Bitbucket requires four spaces
    return item


def _escaped(text: str) -> str:
    """Escape names, which come from the change under check, so that they do not become links, mentions or markup."""
    return re.sub(r"([\\`*_\[\]<>@#|])", r"\\\1", text).replace("\\@", "@\u200b").replace("\\<", "&lt;")
