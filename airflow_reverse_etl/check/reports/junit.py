"""The report as JUnit XML, in the form that Jenkins and GitLab read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from airflow_reverse_etl.check.findings import CheckReport, Finding, Level

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: CheckReport) -> str:
    """Return a test suite with a case for each sync. Findings that need review are failures of their own type."""
    from xml.etree import ElementTree as Xml

    suite = Xml.Element("testsuite", name="reverse-etl check", tests=str(len(report.syncs)))
    failures = 0
    for sync in report.syncs:
        found = [finding for finding in report.findings if finding.sync == sync]
        case = Xml.SubElement(suite, "testcase", classname="reverse-etl", name=sync, time="0")
        problems = [finding for finding in found if finding.level is not Level.WARNING]
        warnings = [finding for finding in found if finding.level is Level.WARNING]
        if sync in report.unrelated:
            Xml.SubElement(case, "skipped", message=_xml(report.unrelated[sync]))
        if problems:
            failures += 1
            worst = problems[0]
            case.set("file", worst.place.file)
            failure = Xml.SubElement(case, "failure", type=worst.level.value, message=_xml(worst.message))
            failure.text = _text(problems)
        if warnings:
            Xml.SubElement(case, "system-out").text = _text(warnings)
    suite.set("failures", str(failures))
    suite.set("errors", "0")
    suite.set("skipped", str(len(report.unrelated)))
    suite.set("time", "0")
    root = Xml.Element("testsuites")
    root.append(suite)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _text(findings: Sequence[Finding]) -> str:
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{finding.place}: {finding.level}: {finding.message}")
        if finding.todo:
            lines.append(f"    What to do: {finding.todo}")
    return _xml("\n".join(lines))


def _xml(text: str) -> str:
    """Replace characters that XML does not allow."""
    return _NOT_XML.sub("?", text)
