"""Whole runs of syncs that do not track by row, and the values that tracking uses."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.errors import GuardError, IncompleteLoadError, SpecError
from airflow_reverse_etl.spec.comparison import NOTES, Bound, Comparison, State
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import Planned
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.testing import CrashError, Dials
from tests.property import examples
from tests.sync.world import World

CURSOR = {"track": {"cursor": "n"}, "mapping": {"id": "id", "n": {"sql": "n % 10"}}}


def rows(**values: tuple[int, int | None]) -> list[dict[str, Any]]:
    """``rows(a=(1, 7))`` is the row of key ``a`` with the value 1 and the cursor 71; ``a=None`` has neither."""
    return [{"id": key, "n": None if at is None else 10 * at + value} for key, (value, at) in values.items()]


async def test_a_cursor_continues_where_it_was_and_reads_failed_rows_again(world: World) -> None:
    world.values = CURSOR
    world.destination.dials.reject = {"b"}
    await world.run(rows(a=(1, 1), b=(1, 2), c=(1, 3)))
    world.sent()
    world.destination.dials.reject = ()
    report = await world.run(rows(a=(0, 1), b=(1, 2), c=(1, 3), d=(1, 4)))
    assert (report.planned, world.sent()) == (Planned(added=2), ["b", "d"])
    assert world.held == {"a": 1, "b": 1, "c": 1, "d": 1}, "a was changed without a new version"
    assert (await world.run()).planned.total == 0


async def test_guards_do_not_treat_the_part_that_is_read_as_the_model(world: World) -> None:
    world.values = {**CURSOR, "guards": {"min_rows": 4, "max_changes": "50%"}}
    await world.run(rows(a=(1, 1), b=(1, 2), c=(1, 3), d=(1, 4)))
    assert (await world.run(rows(e=(1, 5)))).accepted == 1
    with pytest.raises(GuardError):
        await world.run(rows(f=(1, 6), g=(1, 7), h=(1, 8)))


async def test_a_sync_without_a_record_sends_every_row_again(world: World) -> None:
    world.values = {"track": "none"}
    for _ in range(2):
        await world.run([{"id": "a", "n": 1}, {"id": "b", "n": 1}])
        assert world.sent() == ["a", "b"]


async def test_a_baseline_sends_nothing_and_then_only_what_changed(world: World) -> None:
    world.values = {"initial": "baseline"}
    report = await world.run([{"id": "a", "n": 1}, {"id": "b", "n": 1}])
    assert (report.planned.total, report.requests) == (0, 0)
    await world.run([{"id": "a", "n": 2}, {"id": "b", "n": 1}])
    assert world.sent() == ["a"]


async def test_a_kept_mapping_change_sends_new_rows_only(world: World) -> None:
    await world.run([{"id": "a", "n": 1}])
    world.sent()
    mapping = {"id": "id", "n": "n", "more": {"value": 1}}
    report = await world.run([{"id": "a", "n": 1}, {"id": "b", "n": 1}], mapping=mapping, on_mapping_change="keep")
    assert (report.planned, world.sent()) == (Planned(added=1), ["b"])


versions = st.one_of(st.none(), st.integers(0, 5))
changes = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 3), versions), max_size=6)
numbers = st.sets(st.integers(1, 6), max_size=2)


@pytest.mark.long
@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(changes, st.sets(st.sampled_from("abcdef"), max_size=2), numbers, numbers, numbers),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_fails_a_cursor_loses_no_change(steps: list[Any]) -> None:
    """Every change gives the row a version above all others, or takes it away; rejections, lost answers, crashes."""
    world = World(values={**CURSOR, "retry": {"max_attempts": 1000, "max_age": "500w"}})
    model: dict[str, tuple[int, int | None]] = {}
    clock = 10

    async def attempt() -> None:
        with contextlib.suppress(CrashError, IncompleteLoadError):
            await world.run(rows(**model))

    async def scenario() -> None:
        nonlocal clock
        for changed, reject, lose_request, lose_answer, crash in steps:
            for key, (n, version) in changed.items():
                clock += 1
                model[key] = n, clock if version is not None or key not in model else None
            world.destination.batches.clear()
            world.destination.dials = Dials(
                reject=reject, lose_request=lose_request, lose_answer=lose_answer, crash=crash
            )
            await attempt()
        world.destination.dials = Dials()
        await world.run(rows(**model))

    asyncio.run(scenario())
    assert world.held == {key: None if at is None else n for key, (n, at) in model.items()}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"mode": "mirror", "track": {"cursor": "v"}}, "cannot see removed rows"),
        ({"mode": "mirror", "track": "none"}, "removed rows cannot be found"),
        ({"mode": "append", "track": {"cursor": "v"}}, "no use for a cursor"),
        ({"track": "none", "initial": "baseline"}, "keeps no record"),
        ({"mode": "append", "on_mapping_change": "keep"}, "keeps none"),
        ({"track": "row"}, "'rows' or 'none'"),
        ({"track": {"column": "v"}}, "track.column: unknown key; known: cursor, fields"),
        ({"track": {}}, "must be rows, none, "),
        ({"track": 1}, "must be rows, none, "),
        ({"mode": "mirror", "track": {"cursor": "v", "fields": True}}, "cannot see removed rows"),
        ({"mode": "append", "track": {"fields": True}}, "keeps no record"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, Any], problem: str) -> None:
    given = {"name": "s", "model": "m", "source": "w", "destination": {"type": "file"}, "mapping": {"a": "a"}, **values}
    with pytest.raises(SpecError, match=problem):
        Sync.load(given)
    with pytest.raises(SpecError, match=problem):
        Sync(**given)


BOUNDS = [
    Bound("number", Decimal("12.50")),
    Bound("date", date(2026, 2, 3)),
    Bound("timestamp", datetime(2026, 2, 3, 4, 5, 6, 700_000)),  # noqa: DTZ001 - that is its kind
    Bound("instant", datetime(2026, 2, 3, 4, 5, 6)),  # noqa: DTZ001 - in UTC
]


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
@pytest.mark.parametrize("dialect", [*PLANNERS, "mysql", "sqlite"])
def test_a_bound_is_sql_everywhere_and_never_above_what_it_stands_for(bound: Bound, dialect: str) -> None:
    assert Bound.from_text(str(bound)) == bound
    text = bound.literal(dialect)
    assert sqlglot.parse_one(f"SELECT a >= {text}", read=dialect)
    assert "07" not in text
    assert ".7" not in text, "some databases round fractions of a second up"


def test_states_and_comparisons_survive_json() -> None:
    state = State(3, "m", "k", "s", "number 7", stale=True)
    assert State.from_json({**state.to_json(), "from a later version": 1}) == state
    plan = Comparison(low="number 7", notes=tuple(NOTES)).seen("number", "9", None)
    assert Comparison.from_json(plan.to_json()) == plan
    assert plan.state_after(state, rows=4).low == "number 9"
    assert plan.state_after(state, rows=4, open_rows="8").low == "number 8"
    assert Bound.latest("date", datetime(2026, 1, 1, tzinfo=UTC)) == Bound("date", date(2026, 1, 1))
