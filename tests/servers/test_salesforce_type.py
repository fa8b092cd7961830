"""Destination type ``salesforce`` against a server with Salesforce's semantics, with the real engine."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reverse_etl.destinations.salesforce_connection import http_connection
from airflow_reverse_etl.errors import AttentionError, CredentialsError, SpecError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.testing import DestinationConformance
from tests.servers.clock import QuietClock
from tests.servers.faults import LOST_ANSWER, in_order
from tests.servers.loads import Loads
from tests.servers.messages import Reply
from tests.servers.remote import ServerRemote
from tests.servers.vendors.salesforce import Salesforce, failed

FIELD = {"createable": True, "updateable": True, "nillable": True, "defaultedOnCreate": False, "type": "string"}
FIELDS: list[dict[str, Any]] = [
    {**FIELD, "name": "Id", "type": "id", "createable": False, "updateable": False, "idLookup": True},
    {**FIELD, "name": "Key__c", "externalId": True, "unique": True},
    {**FIELD, "name": "Name", "nillable": False},
    {**FIELD, "name": "Revenue", "type": "currency"},
    {**FIELD, "name": "CreatedDate", "type": "datetime", "createable": False, "updateable": False},
    {**FIELD, "name": "ParentId", "type": "reference", "relationshipName": "Parent", "referenceTo": ["Account"]},
]
ACCOUNTS = [(f"A-{number}", f"Account {number}") for number in range(1, 6)]
MAPPING = {"Key__c": "key", "Name": "name"}


def accounts(server: Salesforce, *, mapping: dict[str, Any] | None = None, **others: Any) -> Loads:
    options = {"type": "salesforce", "object": "Account", "match_on": "Key__c", **others.pop("destination", {})}
    columns = others.pop("columns", ("key", "name"))
    return Loads(server, options, columns=columns, others={"mapping": mapping or MAPPING, **others})


def server(**more: Any) -> Salesforce:
    return Salesforce(clock=QuietClock(), **{"fields": FIELDS, **more})


async def test_accounts_arrive_whatever_the_server_does_on_the_way() -> None:
    """A lost answer, a locked row, a row that a trigger refuses, and a token that runs out."""
    locked = {"a-2": 2}

    def invalid(record: Any) -> dict[str, Any] | None:
        key = record["Key__c"].lower()
        if locked.get(key, 0) > 0:
            locked[key] -= 1
            return failed("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
        if key == "a-3":
            return failed("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Revenue must be positive", "Revenue")
        return None

    faults = in_order([None, None, None, LOST_ANSWER])
    async with server(invalid=invalid, fault=faults, lifetime=120) as salesforce:
        report = await accounts(salesforce, rate={"batch_size": 2}).run(ACCOUNTS)
        assert (report.accepted, report.rejected) == (4, 1)
        assert report.reasons[0]["code"] == "FIELD_CUSTOM_VALIDATION_EXCEPTION"
        assert sorted(salesforce.records.held) == ["a-1", "a-2", "a-4", "a-5"]


async def test_a_mirror_deletes_by_the_ids_that_it_queried() -> None:
    quoted = [("it's \\ 'x'", "Quoted"), *ACCOUNTS]
    async with server() as salesforce:
        loads = accounts(salesforce, mode="mirror", guards={"min_rows": 0, "max_removed": "100%"})
        await loads.run(quoted)
        salesforce.records.write(Operation.DELETE, "a-5")
        report = await loads.run(ACCOUNTS[:3])
        assert (report.accepted, report.rejected) == (3, 0), "one of them is already gone"
        assert sorted(salesforce.records.held) == ["a-1", "a-2", "a-3"]


async def test_an_update_skips_what_salesforce_does_not_have() -> None:
    async with server() as salesforce:
        await accounts(salesforce).run(ACCOUNTS[:2])
        report = await accounts(salesforce, mode="update", name="other").run([("A-1", "New"), ("A-9", "None")])
        assert (report.accepted, report.skipped) == (1, 1)
        assert salesforce.records.held["a-1"]["Name"] == "New"


async def test_records_are_updated_by_their_ids_without_a_query() -> None:
    async with server() as salesforce:
        await accounts(salesforce).run(ACCOUNTS[:1])
        by_id = accounts(
            salesforce,
            mode="update",
            name="other",
            mapping={"Id": "key", "Name": "name"},
            destination={"match_on": "Id"},
        )
        report = await by_id.run([(salesforce.id_of("a-1"), "By id"), ("001999999999999", "gone")])
        assert (report.accepted, report.skipped) == (1, 1)
        assert salesforce.records.held["a-1"]["Name"] == "By id"


async def test_a_parent_is_named_by_its_external_id_and_by_null() -> None:
    mapping = {**MAPPING, "Parent.Key__c": {"sql": "nullif(name, 'none')"}}
    async with server() as salesforce:
        await accounts(salesforce, mapping=mapping).run([("A-1", "A-2"), ("A-3", "none")])
        held = salesforce.records.held
        assert held["a-1"] == {"Key__c": "A-1", "Name": "A-2", "Parent": {"Key__c": "A-2"}}
        assert held["a-3"] == {"Key__c": "A-3", "Name": "none", "ParentId": None}


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({**MAPPING, "Nmae": "name"}, r"mapping.Nmae: field not found at the destination; did you mean 'Name'\?"),
        ({**MAPPING, "CreatedDate": "name"}, "mapping.CreatedDate: the field is read-only"),
        ({"Key__c": "key"}, "mapping: field 'Name' is missing, which the destination requires of a new record"),
    ],
)
async def test_a_mapping_is_checked_before_a_row_is_read(mapping: dict[str, Any], problem: str) -> None:
    async with server() as salesforce:
        with pytest.raises(SpecError, match=problem):
            await accounts(salesforce, mapping=mapping).run(ACCOUNTS)
        assert not salesforce.records.held


async def test_the_credentials_of_another_organization_stop_the_sync() -> None:
    async with server() as salesforce:
        loads = accounts(salesforce)
        await loads.run(ACCOUNTS[:1])
        salesforce.organization = "00D000000000002"
        with pytest.raises(AttentionError, match="account 00D000000000002"):
            await loads.run(ACCOUNTS)


# -- connections -------------------------------------------------------------------------------------------------------


def connection(**extra: str) -> ConnectionInfo:
    return ConnectionInfo("sf", "salesforce", login="user@acme.com", password="pw", extra=extra)


def test_client_credentials_use_the_domain_of_the_organization() -> None:
    found = http_connection(connection(consumer_key="key", consumer_secret="secret", domain="acme.my"))
    assert (found.host, found.login, found.password) == ("https://acme.my.salesforce.com", "key", "secret")
    assert found.extra == {
        "token_url": "https://acme.my.salesforce.com/services/oauth2/token",
        "token_base_url": "instance_url",
    }
    with pytest.raises(CredentialsError, match="client credentials need the domain of the organization"):
        http_connection(connection(consumer_key="key", consumer_secret="secret"))


def test_a_signed_assertion_names_the_user() -> None:
    found = http_connection(connection(consumer_key="key", extra__salesforce__private_key="pem", domain="test"))
    assert found.login == "key"
    assert (found.extra["subject"], found.extra["audience"]) == ("user@acme.com", "https://test.salesforce.com")


def test_a_login_by_soap_says_what_to_enter_instead() -> None:
    with pytest.raises(CredentialsError, match="which is SOAP") as caught:
        http_connection(connection(security_token="t0ken"))
    assert "consumer_key, consumer_secret and domain" in str(caught.value)
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize(
    ("destination", "mode", "problem"),
    [
        ({"match_on": ["Key__c", "Name"]}, "upsert", "identifies records by one field"),
        ({"match_on": "Id"}, "upsert", "an upsert needs an external id"),
    ],
)
async def test_what_salesforce_cannot_do_is_said_at_once(destination: dict[str, Any], mode: str, problem: str) -> None:
    async with server() as salesforce:
        mapping = {"Id": "key", **MAPPING}
        with pytest.raises(SpecError, match=problem):
            await accounts(salesforce, mapping=mapping, destination=destination, mode=mode).run(ACCOUNTS)


# -- conformance -------------------------------------------------------------------------------------------------------


class Remote(ServerRemote):
    """An organization. A lost session is asked for again, so refused credentials are those of the token."""

    refused = Reply.of([{"errorCode": "INVALID_SESSION_ID", "message": "Session expired or invalid"}], 401)

    def bad(self) -> dict[str, Any]:
        return {"Key__c": "bad-account", "Name": "Lovelace"}


class TestConformance(DestinationConformance):
    operations = frozenset(Operation)
    identifier = "Key__c"
    strict = True

    @pytest.fixture
    async def remote(self) -> Any:
        def invalid(record: Any) -> dict[str, Any] | None:
            if record.get("Key__c") != "bad-account":
                return None
            return failed("FIELD_CUSTOM_VALIDATION_EXCEPTION", f"{record['Name']} is not a name", "Name")

        async with Salesforce(invalid=invalid) as salesforce:
            destination = {"type": "salesforce", "object": "Account", "match_on": "Key__c"}
            yield Remote(salesforce, destination, name="Name")

    def record(self, key: str, name: str | None = "Ada") -> dict[str, Any]:
        return {"Key__c": key, "Name": name}
