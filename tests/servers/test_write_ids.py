"""Ids of records, from the answers of vendors' servers to a table next to the model, on Postgres and DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.record_ids import KeptRecordIds
from tests.servers.clock import QuietClock
from tests.servers.faults import LOST_ANSWER, in_order
from tests.servers.loads import Loads
from tests.servers.server import Server
from tests.servers.vendors.hubspot import TOKEN, HubSpot
from tests.servers.vendors.salesforce import Salesforce
from tests.stores.warehouses import PLACES, Place

PROPERTY = {"description": "", "groupName": "contactinformation", "label": "", "fieldType": "text", "options": []}
CONTACTS = [{**PROPERTY, "name": name, "type": "string"} for name in ("email", "plan")]
FIELD = {"createable": True, "updateable": True, "nillable": True, "defaultedOnCreate": False, "type": "string"}
FIELDS = [{**FIELD, "name": "Key__c", "externalId": True, "unique": True}, {**FIELD, "name": "Name"}]
PEOPLE = [(str(number), f"Person{number}@Example.com", "gold") for number in range(1, 6)]
HUBSPOT = {"type": "hubspot", "object": "contacts", "match_on": "email"}
TABLE = "main.contact_ids"


@pytest.fixture(params=["duckdb", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    found = PLACES[request.param](request)
    found.run("CREATE SCHEMA IF NOT EXISTS main")
    return found


@pytest.fixture
def ids(place: Place, tmp_path: Path) -> KeptRecordIds:
    return KeptRecordIds(StateFiles(str(tmp_path)), "rows", place.connect, dialect=place.dialect, table=TABLE)


def kept(tmp_path: Path) -> list[str]:
    """Return the files of ids that are not in the table yet."""
    return StateFiles(str(tmp_path)).list("record_ids/rows")


def table(place: Place) -> dict[str, str]:
    return dict(place.run(f"SELECT key, record_id FROM {TABLE} ORDER BY key"))


def contacts(server: Server, ids: KeptRecordIds, **others: Any) -> Loads:
    mapping = {"email": "email", "plan": "plan"}
    return Loads(
        server,
        {**HUBSPOT, **others.pop("destination", {})},
        columns=("number", "email", "plan"),
        others={"mapping": mapping, "write_ids": TABLE, "rate": {"batch_size": 2}, **others},
        password=TOKEN,
        record_ids=ids,
    )


def hubspot(**more: Any) -> HubSpot:
    return HubSpot(clock=QuietClock(), properties={"contacts": CONTACTS}, **more)


@pytest.mark.long
async def test_the_ids_of_upserted_records_are_merged_and_those_of_deleted_ones_removed(
    ids: KeptRecordIds, place: Place, tmp_path: Path
) -> None:
    """A refused row has none; a lost answer is asked for again; a row that did not change keeps its id."""

    def invalid(properties: Any) -> str | None:
        return "Email address is invalid" if properties["email"].startswith("Person3@") else None

    async with hubspot(invalid=invalid, fault=in_order([LOST_ANSWER])) as server:
        loads = contacts(server, ids, mode="mirror", guards={"min_rows": 0, "max_removed": "100%"})
        report = await loads.run(PEOPLE)
        assert (report.accepted, report.rejected, report.ids_problem) == (4, 1, "")
        expected = {number: server.id_of(email.lower()) for number, email, _ in PEOPLE if number != "3"}
        assert table(place) == expected
        await loads.run([("1", PEOPLE[0][1], "silver"), PEOPLE[1]])
        assert table(place) == {"1": expected["1"], "2": expected["2"]}
    assert kept(tmp_path) == []
    [(times,)] = place.run(f"SELECT count(DISTINCT written_at) FROM {TABLE}")
    assert times == 2


async def test_created_and_updated_records_have_ids_too(ids: KeptRecordIds, place: Place) -> None:
    async with hubspot() as server:
        await contacts(server, ids, mode="insert").run(PEOPLE[:2])
        created = table(place)
        assert created == {number: server.id_of(email.lower()) for number, email, _ in PEOPLE[:2]}
        place.run(f"DELETE FROM {TABLE}")
        await contacts(server, ids, mode="update").run(PEOPLE[:3])
        assert table(place) == created, "an update asks for the ids, and skips the third"


async def test_salesforce_gives_ids_in_the_order_of_the_records(ids: KeptRecordIds, place: Place) -> None:
    async with Salesforce(clock=QuietClock(), fields=FIELDS) as server:
        loads = Loads(
            server,
            {"type": "salesforce", "object": "Account", "match_on": "Key__c"},
            columns=("number", "name"),
            others={"mapping": {"Key__c": "number", "Name": "name"}, "write_ids": TABLE},
            record_ids=ids,
        )
        report = await loads.run([("1", "Acme"), ("2", "Bolt"), ("3", "Coil")])
        assert report.accepted == 3
        assert table(place) == {key: server.id_of(key) for key in ("1", "2", "3")}


async def test_a_failure_is_a_warning_and_the_next_run_repeats_it(
    ids: KeptRecordIds, place: Place, tmp_path: Path
) -> None:
    place.run(f"CREATE VIEW {TABLE} AS SELECT 1 AS other")
    async with hubspot() as server:
        loads = contacts(server, ids)
        report = await loads.run(PEOPLE)
        assert report.accepted == 5
        assert report.attention == ("ids_not_written",)
        assert TABLE in report.ids_problem
        assert "Person" not in report.ids_problem
        assert kept(tmp_path)
        place.run(f"DROP VIEW {TABLE}")
        report = await loads.run(PEOPLE)
        assert (report.planned.total, report.ids_problem) == (0, "")
        assert len(table(place)) == 5
        assert kept(tmp_path) == []


async def test_a_destination_without_ids_is_said_before_anything_is_sent(ids: KeptRecordIds) -> None:
    async with hubspot() as server:
        destination = {"type": "http", "operations": {"upsert": {"path": "/x"}}, "object": None}
        with pytest.raises(SpecError, match="write_ids: the answers of this destination have no ids"):
            await contacts(server, ids, destination=destination).run(PEOPLE)
