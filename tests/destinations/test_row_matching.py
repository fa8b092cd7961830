"""Which rows of a batch an entry of a reply names."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reverse_etl.destinations.row_matching import RowMatcher, position_in
from tests.destinations.json_api import batch

PROFILES = ("data", "attributes", "profiles", "data")


@pytest.mark.parametrize(
    ("value", "records", "position"),
    [
        (7, (), 7),
        ("7", (), 7),
        ("records[3].email", (), 3),
        ("/records/3", (), 3),
        ("[3].lines[2].sku", (), 3),
        ("/3/lines/2", (), 3),
        ("/data/attributes/profiles/data/7/attributes/phone_number", PROFILES, 7),
        ("/data/0/attributes/profiles/data/7/attributes/locations/2", ("profiles", "data"), 7),
        ("contacts[3].email", ("contacts",), 3),
        ("body.contacts[3].addresses[1]", ("contacts",), 3),
        ("jobs[5].contacts[3].email", ("import", "contacts"), 3),
        ("audience_members.audience_members[7].user_data.user_identifiers[0]", ("audienceMembers",), 7),
        ("The value 'contacts[3].email' is longer than 50 characters", ("contacts",), 3),
        ("value [9] is not allowed at contacts[3].email", ("contacts",), 3),
    ],
)
def test_a_position_is_found_in_a_number_a_path_a_pointer_or_a_message(
    value: Any, records: tuple[str, ...], position: int
) -> None:
    assert position_in(value, records) == position


@pytest.mark.parametrize(
    "value",
    [None, True, "", "email", "records", "records[3].lines[2]", "/batches/0/records/3", "50 contacts at most"],
)
def test_a_value_with_no_position_or_with_several_names_no_row(value: Any) -> None:
    assert position_in(value) is None


def test_a_position_outside_the_batch_names_no_row() -> None:
    matcher = RowMatcher(batch({"id": 1}, {"id": 2}), index=())
    assert [matcher.positions(0, entry) for entry in (1, 2, -1, [0, 5, 1])] == [[1], [], [], [0, 1]]


def test_an_address_in_other_letters_names_its_row_if_it_can_be_no_other() -> None:
    rows = batch({"email": "Ada@Example.com "}, {"email": "alan@example.com"}, {"email": "ALAN@example.com"})
    matcher = RowMatcher(rows, key=((), ("email",)))
    assert matcher.positions(0, "ada@example.com") == [0]
    assert matcher.positions(0, "alan@example.com") == [1], "the exact value comes first"
    assert matcher.positions(0, "Alan@Example.com") == [], "it may be either of two rows"


def test_a_row_without_the_field_has_no_key() -> None:
    matcher = RowMatcher(batch({"id": None}, {}), key=((), ("id",)))
    assert matcher.positions(0, "None") == []
