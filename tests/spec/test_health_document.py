"""The health document of a sync."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_reverse_etl.spec.report import Planned, RunReport, health_document

NOW = datetime(2026, 11, 27, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def report(rejected: int = 0, **more: Any) -> RunReport:
    reasons = [{"code": "bad", "count": rejected, "message": "no"}] if rejected else []
    planned = Planned(removed=0, changed=0, added=3, invalid=0)
    return RunReport("r", planned, 3 - rejected, rejected, 0, 0, 0, 1, 1.0, reasons=tuple(reasons), **more)


def test_a_change_of_health_has_a_time_and_a_code_keeps_when_it_was_first_seen() -> None:
    first = health_document({}, report(1), error="", run_id="1", now=NOW)
    assert (first["state"], first["since"], first["open"]) == ("attention", NOW.isoformat(), 1)
    second = health_document(first, report(2), error="", run_id="2", now=LATER)
    assert (second["since"], second["at"], second["open"]) == (NOW.isoformat(), LATER.isoformat(), 2)
    assert second["by_code"] == {"bad": {"count": 2, "message": "no", "first_seen": NOW.isoformat()}}
    third = health_document(second, report(), error="", run_id="3", now=LATER)
    assert (third["state"], third["since"], third["by_code"]) == ("ok", LATER.isoformat(), {})


def test_a_try_that_sent_nothing_says_nothing_about_rows() -> None:
    first = health_document({}, report(1), error="", run_id="1", now=NOW)
    failed = health_document(first, None, error="the model is missing", run_id="2", now=LATER)
    assert (failed["state"], failed["error"], failed["open"]) == ("failing", "the model is missing", 1)
    assert failed["by_code"] == first["by_code"]


def test_given_up_rows_and_drift_need_attention() -> None:
    assert health_document({}, report(given_up=2), error="", run_id="1", now=NOW)["state"] == "attention"
    assert health_document({}, report(), error="", run_id="1", now=NOW, drift=1)["state"] == "attention"
    assert health_document({}, report(), error="", run_id="1", now=NOW)["state"] == "ok"
