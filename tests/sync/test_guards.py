"""What stops a plan, and what turns a task red."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_reverse_etl.errors import FailurePolicyError, GuardError
from airflow_reverse_etl.sync.guards import check_failure_policy, check_guards, guards_said
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.receipts import Planned, Report
from airflow_reverse_etl.sync.spec import Sync


def sync(**values: Any) -> Sync:
    return Sync.load(
        {
            "name": "s",
            "model": "m",
            "source": "w",
            "destination": {"type": "http"},
            "mapping": {"a": "a"},
            **values,
        }
    )


def plan(planned: Planned, *, rows: int = 100, snapshot: int = 100) -> Plan:
    return Plan("p", "r", "s", planned, planned.total, rows, snapshot, 0, datetime(2026, 1, 1, tzinfo=UTC))


def report(**counts: Any) -> Report:
    values = {"accepted": 0, "rejected": 0, "retryable": 0, "unknown": 0, "skipped": 0, "requests": 1, "seconds": 1.0}
    return Report("r", **{"planned": Planned(added=100), **values, **counts})


@pytest.mark.parametrize(
    ("guards", "planned", "rows", "snapshot"),
    [
        ({}, Planned(), 0, 100),
        ({"min_rows": 10}, Planned(), 9, 100),
        ({"max_removed": "5%"}, Planned(removed=6), 100, 100),
        ({"max_removed": 0}, Planned(removed=1), 100, 100),
        ({"max_changes": 10}, Planned(added=5, changed=6), 100, 0),
        ({"max_changes": "10%"}, Planned(changed=11), 100, 100),
    ],
)
def test_a_plan_beyond_a_guard_is_refused(guards: dict[str, Any], planned: Planned, rows: int, snapshot: int) -> None:
    with pytest.raises(GuardError, match=r"nothing was sent: (min_rows|max_removed|max_changes)"):
        check_guards(sync(guards=guards), plan(planned, rows=rows, snapshot=snapshot))


@pytest.mark.parametrize(
    ("guards", "planned", "rows", "snapshot"),
    [
        ({"max_removed": "5%"}, Planned(removed=5), 100, 100),
        ({"max_changes": 11}, Planned(added=5, changed=6), 100, 100),
        ({"max_changes": "10%"}, Planned(added=100), 100, 0),  # a first run: there is nothing to take a share of
        ({"min_rows": 0}, Planned(), 0, 0),
    ],
)
def test_a_plan_within_its_guards_passes(guards: dict[str, Any], planned: Planned, rows: int, snapshot: int) -> None:
    check_guards(sync(guards=guards), plan(planned, rows=rows, snapshot=snapshot))


def test_every_guard_that_is_not_met_is_named() -> None:
    with pytest.raises(GuardError) as error:
        check_guards(sync(guards={"max_removed": 1, "max_changes": 1}), plan(Planned(removed=2), rows=0))
    assert all(name in str(error.value) for name in ("min_rows", "max_removed", "max_changes"))


def test_a_guard_that_is_met_says_how_far() -> None:
    found = guards_said(
        sync(guards={"min_rows": 10, "max_removed": "5%", "max_changes": 9}),
        plan(Planned(removed=2), rows=20, snapshot=0),
    )
    assert found == [
        (True, "min_rows: the model has 20 rows, at least 10"),
        (True, "max_removed: 5% says nothing of a first run"),
        (True, "max_changes: 2 rows, at most 9"),
    ]


def test_any_rejected_or_invalid_row_fails_the_task_unless_the_sync_allows_it() -> None:
    for bad in (report(rejected=1), report(planned=Planned(added=9, invalid=1))):
        with pytest.raises(FailurePolicyError) as error:
            check_failure_policy(sync(), bad)
        assert error.value.report is bad
    check_failure_policy(sync(failure={"max_rejected": "1%"}), report(rejected=1))
    check_failure_policy(sync(failure={"max_rejected": 1}), report(rejected=1))
    check_failure_policy(sync(), report(accepted=100))


def test_lost_answers_fail_the_task_where_the_sync_says_so() -> None:
    with pytest.raises(FailurePolicyError, match="answer to 3 rows was lost"):
        check_failure_policy(sync(failure={"on_unknown": "fail"}), report(unknown=3))
    check_failure_policy(sync(failure={"on_unknown": "resend"}), report(unknown=3))


def test_the_error_says_why_rows_were_rejected() -> None:
    reasons = [{"code": "INVALID_EMAIL", "count": 4, "message": "not an address"}]
    with pytest.raises(FailurePolicyError, match=r"INVALID_EMAIL \(4 rows\): not an address"):
        check_failure_policy(sync(), report(rejected=4, reasons=reasons))
