"""Tests of the report in each format, read as CI systems do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.check.findings import RULE_TITLES, CheckReport, Finding, Level
from airflow_reverse_etl.check.reports import github, junit, markdown, sarif
from airflow_reverse_etl.check.reports import json as json_module
from airflow_reverse_etl.check.reports import text as formats
from airflow_reverse_etl.spec.folders.reading import Place


def report(
    message: str = "column email is missing", *, level: Level = Level.BREAKING, line: int | None = 8
) -> CheckReport:
    places = (Place("syncs/a b.yaml", line), Place("models/customers.sql"))
    finding = Finding("column-missing", level, "contacts", "model.shop.customers", message, places, "keep it", "email")
    return CheckReport(
        "breaking", "main", "HEAD", ("contacts", "orders", "other"), (finding,), {"other": "another project"}
    )


def test_text() -> None:
    assert formats.text(report()).splitlines() == [
        "syncs/a b.yaml:8: breaking: column email is missing [column-missing]",
        "    sync contacts, model model.shop.customers, models/customers.sql",
        "    What to do: keep it",
        "not checked: sync other: another project",
        "failed: 1 breaking, for 1 of 3 syncs (policy breaking; main → HEAD)",
    ]


def test_github_commands_escape_what_would_end_them() -> None:
    (line, _) = github.github(report("50%: one\n::error::two")).splitlines()
    assert line == (
        "::error file=syncs/a b.yaml,line=8,title=contacts%3A A column that a sync uses is missing"
        "::50%25: one%0A::error::two. Keep it"
    )


@pytest.mark.parametrize(("level", "failures"), [(Level.BREAKING, 1), (Level.REVIEW, 1), (Level.WARNING, 0)])
def test_junit_has_a_case_for_each_sync(level: Level, failures: int) -> None:
    suite = Xml.fromstring(junit.junit(report(level=level)))[0]
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["3", str(failures), "0", "1"]
    if failures:
        assert (suite[0][0].text or "").endswith("What to do: keep it")
    assert [(case.get("name"), [child.tag for child in case]) for case in suite] == [
        ("contacts", ["failure" if failures else "system-out"]),
        ("orders", []),
        ("other", ["skipped"]),
    ]


@pytest.mark.parametrize("line", [8, None])
def test_sarif_keeps_to_its_standard(line: int | None) -> None:
    log = json.loads(sarif.sarif(report(line=line)))
    (run,) = log["runs"]
    (result,) = run["results"]
    assert log["version"] == "2.1.0"
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "column-missing"
    assert result["level"] in ("error", "warning", "note")
    where = result["locations"][0]["physicalLocation"]
    assert where["artifactLocation"] == {"uri": "syncs/a%20b.yaml"}
    assert where["region"] == {"startLine": line or 1}
    (model,) = result["relatedLocations"]
    assert model["physicalLocation"]["artifactLocation"]["uri"] == "models/customers.sql"


def test_sarif_has_the_texts_that_github_requires_of_every_rule() -> None:
    """Source: GitHub's page "SARIF support for code scanning", reportingDescriptor object."""
    rules = json.loads(sarif.sarif(report()))["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(RULE_TITLES)
    assert all(rule[key]["text"] for rule in rules for key in ("shortDescription", "fullDescription", "help"))


def test_markdown_makes_no_markup_of_names() -> None:
    text = markdown.markdown(report("column [x](http://evil) <img> @everyone is missing"))
    assert text.startswith(markdown.MARKER)
    assert "\\[x\\](http" in text
    assert "<img" not in text
    assert "@everyone" not in text
    assert len(markdown.markdown(report("x" * 100_000), limit=1000)) < 1100
    assert "<" not in text  # Bitbucket shows HTML as it is written


@pytest.mark.long
@given(st.text())
def test_every_format_accepts_any_text(message: str) -> None:
    found = report(message)
    Xml.fromstring(junit.junit(found))
    assert json.loads(sarif.sarif(found))
    assert json.loads(json_module.as_json(found))["findings"][0]["message"] == message
    assert len(github.github(found).splitlines()) >= 2


def test_every_rule_has_a_title() -> None:
    assert all(title and not title.endswith(".") for title in RULE_TITLES.values())


def test_every_rule_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "check.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \| (?:breaking|warning|needs review) \|", page, re.MULTILINE) == list(
        RULE_TITLES
    )
