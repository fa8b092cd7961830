"""The health of a sync, as its alerts say it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.alerts.health import delay_health, health_after
from airflow_reverse_etl.spec.alerts.limits import Alerts
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import Planned, RunReport

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SYNC: dict[str, Any] = {
    "name": "contacts",
    "model": {"table": "t"},
    "source": "wh",
    "destination": {"type": "file"},
    "mapping": {"a": "a"},
}


def report(**more: Any) -> RunReport:
    counts = {"accepted": 90, "rejected": 0, "retryable": 0, "unknown": 0, "skipped": 0, "requests": 1}
    return RunReport("r", **{"planned": Planned(added=100), **counts, "seconds": 60.0, "model_rows": 1000, **more})


@pytest.mark.parametrize(
    "counts", [{"rejected": 1}, {"unknown": 1}, {"given_up": 1}, {"planned": Planned(added=9, invalid=2)}], ids=str
)
def test_without_alerts_every_row_that_is_not_delivered_needs_attention(counts: Any) -> None:
    assert health_after(report(), None).state == "ok"
    found = health_after(report(**counts), None)
    assert (found.state, found.severity) == ("attention", "warning")
    assert found.reasons


def test_a_model_that_changed_needs_attention() -> None:
    assert health_after(report(), None, drifted=True).reasons == ("the model changed since the last run",)


@pytest.mark.parametrize(
    ("limits", "within", "beyond"),
    [
        ({"max_rejected": 3}, {"rejected": 3}, {"rejected": 4}),
        ({"max_rejected": "5%"}, {"rejected": 5}, {"rejected": 6}),
        ({"max_rejected": 3}, {"rejected": 1}, {"rejected": 1, "planned": Planned(added=9, invalid=3)}),
        ({"max_given_up": "1%"}, {"given_up": 10}, {"given_up": 11}),
        ({"max_row_change": "30%"}, {"model_rows": 700}, {"model_rows": 699}),
        ({"max_row_change": "30%"}, {"model_rows": 1300}, {"model_rows": 1301}),
        ({"max_duration": "2m"}, {"seconds": 120.0}, {"seconds": 121.0}),
    ],
    ids=str,
)
def test_a_run_beyond_a_limit_has_the_health_of_its_level(limits: Any, within: Any, beyond: Any) -> None:
    for level, state in (("warning", "attention"), ("critical", "failing")):
        alerts = Alerts.model_validate({level: limits})
        earlier = [1000, 990, 5000]
        assert health_after(report(**within), alerts, earlier=earlier).state == "ok"
        found = health_after(report(**beyond), alerts, earlier=earlier)
        assert found.state == state
        assert next(iter(limits)) in found.reasons[0]


def test_the_first_runs_have_no_usual_number_of_rows() -> None:
    assert health_after(report(), Alerts.model_validate({"warning": {"max_row_change": 0}})).state == "ok"


def test_a_sync_is_late_after_its_longest_delay() -> None:
    alerts = Alerts.model_validate({"max_delay": "26h"})
    since = NOW - timedelta(hours=27)
    assert delay_health(alerts, NOW - timedelta(hours=26), now=NOW, unfinished=False, ran=True).state == "ok"
    late = delay_health(alerts, since, now=NOW, unfinished=False, ran=True)
    assert (late.state, late.severity) == ("late", "critical")
    assert late.reasons == ("no run was recorded since 2026-04-30 09:00Z (max_delay 26h)",)
    stuck = delay_health(alerts, since, now=NOW, unfinished=True, ran=False)
    assert stuck.reasons[0].startswith("no run was ever recorded")
    assert stuck.reasons[1] == "a run has begun, and is not finished"


@pytest.mark.parametrize(
    "alerts", [{}, {"warning": {}}, {"warning": {"max_rejected": "many"}}, {"max_delay": "soon"}], ids=str
)
def test_alerts_without_a_limit_are_refused(alerts: Any) -> None:
    with pytest.raises(SpecError, match="alerts"):
        Sync.load({**SYNC, "alerts": alerts})


def test_alerts_do_not_change_what_is_sent() -> None:
    assert Sync.load({**SYNC, "alerts": {"max_delay": "1d"}}).digest == Sync.load(SYNC).digest
