"""A sync may run only after a dbt run that built its model, tested it, and found its sources fresh."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.dbt.gate import closed_reasons, evidence, merge_evidence, shown_results
from tests.dbt.projects import keyed, manifest, model, source

FRESH = {"freshness": {"warn_after": {"count": 1, "period": "day"}, "error_after": None}}
PROJECT = manifest(
    source("orders") | FRESH,
    source("unlimited"),
    model("stg", parents=["source.shop.raw.orders", "source.shop.raw.unlimited"]),
    model("customers", parents=["stg"]),
    model("other"),
    *keyed("customers"),
)
CUSTOMERS = "model.shop.customers"
GOOD = {
    CUSTOMERS: "success",
    "test.shop.unique_customers_id": "pass",
    "test.shop.not_null_customers_id": "warn",
    "source.shop.raw.orders": "pass",
}


def reasons(**changed: str) -> tuple[str, ...]:
    results = dict(GOOD)
    for part, status in changed.items():
        name = next(name for name in GOOD if part in name)
        results[name] = status
    return closed_reasons(evidence(PROJECT, results), CUSTOMERS)


def test_open_when_all_three_hold() -> None:
    """A source without a freshness limit does not close the gate, nor do results of other models."""
    assert reasons() == ()
    assert closed_reasons(evidence(PROJECT, {**GOOD, "model.shop.other": "error"}), CUSTOMERS) == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "error"}, "was not built: error"),
        ({"model": "skipped"}, "was not built: skipped"),
        ({"unique": "fail"}, "unique_customers_id: fail"),
        ({"not_null": "skipped"}, "not_null_customers_id: skipped"),
        ({"orders": "error"}, "raw.orders: freshness error"),
        ({"orders": "runtime error"}, "freshness runtime error"),
    ],
)
def test_closed_says_why(changed: dict[str, str], words: str) -> None:
    (reason,) = reasons(**changed)
    assert words in reason


@given(st.sets(st.sampled_from(sorted(GOOD))))
def test_missing_results_close_the_gate(missing: set[str]) -> None:
    """Each missing result is one reason."""
    known = {name: status for name, status in GOOD.items() if name not in missing}
    assert len(closed_reasons(evidence(PROJECT, known), CUSTOMERS)) == len(missing)


@given(st.permutations(sorted(GOOD)), st.integers(1, 3))
def test_several_commands_of_one_run(order: list[str], at: int) -> None:
    """The results may be spread over freshness, run and test tasks, and are stored as JSON in between."""
    parts: list[Any] = []
    for names in (order[:at], order[at:]):
        results = {name: GOOD[name] for name in names}
        parts.append(json.loads(json.dumps(evidence(PROJECT, results))))
    assert closed_reasons(merge_evidence(parts), CUSTOMERS) == ()


def test_unknown_model() -> None:
    assert "is not in that dbt run" in closed_reasons(evidence(PROJECT, GOOD), "model.shop.nope")[0]


def test_a_picture_shows_what_dbt_said_of_models_tests_and_sources() -> None:
    found = {
        "results": {"model.a": "success", "test.a": "pass", "test.b": "fail", "source.s": "warn"},
        "models": {"model.a": {"tests": ["test.a", "test.b", "test.skipped"], "sources": ["source.s"]}},
    }
    assert shown_results(found, "model.a") == {"status": "success", "passed": 1, "failed": 1}
    assert shown_results(found, "source.s") == {"status": "warn"}
    assert shown_results(found, "model.other") == {}
