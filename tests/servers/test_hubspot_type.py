"""Destination type ``hubspot`` against a server with HubSpot's semantics, with the real engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest

from airflow_reverse_etl.errors import AttentionError, ConfigurationError, SpecError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.testing import DestinationConformance
from tests.servers.clock import QuietClock
from tests.servers.credentials import OAuth2
from tests.servers.faults import LOST_ANSWER, Fault, in_order, no_fault
from tests.servers.loads import Loads
from tests.servers.messages import Reply, Request
from tests.servers.remote import ServerRemote
from tests.servers.vendors.hubspot import TOKEN, UNLABELED, HubSpot

PEOPLE = [(str(number), f"Person{number}@Example.com", "gold") for number in range(1, 6)]
PROPERTY = {"description": "", "groupName": "contactinformation", "label": "", "fieldType": "text", "options": []}


def choice(name: str, *values: str, field: str = "select") -> dict[str, Any]:
    options = [{"hidden": False, "label": value.title(), "value": value} for value in values]
    return {**PROPERTY, "name": name, "type": "enumeration", "fieldType": field, "options": options}


CONTACTS = [
    {**PROPERTY, "name": "email", "type": "string", "hasUniqueValue": False},
    {**PROPERTY, "name": "crm_key", "type": "string", "hasUniqueValue": True},
    {**PROPERTY, "name": "score", "type": "number"},
    {**PROPERTY, "name": "created", "type": "datetime", "calculated": True},
    choice("plan", "gold", "silver"),
    choice("interests", "bikes", "boats", field="checkbox"),
    choice("hubspot_owner_id"),
]


def people(server: HubSpot, *, mapping: dict[str, Any] | None = None, **others: Any) -> Loads:
    options = {"type": "hubspot", "object": "contacts", "match_on": "email", **others.pop("destination", {})}
    return Loads(
        server,
        options,
        columns=others.pop("columns", ("number", "email", "plan")),
        others={"mapping": mapping or {"email": "email", "plan": "plan"}, "rate": {"concurrency": 2}, **others},
        password=TOKEN,
    )


def server(**more: Any) -> HubSpot:
    return HubSpot(clock=QuietClock(), **{"properties": {"contacts": CONTACTS}, **more})


async def test_contacts_arrive_whatever_the_server_does_on_the_way() -> None:
    """More requests than ten seconds allow, an answer that is lost, a row that is not valid."""

    def invalid(properties: Any) -> str | None:
        return "Email address is invalid" if properties["email"].startswith("Person3@") else None

    faults = in_order([*[None] * 5, LOST_ANSWER])
    async with server(per_ten_seconds=2, invalid=invalid, fault=faults) as hubspot:
        loads = people(hubspot, rate={"batch_size": 2, "concurrency": 2})
        report = await loads.run(PEOPLE)
        assert (report.accepted, report.rejected) == (4, 1)
        assert report.reasons[0]["code"] == "VALIDATION_ERROR"
        assert sorted(hubspot.records.held) == [email.lower() for number, email, _ in PEOPLE if number != "3"]
    assert [reply.status for reply in hubspot.replies].count(429) >= 1


async def test_a_mirror_archives_contacts_by_the_ids_that_it_looked_up() -> None:
    async with server() as hubspot:
        loads = people(hubspot, mode="mirror", guards={"min_rows": 0, "max_removed": "100%"})
        await loads.run(PEOPLE)
        hubspot.records.write(Operation.DELETE, "person5@example.com")
        report = await loads.run(PEOPLE[:3])
        assert (report.accepted, report.rejected) == (2, 0), "one of them is already gone"
        assert sorted(hubspot.records.held) == [email.lower() for _, email, _ in PEOPLE[:3]]


async def test_an_update_skips_contacts_that_hubspot_does_not_have() -> None:
    async with server() as hubspot:
        await people(hubspot).run(PEOPLE[:2])
        updated = [(number, email, "silver") for number, email, _ in PEOPLE[:3]]
        report = await people(hubspot, mode="update", name="other").run(updated)
        assert (report.accepted, report.skipped) == (2, 1)
        assert {record["plan"] for record in hubspot.records.held.values()} == {"silver"}


async def test_a_contact_that_exists_is_rejected_by_an_insert_and_the_others_are_created_once() -> None:
    async with server() as hubspot:
        await people(hubspot).run(PEOPLE[:1])
        report = await people(hubspot, mode="insert", name="other").run(PEOPLE)
        assert (report.accepted, report.rejected) == (4, 1)
        assert not hubspot.records.twice(Operation.INSERT)


def refused(status: int, category: str, **headers: str) -> Fault:
    """Answer with an error of the contract, and carry nothing out."""
    body = json.dumps({"status": "error", "category": category, "message": "not now"}).encode()
    return Fault.instead(Reply(status, body, {"Content-Type": "application/json", **headers}))


async def test_a_conflict_of_one_contact_is_rejected_though_the_whole_batch_was_refused() -> None:
    """An upsert answers 409 for all of its contacts, and does not say which of them it means."""

    def conflict(number: int, request: Request) -> Fault | None:
        return refused(409, "CONFLICT") if b"Person3@" in request.body and b"upsert" in request.path.encode() else None

    async with server(fault=conflict) as hubspot:
        report = await people(hubspot).run(PEOPLE)
        assert (report.accepted, report.rejected) == (4, 1)
        assert report.reasons[0]["code"] == "conflict"
        assert not hubspot.records.twice(Operation.UPSERT)


async def test_a_locked_account_is_left_alone_for_two_seconds_at_least() -> None:
    moments: list[float] = []

    def locked(number: int, request: Request) -> Fault | None:
        if "upsert" not in request.path:
            return None
        moments.append(hubspot.clock.monotonic())
        return refused(423, "LOCKED") if len(moments) < 8 else None

    async with server(fault=locked) as hubspot:
        report = await people(hubspot).run(PEOPLE)
        assert (report.accepted, report.rejected) == (5, 0)
        assert min(later - earlier for earlier, later in pairwise(moments)) >= 2


async def test_nothing_is_sent_while_hubspot_moves_the_account() -> None:
    """It says for how long: up to a day."""
    moments: list[float] = []

    def moved(number: int, request: Request) -> Fault | None:
        if "upsert" not in request.path:
            return None
        moments.append(hubspot.clock.monotonic())
        return refused(477, "MIGRATION_IN_PROGRESS", **{"Retry-After": "86400"}) if len(moments) == 1 else None

    async with server(fault=moved) as hubspot:
        report = await people(hubspot).run(PEOPLE)
        assert (report.accepted, report.rejected) == (5, 0)
        assert moments[1] - moments[0] >= 86_400


async def test_values_become_what_hubspot_takes() -> None:
    mapping = {"email": "email", "plan": "plan", "interests": {"value": ["bikes", "boats"]}, "score": {"sql": "1.50"}}
    async with server() as hubspot:
        await people(hubspot, mapping=mapping).run([("1", "a@x.org", "Gold")])
        assert hubspot.records.held["a@x.org"] == {
            "email": "a@x.org",
            "plan": "gold",
            "interests": "bikes;boats",
            "score": "1.50",
        }
        await people(hubspot, mapping=mapping).run([("1", "a@x.org", None)])
        assert hubspot.records.held["a@x.org"]["plan"] == "", "an empty text clears a property"


async def test_what_hubspot_cannot_do_is_said_before_anything_is_sent() -> None:
    async with server() as hubspot:
        destination = {"match_on": ["email", "plan"], "associations": {"companies": {}}}
        with pytest.raises(SpecError, match="identifies records by one property") as caught:
            await people(hubspot, destination=destination, mode="insert").run(PEOPLE)
        assert "associations: need a mode that upserts or updates" in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"email": "email", "plam": "plan"}, "mapping.plam: field not found at the destination; did you mean 'plan'?"),
        ({"email": "email", "created": "plan"}, "mapping.created: the field is read-only at the destination"),
        ({"email": "email", "plan": {"value": "bronze"}}, "mapping.plan: not one of the field's choices"),
    ],
)
async def test_a_mapping_is_checked_before_a_row_is_read(mapping: dict[str, Any], problem: str) -> None:
    async with server() as hubspot:
        with pytest.raises(SpecError, match=problem.replace("?", r"\?")):
            await people(hubspot, mapping=mapping).run(PEOPLE)
        assert not hubspot.records.held


async def test_a_property_that_is_not_unique_cannot_identify_records() -> None:
    async with server() as hubspot:
        with pytest.raises(SpecError, match=r"destination.match_on: field 'plan' is not unique .* crm_key, email"):
            await people(hubspot, destination={"match_on": "plan"}).run(PEOPLE)


async def test_the_token_of_another_account_stops_the_sync() -> None:
    async with server() as hubspot:
        loads = people(hubspot)
        await loads.run(PEOPLE[:1])
        hubspot.portal = 7
        with pytest.raises(AttentionError, match=r"account 7, before .* account 62515"):
            await loads.run(PEOPLE)


async def test_a_new_record_needs_the_properties_that_the_schema_requires() -> None:
    async with server(required={"contacts": ["email", "crm_key"]}) as hubspot:
        with pytest.raises(SpecError, match="crm_key") as caught:
            await people(hubspot).run(PEOPLE)
        assert len(caught.value.problems) == 1
        assert not hubspot.records.held


async def test_an_app_renews_its_token_with_the_refresh_token() -> None:
    """It runs out in the middle of a load, and is revoked between two runs."""
    tokens = OAuth2(path="/oauth/v1/token", lifetime=3.0, refresh_token="of-the-account")
    async with server(tokens=tokens) as hubspot:
        form = {"auth": "oauth2", "token_url": f"{hubspot.url}/oauth/v1/token", "refresh_token": "of-the-account"}
        loads = people(hubspot, rate={"batch_size": 1})
        loads.login, loads.password, loads.extra = "client", "s3cret", form
        rows = [(str(number), f"p{number}@x.org", "gold") for number in range(60)]
        assert (await loads.run(rows)).accepted == 60
        assert len(tokens.issued) > 1
        tokens.issued.clear()
        assert (await loads.run([*rows, ("99", "new@x.org", "gold")])).accepted == 1


# -- associations ------------------------------------------------------------------------------------------------------

COMPANIES = {"email": "email", "associations.companies": "plan"}
BY_KEY = {"associations": {"companies": {"match_on": "account_key"}}}


async def of_companies(hubspot: HubSpot, *keys: str) -> dict[str, str]:
    """Create companies; return their record ids."""
    for key in keys:
        hubspot.records.write(Operation.UPSERT, f"companies:{key}", {"account_key": key})
    return {key: hubspot.id_of(f"companies:{key}") for key in keys}


def links(hubspot: HubSpot) -> set[tuple[str, str]]:
    return {(start, end) for start, end, _ in hubspot.associations}


async def test_contacts_are_associated_with_the_companies_that_their_rows_name() -> None:
    async with server() as hubspot:
        ids = await of_companies(hubspot, "a", "b")
        loads = people(hubspot, mapping=COMPANIES, destination=BY_KEY)
        rows = [("1", "One@x.org", "a"), ("2", "two@x.org", "B"), ("3", "3@x.org", "nobody"), ("4", "4@x.org", None)]
        report = await loads.run(rows)
        assert (report.accepted, report.rejected) == (3, 1)
        assert report.reasons[0]["code"] == "association_not_found"
        one = hubspot.id_of("one@x.org")
        assert hubspot.associations == {(one, ids["a"], UNLABELED), (hubspot.id_of("two@x.org"), ids["b"], UNLABELED)}
        assert hubspot.records.held["one@x.org"] == {"email": "One@x.org"}, "an association is not a property"

        await loads.run([("1", "One@x.org", "b"), *rows[1:]])
        assert {end for start, end in links(hubspot) if start == one} == set(ids.values()), "others stay"


async def test_associations_that_a_row_does_not_name_are_removed_if_the_sync_says_so() -> None:
    replacing = {"associations": {"companies": {"match_on": "account_key", "replace": True, "type": 5}}}
    async with server() as hubspot:
        ids = await of_companies(hubspot, "a", "b")
        loads = people(hubspot, mapping=COMPANIES, destination=replacing)
        await loads.run([("1", "one@x.org", "a"), ("2", "two@x.org", "b")])
        one = hubspot.id_of("one@x.org")
        two = hubspot.id_of("two@x.org")
        hubspot.associations.add((one, ids["a"], UNLABELED))
        await loads.run([("1", "one@x.org", "b"), ("2", "two@x.org", None)])
        assert hubspot.associations == {(one, ids["b"], 5), (one, ids["a"], UNLABELED)}
        assert two not in {start for start, _ in links(hubspot)}


async def test_a_lost_answer_to_an_association_sends_the_row_again() -> None:
    async with server(fault=in_order([*[None] * 7, LOST_ANSWER])) as hubspot:
        ids = await of_companies(hubspot, "a")
        report = await people(hubspot, mapping=COMPANIES, destination=BY_KEY).run([("1", "one@x.org", "a")])
        assert report.accepted == 1
        assert links(hubspot) == {(hubspot.id_of("one@x.org"), ids["a"])}


async def test_a_look_up_of_companies_that_cannot_be_read_stops_the_load_and_rejects_no_row() -> None:
    def rule(number: int, request: Request) -> Fault | None:
        return Fault.instead(Reply.of({})) if request.segments[-3:] == ["companies", "batch", "read"] else None

    async with server(fault=rule) as hubspot:
        await of_companies(hubspot, "a")
        loads = people(hubspot, mapping=COMPANIES, destination=BY_KEY)
        with pytest.raises(ConfigurationError, match="the reply to the look-up has no records"):
            await loads.run([("1", "one@x.org", "a")])
        hubspot.fault = no_fault
        report = await loads.run([("1", "one@x.org", "a")])
        assert (report.accepted, report.rejected) == (1, 0)


# -- conformance -------------------------------------------------------------------------------------------------------


class Remote(ServerRemote):
    """An account. Null is an empty text there."""

    async def stored(self) -> Mapping[str, str | None]:
        return {key: name or None for key, name in (await super().stored()).items()}

    def bad(self) -> dict[str, Any]:
        return {"email": "bad-contact", "name": "Lovelace"}


class TestConformance(DestinationConformance):
    operations = frozenset(Operation)
    identifier = "email"
    strict = True

    @pytest.fixture
    async def remote(self) -> Any:
        def invalid(properties: Any) -> str | None:
            return f"{properties['name']} is not valid" if properties["email"] == "bad-contact" else None

        async with HubSpot(invalid=invalid) as hubspot:
            destination = {"type": "hubspot", "object": "contacts", "match_on": "email"}
            yield Remote(hubspot, destination, password=TOKEN)
