"""A check's report as JUnit XML, as Jenkins and GitLab read it."""

from __future__ import annotations

import re

from airflow_reverse_etl.check.findings import CheckReport, Finding, Level

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: CheckReport) -> str:
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


def _line(finding: Finding) -> str:
    todo = f"\n    What to do: {finding.todo}" if finding.todo else ""
    return f"{finding.place}: {finding.level}: {finding.message}{todo}"


def _xml(words: str) -> str:
    return _NOT_XML.sub("?", words)
