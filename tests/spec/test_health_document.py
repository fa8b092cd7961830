"""The health document of a sync."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_reverse_etl.spec.alerts.health import Health, health_after, health_document
from airflow_reverse_etl.spec.report import Planned, RunReport

NOW = datetime(2026, 11, 27, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def report(rejected: int = 0, **more: Any) -> RunReport:
    reasons = [{"code": "bad", "count": rejected, "message": "no"}] if rejected else []
    planned = Planned(removed=0, changed=0, added=3, invalid=0)
    return RunReport("r", planned, 3 - rejected, rejected, 0, 0, 0, 1, 1.0, reasons=tuple(reasons), **more)


def document(before: dict[str, Any], found: RunReport, *, run_id: str, now: datetime) -> dict[str, Any]:
    return health_document(before, found, health_after(found, None), error="", run_id=run_id, now=now)


def test_a_change_of_health_has_a_time_and_a_code_keeps_when_it_was_first_seen() -> None:
    first = document({}, report(1), run_id="1", now=NOW)
    assert (first["state"], first["since"], first["open"]) == ("attention", NOW.isoformat(), 1)
    second = document(first, report(2), run_id="2", now=LATER)
    assert (second["since"], second["at"], second["open"]) == (NOW.isoformat(), LATER.isoformat(), 2)
    assert second["by_code"] == {"bad": {"count": 2, "message": "no", "first_seen": NOW.isoformat()}}
    third = document(second, report(), run_id="3", now=LATER)
    assert (third["state"], third["since"], third["by_code"]) == ("ok", LATER.isoformat(), {})


def test_a_try_that_sent_nothing_says_nothing_about_rows() -> None:
    first = document({}, report(1), run_id="1", now=NOW)
    failed = health_document(
        first, None, Health("failing", ("it failed",)), error="the model is missing", run_id="2", now=LATER
    )
    assert (failed["state"], failed["error"], failed["open"]) == ("failing", "the model is missing", 1)
    assert failed["by_code"] == first["by_code"]
