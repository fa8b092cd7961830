"""Guards that stop a plan, and policies that turn a task red."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_reverse_etl.errors import ConfigurationError, FailurePolicyError, GuardError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.sync.guards import check_failure_policy, check_guards, lifted_by_conf, lifted_guards, verdicts
from airflow_reverse_etl.sync.ports import Plan


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


def report(**counts: Any) -> RunReport:
    values = {"accepted": 0, "rejected": 0, "retryable": 0, "unknown": 0, "skipped": 0, "requests": 1, "seconds": 1.0}
    return RunReport("r", **{"planned": Planned(added=100), **values, **counts})


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
        ({"max_changes": "10%"}, Planned(added=100), 100, 0),  # a first run, whose snapshot is empty
        ({"min_rows": 0}, Planned(), 0, 0),
    ],
)
def test_a_plan_within_its_guards_passes(guards: dict[str, Any], planned: Planned, rows: int, snapshot: int) -> None:
    check_guards(sync(guards=guards), plan(planned, rows=rows, snapshot=snapshot))


def test_every_guard_that_is_not_met_is_named() -> None:
    with pytest.raises(GuardError) as error:
        check_guards(sync(guards={"max_removed": 1, "max_changes": 1}), plan(Planned(removed=2), rows=0))
    assert all(name in str(error.value) for name in ("min_rows", "max_removed", "max_changes"))


def test_the_verdict_of_a_met_guard_has_the_figures() -> None:
    found = verdicts(
        sync(guards={"min_rows": 10, "max_removed": "5%", "max_changes": 9}),
        plan(Planned(removed=2), rows=20, snapshot=0),
    )
    assert [(verdict.met, verdict.text) for verdict in found] == [
        (True, "min_rows: the model has 20 rows, at least 10"),
        (True, "max_removed: 5% does not apply to a first run"),
        (True, "max_changes: 2 rows, at most 9"),
    ]


@pytest.mark.parametrize(
    ("removed", "snapshot", "stops"),
    [(99, 100, True), (21, 100, True), (20, 100, False), (11, 11, True), (10, 10, False), (10, 12, False)],
)
def test_a_mirror_stops_where_more_than_a_fifth_and_more_than_ten_rows_are_removed(
    removed: int, snapshot: int, stops: bool
) -> None:
    found = plan(Planned(removed=removed), rows=1, snapshot=snapshot)
    if stops:
        with pytest.raises(GuardError, match="the larger of 20% of"):
            check_guards(sync(mode="mirror"), found)
    else:
        check_guards(sync(mode="mirror"), found)


def test_the_default_of_a_mirror_gives_way_to_the_syncs_own_limit() -> None:
    most = plan(Planned(removed=99))
    few = plan(Planned(removed=3))
    check_guards(sync(mode="mirror", guards={"max_removed": "100%"}), most)
    check_guards(sync(mode="mirror", guards={"max_removed": 99}), most)
    with pytest.raises(GuardError, match="max_removed: 3 rows, more than 2"):
        check_guards(sync(mode="mirror", guards={"max_removed": 2}), few)


@pytest.mark.parametrize("mode", ["upsert", "insert", "update", "append", "delete"])
def test_only_a_mirror_has_the_default(mode: str) -> None:
    assert [verdict.name for verdict in verdicts(sync(mode=mode), plan(Planned(removed=99)))] == ["min_rows"]


def test_the_default_of_a_mirror_does_not_apply_to_an_empty_snapshot() -> None:
    [_, verdict] = verdicts(sync(mode="mirror"), plan(Planned(added=99), snapshot=0))
    assert (verdict.met, verdict.text) == (True, "max_removed: 20% does not apply to a first run")


def test_a_lifted_guard_stops_nothing_and_the_others_still_do() -> None:
    spec = sync(mode="mirror", guards={"max_changes": 5})
    found = plan(Planned(removed=99))
    check_guards(spec, found, {"max_removed", "max_changes"})
    with pytest.raises(GuardError) as error:
        check_guards(spec, found, {"max_removed"})
    assert "max_changes" in error.value.what
    assert "max_removed" not in error.value.what


def test_the_error_has_the_configuration_that_lifts_the_guard() -> None:
    with pytest.raises(GuardError) as error:
        check_guards(sync(name="contacts", mode="mirror"), plan(Planned(removed=99)))
    assert '{"reverse_etl": {"contacts": {"lift_guards": ["max_removed"]}}}' in error.value.todo
    assert 'lift_guards=["max_removed"]' in error.value.todo
    assert "max_removed: 100%" in error.value.todo


@pytest.mark.parametrize(
    ("value", "lifted"),
    [
        (True, {"min_rows", "max_removed", "max_changes"}),
        (["max_removed"], {"max_removed"}),
        (("min_rows", "max_removed"), {"min_rows", "max_removed"}),
        ([], set()),
        (False, set()),
        (None, set()),
    ],
)
def test_true_or_names_lift_guards(value: object, lifted: set[str]) -> None:
    assert lifted_guards(value, where="here", sync="s") == lifted
    assert lifted_by_conf({"reverse_etl": {"s": {"lift_guards": value}}}, "s") == lifted


@pytest.mark.parametrize("conf", [None, {}, {"x": 1}, {"reverse_etl": {"t": {"lift_guards": True}}}])
def test_a_conf_that_is_not_for_this_sync_lifts_nothing(conf: object) -> None:
    assert lifted_by_conf(conf, "s") == set()


@pytest.mark.parametrize(
    ("conf", "problem"),
    [
        ([], "dag_run.conf is not a mapping"),
        ({"reverse_etl": True}, 'dag_run.conf["reverse_etl"] is not a mapping'),
        ({"reverse_etl": {"s": ["max_removed"]}}, 'dag_run.conf["reverse_etl"]["s"] is not a mapping'),
        ({"reverse_etl": {"s": {"lift_guard": True}}}, "unknown key 'lift_guard'; did you mean 'lift_guards'?"),
        ({"reverse_etl": {"s": {"lift_guards": "yes"}}}, "neither true nor a list of guard names"),
        ({"reverse_etl": {"s": {"lift_guards": [1]}}}, "neither true nor a list of guard names"),
        ({"reverse_etl": {"s": {"lift_guards": ["max_rows"]}}}, "unknown guards: 'max_rows'"),
    ],
)
def test_a_conf_of_another_shape_lifts_nothing_and_stops_the_task(conf: object, problem: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        lifted_by_conf(conf, "s")
    assert problem in error.value.what


@pytest.mark.parametrize("value", [["max_rows"], "max_removed", 1])
def test_an_unknown_guard_is_answered_with_the_names_of_all(value: object) -> None:
    with pytest.raises(ConfigurationError) as error:
        lifted_guards(value, where="lift_guards", sync="s")
    assert "min_rows, max_removed, max_changes" in error.value.todo


def test_any_rejected_or_invalid_row_fails_the_task_unless_the_sync_allows_it() -> None:
    for bad in (report(rejected=1), report(planned=Planned(added=9, invalid=1))):
        with pytest.raises(FailurePolicyError) as error:
            check_failure_policy(sync(), bad)
        assert error.value.report is bad
    check_failure_policy(sync(failure={"max_rejected": "1%"}), report(rejected=1))
    check_failure_policy(sync(failure={"max_rejected": 1}), report(rejected=1))
    check_failure_policy(sync(), report(accepted=100))


def test_given_up_rows_have_a_limit_of_their_own() -> None:
    """The limit is a share of the model's rows, by default 1 %."""
    check_failure_policy(sync(), report(skipped=2, given_up=2, model_rows=200))
    with pytest.raises(FailurePolicyError, match="3 rows given up of 200 in the model, more than 1% of 200"):
        check_failure_policy(sync(), report(skipped=3, given_up=3, model_rows=200))
    check_failure_policy(sync(failure={"max_given_up": 3}), report(given_up=3, model_rows=200))
    with pytest.raises(FailurePolicyError, match="more than 0"):
        check_failure_policy(sync(failure={"max_given_up": 0}), report(given_up=1, model_rows=200))


def test_lost_answers_fail_the_task_where_the_sync_says_so() -> None:
    with pytest.raises(FailurePolicyError, match="answer to 3 rows was lost"):
        check_failure_policy(sync(failure={"on_unknown": "fail"}), report(unknown=3))
    check_failure_policy(sync(failure={"on_unknown": "resend"}), report(unknown=3))


def test_the_error_says_why_rows_were_rejected() -> None:
    reasons = [{"code": "INVALID_EMAIL", "count": 4, "message": "not an address"}]
    with pytest.raises(FailurePolicyError, match=r"INVALID_EMAIL \(4 rows\): not an address"):
        check_failure_policy(sync(), report(rejected=4, reasons=reasons))
