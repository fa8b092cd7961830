"""A run checks its mapping and its account before it reads a row."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from airflow_reverse_etl.errors import AttentionError, SpecError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.fields.inspection import mapping_problems
from airflow_reverse_etl.sync.ports import ObjectField, ObjectSchema
from airflow_reverse_etl.testing import FakeDestination
from tests.sync.world import World, rows

FIELDS = ObjectSchema(
    [
        ObjectField("email", "text", required=True, unique=True),
        ObjectField("name", "text", unique=False),
        ObjectField("plan", "choice", choices=("free", "gold")),
        ObjectField("created", "datetime", writable=False),
        ObjectField("address", "any"),
    ]
)


def problems(mapping: dict[str, Any], *, match_on: str = "email", mode: str = "upsert") -> Sequence[str]:
    sync = Sync.load(
        {
            "name": "people",
            "model": "people",
            "source": "warehouse",
            "mode": mode,
            "mapping": mapping,
            "destination": {"type": "fake", "match_on": match_on},
        }
    )
    return list(mapping_problems(sync, FIELDS))


def test_a_mapping_that_fits_has_no_problem() -> None:
    assert problems({"email": "email", "address.city": "city", "plan": {"value": "gold"}}) == []


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"email": "email", "nme": "name"}, "mapping.nme: field not found at the destination; did you mean 'name'?"),
        ({"email": "email", "created": "at"}, "mapping.created: the field is read-only at the destination"),
        (
            {"email": "email", "plan": {"value": "golden"}},
            "mapping.plan: not one of the field's choices; did you mean 'gold'?",
        ),
    ],
)
def test_a_wrong_entry_of_the_mapping_is_a_problem(mapping: dict[str, Any], problem: str) -> None:
    assert problems(mapping) == [problem]


def test_a_required_field_may_be_missing_only_where_no_record_is_made() -> None:
    expected = ["mapping: field 'email' is missing, which the destination requires of a new record"]
    assert problems({"name": "name"}, match_on="name", mode="insert") == expected
    assert problems({"address.id": "id"}, match_on="address.id", mode="update") == []


def test_records_are_matched_by_a_unique_field() -> None:
    expected = ["destination.match_on: field 'name' is not unique at the destination; known: email"]
    assert problems({"name": "name", "email": "email"}, match_on="name") == expected


def fields(*found: ObjectField) -> ObjectSchema:
    return ObjectSchema([ObjectField("id", "text", unique=True), *found])


async def test_a_wrong_mapping_stops_the_run_before_a_row_is_read() -> None:
    world = World(FakeDestination(schema=fields(ObjectField("number", "integer"))))
    world.build(rows(a=1))
    world.warehouse.read = lambda *_, **__: pytest.fail("a row is read")  # type: ignore[method-assign]
    with pytest.raises(SpecError) as caught:
        await world.run()
    assert caught.value.problems == ("mapping.n: field not found at the destination; known: id, number",)
    assert world.destination.batches == []
    assert world.destination.closed == world.destination.opened


async def test_values_are_converted_to_the_types_of_their_fields() -> None:
    world = World(FakeDestination(schema=fields(ObjectField("n", "text"))))
    await world.run(rows(a=1, b=None))
    assert world.destination.rows == {"a": {"id": "a", "n": "1"}, "b": {"id": "b", "n": None}}


async def test_a_value_that_does_not_fit_rejects_its_row_and_names_the_column() -> None:
    world = World(FakeDestination(schema=fields(ObjectField("n", "choice", choices=("1", "2")))))
    report = await world.run(rows(a=1, b=3, c=2))
    assert (report.accepted, report.rejected) == (2, 1)
    (reason,) = report.reasons
    assert (reason["code"], reason["message"]) == (
        "wrong_value",
        "column 'n', field 'n': not one of the field's 2 choices",
    )
    assert sorted(world.destination.rows) == ["a", "c"]


async def test_credentials_of_another_account_stop_the_run() -> None:
    world = World(FakeDestination(account="1001"))
    world.destination.address = "fake crm"  # type: ignore[attr-defined]
    await world.run(rows(a=1))
    await world.run(rows(a=1, b=1))
    world.destination.account_id = "2002"
    with pytest.raises(AttentionError, match="fake crm account 2002, before fake crm account 1001"):
        await world.run(rows(a=1, b=1, c=1))
    assert sorted(world.destination.rows) == ["a", "b"]


async def test_an_account_that_becomes_known_is_taken_over() -> None:
    world = World(FakeDestination())
    world.destination.address = "fake crm"  # type: ignore[attr-defined]
    await world.run(rows(a=1))
    world.destination.account_id = "1001"
    assert (await world.run(rows(a=1))).accepted == 0
    # A run that cannot tell the account keeps what is known of it.
    world.destination.account_id = ""
    await world.run(rows(a=2))
    world.destination.account_id = "2002"
    with pytest.raises(AttentionError, match="account 2002"):
        await world.run(rows(a=3))


async def test_a_run_whose_day_is_used_up_leaves_its_rows_for_another_day() -> None:
    world = World(FakeDestination(schema=fields(ObjectField("n", "text")), account="1001"))
    limit = {"batch_size": 1, "concurrency": 1}
    # A load asks for the fields first. A plan that cannot ask any more does without.
    for allowed, accepted, left in ((3, 2, 2), (1, 0, 2)):
        report = await world.run(rows(a=1, b=1, c=1, d=1), rate={**limit, "requests_per_day": allowed})
        assert (report.accepted, report.retryable, report.attention) == (accepted, left, ("daily_limit",))


def test_a_destination_without_fields_and_account_is_opened_once() -> None:
    world = World()
    asyncio.run(world.run(rows(a=1)))
    assert world.destination.opened == 1
