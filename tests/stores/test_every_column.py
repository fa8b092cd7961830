"""``"*"`` in every state store: a change of the model's columns sends no row by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.comparison import State
from tests.stores.bench import AT, REJECTED, THREE, Bench, at, sync_of

EVERY = {"*": "*"}


def widen(b: Bench, *statements: str) -> None:
    """Change the columns of the model."""
    for statement in statements:
        b.database.execute(f"ALTER TABLE m {statement}")


@pytest.fixture
def run_once(bench: Callable[..., Bench]) -> Callable[..., Bench]:
    """Return a bench whose three rows were delivered with all their columns."""

    def run(mode: str = "upsert", **more: Any) -> Bench:
        b = bench(sync_of(mode, **{"mapping": EVERY, "match_on": (), **more}))
        b.model(THREE)
        assert set(b.run()) == {"1", "2", "3"}
        assert b.run() == {}
        return b

    return run


@pytest.mark.parametrize("mode", ["upsert", "insert", "update", "mirror"])
def test_a_new_column_is_recorded_and_sends_no_row(run_once: Callable[..., Bench], mode: str) -> None:
    b = run_once(mode)
    widen(b, "ADD COLUMN plan VARCHAR DEFAULT 'free'")
    plan = b.plan()
    assert (plan.total, plan.recorded, plan.notes) == (0, 3, ("columns_changed",))
    b.commit(plan)
    plan = b.plan()
    assert (plan.total, plan.recorded, plan.notes) == (0, 0, ())


def test_a_new_column_goes_with_the_next_change_of_a_row_or_with_its_own(run_once: Callable[..., Bench]) -> None:
    b = run_once()
    widen(b, "ADD COLUMN plan VARCHAR DEFAULT 'free'")
    b.database.execute("UPDATE m SET email = 'other' WHERE id = 1")
    plan = b.plan()
    assert [(row["key"], row["change"], row["f3"]) for row in b.rows(plan)] == [("1", "changed", "free")]
    b.commit(plan)
    b.database.execute("UPDATE m SET plan = 'paid' WHERE id = 2")
    assert b.run() == {"2": "changed"}


def test_rows_are_added_and_removed_while_the_columns_change(run_once: Callable[..., Bench]) -> None:
    b = run_once("mirror")
    widen(b, "ADD COLUMN plan VARCHAR DEFAULT 'free'")
    b.database.execute("DELETE FROM m WHERE id = 3")
    b.database.execute("INSERT INTO m VALUES (4, 'd', 4, 'paid')")
    assert b.run() == {"3": "removed", "4": "added"}
    assert b.run() == {}


def test_a_row_that_was_refused_is_tried_again_with_the_new_columns(run_once: Callable[..., Bench]) -> None:
    b = run_once()
    b.database.execute("UPDATE m SET email = 'bad' WHERE id = 1")
    assert b.run({"1": REJECTED}) == {"1": "changed"}
    widen(b, "ADD COLUMN plan VARCHAR DEFAULT 'free'")
    assert b.run() == {"1": "changed"}
    assert b.run() == {}


def test_a_row_that_is_refused_while_the_columns_change_is_tried_again(run_once: Callable[..., Bench]) -> None:
    b = run_once()
    widen(b, "ADD COLUMN plan VARCHAR DEFAULT 'free'")
    b.database.execute("UPDATE m SET email = 'bad' WHERE id = 1")
    assert b.run({"1": REJECTED}) == {"1": "changed"}
    assert b.run() == {"1": "changed"}


def test_without_a_column_only_the_rows_that_had_a_value_there_are_sent(run_once: Callable[..., Bench]) -> None:
    b = run_once()
    b.database.execute("UPDATE m SET score = NULL WHERE id = 2")
    assert b.run() == {"2": "changed"}
    widen(b, "DROP COLUMN score")
    assert b.run() == {"1": "changed", "3": "changed"}
    assert b.run() == {}


def test_the_order_of_the_columns_and_an_excluded_column_change_nothing(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of(mapping={"*": {"exclude": ["SCORE", "noise"]}}, match_on=()))
    b.model(THREE)
    widen(b, "ADD COLUMN noise INT")
    b.run()
    b.database.execute("CREATE OR REPLACE TABLE m AS SELECT score + 1 AS score, noise, email, id FROM m")
    plan = b.plan()
    assert (plan.total, plan.recorded, plan.notes) == (0, 0, ())


def test_another_exclusion_is_another_mapping(run_once: Callable[..., Bench]) -> None:
    b = run_once()
    b.sync = sync_of(mapping={"*": {"exclude": ["score"]}}, match_on=())
    plan = b.plan()
    assert (plan.total, plan.notes) == (3, ("mapping_resync",))


def test_with_match_on_and_fields_of_their_own(bench: Callable[..., Bench]) -> None:
    mapping = {"p.*": {"exclude": "id"}, "kind": {"value": "person"}, "name": {"template": "{{ row.email }}"}}
    b = bench(sync_of("mirror", mapping={"email": "email", **mapping}, match_on=("email",)))
    b.model(THREE)
    b.run()
    widen(b, "ADD COLUMN plan VARCHAR DEFAULT 'free'")
    b.database.execute("UPDATE m SET id = 9 WHERE id = 1")
    plan = b.plan()
    assert (plan.total, plan.recorded) == (0, 3)
    b.commit(plan)
    assert b.plan().recorded == 0


def test_with_a_cursor_the_whole_model_is_read_once(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of(mapping=EVERY, match_on=(), track=AT))
    b.timed([(1, "a", at(1)), (2, "b", at(2))])
    b.run()
    widen(b, "ADD COLUMN plan VARCHAR DEFAULT 'free'")
    plan = b.plan()
    assert (plan.total, plan.recorded, plan.model_rows) == (0, 2, 2)
    b.commit(plan)
    assert b.plan().model_rows == 1


def test_the_fields_of_a_sync_are_lower_case_where_the_warehouse_writes_upper_case() -> None:
    sync = sync_of(mapping=EVERY, match_on=())
    assert sync.with_columns(["ID", "Plan"], folds_to_upper=True).every_column == {"id": "ID", "Plan": "Plan"}


def test_an_unknown_exclusion_or_match_on_names_the_problem() -> None:
    with pytest.raises(SpecError, match="the model lacks emial"):
        sync_of(mapping={"*": {"exclude": ["emial"]}}, match_on=()).with_columns(["id", "email"])
    sync = sync_of(mapping=EVERY, match_on=()).model_copy(
        update={"destination": sync_of().destination}  # which names email
    )
    with pytest.raises(SpecError, match=r"match_on names email, which mapping does not define"):
        sync.with_columns(["id"])


def test_the_state_keeps_the_columns() -> None:
    state = State(columns=("a", "b"))
    assert State.from_json(state.to_json()) == state
    assert State.from_json({"rows": 1}).columns == ()
