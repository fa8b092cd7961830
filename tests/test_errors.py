"""Errors: their text, the results they carry, and the retry they allow."""

from __future__ import annotations

import inspect

from airflow_reverse_etl import errors
from airflow_reverse_etl.errors import ReverseEtlError
from airflow_reverse_etl.spec.report import Planned, RunReport

REPORT = RunReport("r", Planned(added=1), 0, 1, 0, 0, 0, 1, 0.5)


def test_every_error_says_whether_a_retry_may_help() -> None:
    """The table of groups in ``docs/reference/errors.md`` promises this."""
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ReverseEtlError)]
    assert {cls.__name__ for cls in classes if cls.retry} == {
        "ReverseEtlError",
        "TryLaterError",
        "UnreachableError",
        "IncompleteLoadError",
        "RunConflictError",
        "DbtRunError",
    }


def test_a_report_is_given_in_the_constructor_or_attached_later() -> None:
    assert errors.IncompleteLoadError("x", report=REPORT).report is REPORT
    assert errors.FailurePolicyError("x", report=REPORT, sync="s").where == {"sync": "s"}
    error = errors.UnreachableError("x")
    assert error.report is None
    assert error.with_report(REPORT) is error
    assert error.report is REPORT


def test_a_conflict_names_an_outdated_plan() -> None:
    assert not errors.RunConflictError("x").outdated
    assert errors.RunConflictError("x", outdated=True).outdated


def test_the_text_has_the_place_the_action_and_the_command_that_explains_more() -> None:
    error = errors.StateError("the state is damaged", todo="restore it", sync="s", file=None)
    assert str(error) == "the state is damaged (sync 's')\nWhat to do: restore it"
    assert error.with_hint() == f"{error}\nMore: reverse-etl errors StateError"
