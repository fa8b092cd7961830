"""A check's report as text: for people, for programs, and for the ways CI systems show results.

Sources: JUnit XML as Jenkins and GitLab read it; SARIF 2.1.0 (OASIS); GitHub's workflow commands
(https://docs.github.com/actions/reference/workflow-commands-for-github-actions).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from airflow_reverse_etl.check.findings import RULES, Finding, Level, Report
from airflow_reverse_etl.check.usage import Place

#: Begins our comment on a pull request, so that the next check finds it. No HTML: Bitbucket would show it.
MARKER = "[//]: # (reverse-etl check)"

_GITHUB = {Level.BREAKING: "error", Level.REVIEW: "warning", Level.WARNING: "notice"}
_SARIF = {Level.BREAKING: "error", Level.REVIEW: "warning", Level.WARNING: "note"}
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def text(report: Report) -> str:
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


def as_json(report: Report) -> str:
    """For programs."""
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"


def junit(report: Report) -> str:
    """One test case for each sync. What needs review is a failure of its own type."""
    from xml.etree import ElementTree as Xml

    suite = Xml.Element("testsuite", name="reverse-etl check", tests=str(len(report.syncs)))
    failures = 0
    for sync in report.syncs:
        found = [finding for finding in report.findings if finding.sync == sync]
        case = Xml.SubElement(suite, "testcase", classname="reverse-etl", name=sync, time="0")
        bad = [finding for finding in found if finding.level is not Level.WARNING]
        if sync in report.unrelated:
            Xml.SubElement(case, "skipped", message=_xml(report.unrelated[sync]))
        if bad:
            failures += 1
            case.set("file", bad[0].place.file)
            failure = Xml.SubElement(case, "failure", type=bad[0].level.value, message=_xml(bad[0].message))
            failure.text = _xml("\n".join(_line(finding) for finding in bad))
        if warnings := [finding for finding in found if finding.level is Level.WARNING]:
            Xml.SubElement(case, "system-out").text = _xml("\n".join(_line(finding) for finding in warnings))
    for name, number in {"failures": failures, "errors": 0, "skipped": len(report.unrelated), "time": 0}.items():
        suite.set(name, str(number))
    root = Xml.Element("testsuites")
    root.append(suite)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def sarif(report: Report) -> str:
    """For code scanning, version 2.1.0, with what GitHub wants beyond the standard: help texts, and lines."""
    from airflow_reverse_etl import __version__

    rules = [
        {
            "id": rule,
            "shortDescription": {"text": title},
            "fullDescription": {"text": f"{title}."},
            "help": {"text": f"{title}. Each result says what to do; all rules are in the reference of the check."},
        }
        for rule, title in RULES.items()
    ]
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": list(RULES).index(finding.rule),
            "level": _SARIF[finding.level],
            "message": {"text": _sentences(finding)},
            "locations": [_location(_in_repository(finding))],
            "relatedLocations": [
                {**_location(place), "message": {"text": str(place)}}
                for place in finding.places
                if place != _in_repository(finding)
            ],
            "partialFingerprints": {
                "finding/v1": f"{finding.sync}:{finding.rule}:{finding.model}:{finding.column or ''}"
            },
        }
        for finding in report.findings
    ]
    driver = {"name": "reverse-etl check", "semanticVersion": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _location(place: Place) -> Mapping[str, Any]:
    from urllib.parse import quote

    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(place.file)},
            "region": {"startLine": place.line or 1},
        }
    }


def github(report: Report) -> str:
    """Workflow commands: GitHub shows them beside the lines of the pull request."""
    lines = []
    for finding in report.findings:
        place = _in_repository(finding)
        line = f",line={place.line}" if place.line else ""
        title = _property(f"{finding.sync}: {RULES[finding.rule]}")
        lines.append(
            f"::{_GITHUB[finding.level]} file={_property(place.file)}{line},title={title}::{_data(_sentences(finding))}"
        )
    return "\n".join([*lines, report.summary]) + "\n"


def check_annotations(report: Report) -> list[dict[str, Any]]:
    """For a GitHub check run."""
    levels = {Level.BREAKING: "failure", Level.REVIEW: "warning", Level.WARNING: "notice"}
    return [
        {
            "path": place.file,
            "start_line": place.line or 1,
            "end_line": place.line or 1,
            "annotation_level": levels[finding.level],
            "title": f"{finding.sync}: {RULES[finding.rule]}"[:255],
            "message": _sentences(finding),
        }
        for finding in report.findings
        for place in [_in_repository(finding)]
    ]


def markdown(report: Report, *, limit: int = 60_000) -> str:
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


def _in_repository(finding: Finding) -> Place:
    """Where the repository's host can show it: syncs may be elsewhere, such as beside a DAG; models never are."""
    return next((place for place in finding.places if not place.file.startswith(("/", ".."))), finding.place)


def _sentences(finding: Finding) -> str:
    return f"{finding.message}. {finding.todo[:1].upper()}{finding.todo[1:]}".strip()


def _where(finding: Finding) -> str:
    return ", ".join([f"sync {finding.sync}", f"model {finding.model}", *(str(place) for place in finding.places[1:])])


def _line(finding: Finding) -> str:
    todo = f"\n    What to do: {finding.todo}" if finding.todo else ""
    return f"{finding.place}: {finding.level}: {finding.message}{todo}"


def _xml(words: str) -> str:
    return _NOT_XML.sub("?", words)


def _data(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")


FORMATS: Mapping[str, Callable[[Report], str]] = {
    "text": text,
    "json": as_json,
    "junit": junit,
    "sarif": sarif,
    "github": github,
}
