"""Rows and records whose identifier, a field in match_on, is null or blank, in every state store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import Planned
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from tests.stores.bench import REJECTED, THREE, Bench, keyed, sync_of
from tests.stores.warehouses import Place

MODES = ("upsert", "insert", "update", "mirror", "append", "delete")
BLANKS = (None, "", "  ", "\t", "\r\n", "\u00a0", " \t\u00a0\r\n ")


@pytest.mark.parametrize("mode", MODES)
def test_a_row_without_an_identifier_is_invalid_in_every_mode(bench: Callable[..., Bench], mode: str) -> None:
    b = bench(sync_of(mode))
    b.model([(9, " good ", 1), *((at, blank, 1) for at, blank in enumerate(BLANKS))])
    plan = b.plan()
    assert (plan.planned, plan.causes) == (Planned(added=1, invalid=7), {"no_identifier": 7})
    assert b.keys(plan) == {"9": "added"}
    assert b.store.invalid_keys(plan, count=2) == {"no_identifier": ["0", "1"]}  # type: ignore[attr-defined]
    b.commit(plan)
    assert b.plan().causes == {"no_identifier": 7}


@pytest.mark.parametrize("more", [{"track": "none"}, {"initial": "baseline"}])
def test_nor_is_it_recorded(bench: Callable[..., Bench], more: dict[str, Any]) -> None:
    b = bench(sync_of(**more))
    b.model([(1, "a", 1), (2, "", 1)])
    plan = b.plan()
    assert plan.causes == {"no_identifier": 1}
    assert plan.planned.added + plan.recorded == 1


def test_without_match_on_nothing_is_blank(bench: Callable[..., Bench]) -> None:
    b = bench(keyed("append", match_on=()), primary_key=())
    b.model([(None, "", None)])
    assert b.plan().planned == Planned(added=1)


def test_any_part_of_several_identifiers_counts_and_constants_are_none(bench: Callable[..., Bench]) -> None:
    mapping = {"p.email": "email", "p.score": {"sql": "score"}, "origin": {"value": "dbt"}}
    destination = {"type": "file", "match_on": ["p.email", "p.score", "origin"]}
    b = bench(Sync(name="s", model="m", source="w", mode="mirror", mapping=mapping, destination=destination))
    b.model([(1, "a", 1), (2, "b", None), (3, "", 3), (4, "d", 4)])
    assert b.run() == {"1": "added", "4": "added"}
    b.model([(4, "d", 4)])
    [gone] = b.rows(b.plan())
    assert gone["identifiers"] == {"p": {"email": "a", "score": 1}, "origin": "dbt"}


def test_every_cause_is_counted_and_a_row_once(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of())
    b.model([(None, "", 1), (None, "x", 1), (5, "", 1), (5, "y", 1), (6, "", 1), (7, "z", 1)])
    plan = b.plan()
    assert plan.causes == {"null_key": 2, "duplicate_key": 2, "no_identifier": 1}
    assert plan.planned == Planned(added=1, invalid=5)
    assert b.store.invalid_keys(plan, count=5) == {"duplicate_key": ["5"], "no_identifier": ["6"]}  # type: ignore[attr-defined]
    assert [unfinished.causes for unfinished in b.store.unfinished("s")] == [plan.causes]


def test_an_unchanged_row_is_counted_too_and_repeated_keys_are_still_found(bench: Callable[..., Bench]) -> None:
    """The counts that reveal repeated keys are right if a row is a candidate for its identifier alone."""
    b = bench(keyed(match_on=()))
    b.model([(1, "", 1), (2, "b", 2), (3, "c", 3)])
    b.run()
    b.sync = keyed()
    plan = b.plan()
    assert (plan.planned, plan.causes) == (Planned(added=2, invalid=1), {"no_identifier": 1})
    b.commit(plan)
    b.model([(1, "", 1), (2, "b", 2), (2, "b", 2), (3, "c", 3)])
    assert b.plan().causes == {"duplicate_key": 2, "no_identifier": 1}


def test_a_record_whose_row_lost_its_identifier_stays_until_the_row_leaves(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of("mirror"))
    b.model(THREE)
    b.run()
    b.model([(1, None, 9), *THREE[1:]])
    plan = b.plan()
    assert (plan.planned, plan.snapshot_rows) == (Planned(invalid=1), 3)
    b.commit(plan)
    b.model(THREE)
    assert b.run() == {}, "nothing was sent, and nothing was forgotten"
    b.model([(1, None, 9), *THREE[1:]])
    b.run()
    b.model(THREE[1:])
    [gone] = b.rows(b.plan())
    assert (gone["change"], gone["identifiers"]) == ("removed", {"email": "a"})


@pytest.mark.parametrize("blank", ["", " \u00a0\t"])
def test_a_record_without_an_identifier_is_never_deleted(bench: Callable[..., Bench], blank: str) -> None:
    """A mirror without match_on has delivered such a record."""
    b = bench(keyed("mirror", match_on=()), primary_key=("email",))
    b.model([(1, blank, 1), (2, "b", 2)])
    assert len(b.run()) == 2
    b.sync = keyed("mirror")
    b.model([])
    assert b.run() == {}, "records are known by other fields now"
    assert b.plan().snapshot_rows == 0


@pytest.mark.parametrize("invalid", [[(1, "a", 1), (2, "a", 1)], [(1, "a", 1), (1, "b", 1)]])
def test_a_rejected_row_that_is_invalid_for_a_while_keeps_its_attempts(
    bench: Callable[..., Bench],
    invalid: list[tuple[Any, ...]],
) -> None:
    b = bench(sync_of(retry={"max_attempts": 2}))
    b.model([(1, "a", 1)])
    b.run({"1": REJECTED})
    b.model(invalid)
    assert b.run() == {}
    b.model([(1, "a", 1)])
    assert b.run({"1": REJECTED}) == {"1": "added"}
    assert b.plan().given_up == 1, "runs in which the row is invalid do not count as attempts, and do not reset them"


def test_a_rejected_removal_is_dropped_once_an_invalid_row_has_the_key(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of("mirror", retry={"max_attempts": 1}))
    b.model(THREE)
    b.run()
    b.model(THREE[1:])
    b.run({"1": REJECTED})
    assert b.plan().given_up == 1
    b.model([(1, "a", 1), (4, "a", 1), *THREE[1:]])
    b.run()
    b.model(THREE[1:])
    assert b.run() == {"1": "removed"}


def test_a_rejected_removal_stays_while_its_row_lacks_an_identifier(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of("mirror", retry={"max_attempts": 1}))
    b.model(THREE)
    b.run()
    b.model(THREE[1:])
    b.run({"1": REJECTED})
    b.model([(1, "", 1), *THREE[1:]])
    assert b.run() == {}
    b.model(THREE[1:])
    assert b.plan().given_up == 1


def test_with_a_cursor_it_holds_nothing_back(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of(mapping={"email": "email"}, track={"cursor": "at"}))
    b.timed([(1, "", "2026-01-01 01:00:00"), (2, "b", "2026-01-01 02:00:00")])
    plan = b.plan()
    assert (plan.causes, plan.total) == ({"no_identifier": 1}, 1)
    b.commit(plan)
    assert b.plan().model_rows == 1


def test_blank_means_the_same_in_every_dialect(place: Place) -> None:
    dialect = PLANNERS[place.dialect]
    characters = {" ": 32, "\t": 9, "\r": 13, "\n": 10, "\u00a0": 160}
    texts = [blank or "" for blank in BLANKS[1:]]
    constants = [" || ".join(["''", *(f"CHR({characters[one]})" for one in text)]) for text in texts]
    constants += [f"CAST(NULL AS {dialect.string})", "' a '", "CHR(160) || 'a'"]
    found = [
        place.run(f"SELECT CASE WHEN COALESCE({trimmed}, '') = '' THEN 1 ELSE 0 END AS found")[0][0]
        for trimmed in (dialect.trimmed.format(x=text) for text in constants)
    ]
    assert found == [1] * len(texts) + [1, 0, 0]
