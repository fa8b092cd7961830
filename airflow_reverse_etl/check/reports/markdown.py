"""A check's report as a comment on a pull request."""

from __future__ import annotations

import re

from airflow_reverse_etl.check.findings import CheckReport, Finding, Level

#: Begins our comment on a pull request, so that the next check finds it. No HTML: Bitbucket would show it.
MARKER = "[//]: # (reverse-etl check)"


def markdown(report: CheckReport, *, limit: int = 60_000) -> str:
    """For a comment on a pull request, begun by ``MARKER``; cut to ``limit`` characters."""
    icon = {"failed": "❌", "needs review": "🔍", "passed": "✅"}[report.conclusion]
    lines = [MARKER, "", f"### {icon} Reverse ETL syncs: {report.summary}", ""]
    for level in Level:
        if found := report.of(level):
            lines += [f"**{level.value.capitalize()}**", "", *(_item(finding) for finding in found), ""]
    lines.append(f"Policy `{report.policy}`; `{report.base}` → `{report.head}`")
    whole = "\n".join(lines)
    return whole if len(whole) <= limit else f"{whole[:limit]}\n\n… cut; the CI job's log has all of it."


def _item(finding: Finding) -> str:
    todo = f"\n    - {_escaped(finding.todo)}" if finding.todo else ""  # four spaces: Bitbucket wants them
    return f"- **{_escaped(finding.sync)}** (`{finding.place}`): {_escaped(finding.message)}{todo}"


def _escaped(words: str) -> str:
    """Names come from the change under check: they must not become links, mentions or markup."""
    return re.sub(r"([\\`*_\[\]<>@#|])", r"\\\1", words).replace("\\@", "@\u200b").replace("\\<", "&lt;")
