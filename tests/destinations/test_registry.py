"""Destination types by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from airflow_reverse_etl.destinations import registry
from airflow_reverse_etl.destinations.http import HttpDestination, HttpOptions
from airflow_reverse_etl.destinations.info import Info
from airflow_reverse_etl.destinations.registry import check_options, create, destination_class, known_types, registered
from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.ports import Capabilities, ConnectionInfo, Support
from tests.bulk_api import Bulk


class AcmeOptions(HttpOptions):
    object: str
    colour: str = "red"


class Acme(HttpDestination):
    """A destination of a third party."""

    info = Info(type="acme", title="Acme", example="", connection="Any connection.")
    Options = AcmeOptions
    capabilities = Capabilities(
        dict.fromkeys((Operation.UPSERT, Operation.DELETE), Support(idempotent=True, answers="row", max_rows=100))
    )


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = EntryPoints(
        [
            EntryPoint("acme", f"{__name__}:Acme", registry.ENTRY_POINT_GROUP),
            EntryPoint("broken", "no_such_module:Acme", registry.ENTRY_POINT_GROUP),
        ]
    )
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: points.select(**wanted))
    return


def sync(mode: str = "upsert", **destination: Any) -> Sync:
    options = {"type": "acme", "connection": "acme", "object": "people", **destination}
    return Sync.load(
        {"name": "s", "model": "m", "source": "w", "mode": mode, "mapping": {"id": "id"}, "destination": options}
    )


CONNECTION = ConnectionInfo("acme", host="api.acme.example")


def test_types_of_third_parties_are_found_in_addition_to_the_built_in_ones() -> None:
    assert known_types() == ["acme", "broken", "file", "http", "hubspot", "salesforce", "table"]
    assert destination_class("acme") is Acme
    assert isinstance(create(sync(), connection=CONNECTION), Acme)


def test_a_class_that_a_test_registers_is_known_in_the_block_only() -> None:
    class Other(Acme):
        """A destination that no package provides."""

    with registered("other", Acme), registered("acme", Other):
        with registered("other", Other):
            assert destination_class("other") is Other
        assert (destination_class("other"), destination_class("acme")) == (Acme, Other)
        assert "other" in known_types()
        assert isinstance(create(sync(), connection=CONNECTION), Other)
    assert known_types() == ["acme", "broken", "file", "http", "hubspot", "salesforce", "table"]
    assert destination_class("acme") is Acme


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'table'"):
        destination_class("tabel")
    assert check_options({"type": "tabel"}) == [
        (("type",), "destination type 'tabel' not found; did you mean 'table'?")
    ]


def test_the_error_for_a_type_that_cannot_be_imported_names_the_package() -> None:
    with pytest.raises(ConfigurationError, match="no_such_module") as caught:
        destination_class("broken")
    assert caught.value.where["entry_point"] == "no_such_module:Acme"


def test_all_problems_of_the_options_are_reported_with_their_place() -> None:
    found = check_options({"type": "acme", "color": "blue", "timeout": 0})
    assert set(found) == {
        (("connection",), "is required"),
        (("object",), "is required"),
        (("timeout",), "Input should be greater than 0"),
        (("color",), "unknown key; did you mean 'colour'?"),
    }


def test_a_problem_that_the_sync_reports_itself_is_not_reported_twice() -> None:
    with pytest.raises(SpecError) as caught:
        Sync.load(
            {
                "name": "s",
                "model": "m",
                "source": "w",
                "mapping": {"id": "id"},
                "destination": {"type": "acme", "connection": "c", "object": "", "match_on": 5},
            },
            check=check_options,
        )
    assert len([problem for problem in caught.value.problems if "match_on" in problem]) == 1


@pytest.mark.parametrize(
    ("mode", "options", "problems"),
    [
        ("mirror", {}, ["match_on: is required to delete"]),
        ("mirror", {"match_on": "id"}, []),
        ("insert", {}, ["insert needs insert; this destination can only delete, upsert"]),
        ("append", {"colour": 1}, ["destination.colour: Input should be a valid string"]),
    ],
)
def test_what_a_destination_cannot_do_is_reported_before_a_row_is_read(
    mode: str, options: dict[str, Any], problems: list[str]
) -> None:
    if not problems:
        create(sync(mode, **options), connection=CONNECTION)
        return
    with pytest.raises(SpecError) as caught:
        create(sync(mode, **options), connection=CONNECTION)
    assert len(caught.value.problems) == len(problems)
    assert all(problem in str(caught.value) for problem in problems)


@pytest.mark.parametrize(("match_on", "refused"), [("", True), ("id", False)])
def test_an_insert_in_jobs_without_match_on_is_refused_before_a_row_is_read(match_on: str, refused: bool) -> None:
    """A type that sends small plans row by row is refused when the number of rows is known: before it sends any."""
    options = {"match_on": match_on} if match_on else {}
    with registered("bulk", Bulk):
        inserting = sync("insert", type="bulk", connection="bulk", object="on_close", **options)
        with pytest.raises(SpecError, match="match_on: is required to insert in jobs") if refused else nullcontext():
            create(inserting, connection=CONNECTION)
