"""The report as SARIF 2.1.0 (OASIS), for code scanning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_reverse_etl.check.findings import RULE_TITLES, CheckReport, Finding, Level
from airflow_reverse_etl.check.reports.wording import place_in_repository, sentences
from airflow_reverse_etl.spec.folders.reading import Place

_LEVELS = {Level.BREAKING: "error", Level.REVIEW: "warning", Level.WARNING: "note"}
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(report: CheckReport) -> str:
    """Return the report as SARIF, including the help texts and lines that GitHub requires beyond the standard."""
    from airflow_reverse_etl import __version__

    rules = [
        {
            "id": rule,
            "shortDescription": {"text": title},
            "fullDescription": {"text": f"{title}."},
            "help": {"text": f"{title}. Each result says what to do; the reference of the check lists all rules."},
        }
        for rule, title in RULE_TITLES.items()
    ]
    results = [_result(finding) for finding in report.findings]
    driver = {"name": "reverse-etl check", "semanticVersion": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, ensure_ascii=False) + "\n"


def _result(finding: Finding) -> Mapping[str, Any]:
    main_place = place_in_repository(finding)
    others = [place for place in finding.places if place != main_place]
    return {
        "ruleId": finding.rule,
        "ruleIndex": list(RULE_TITLES).index(finding.rule),
        "level": _LEVELS[finding.level],
        "message": {"text": sentences(finding)},
        "locations": [_location(main_place)],
        "relatedLocations": [{**_location(place), "message": {"text": str(place)}} for place in others],
        "partialFingerprints": {"finding/v1": f"{finding.sync}:{finding.rule}:{finding.model}:{finding.column or ''}"},
    }


def _location(place: Place) -> Mapping[str, Any]:
    from urllib.parse import quote

    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(place.file)},
            "region": {"startLine": place.line or 1},
        }
    }
