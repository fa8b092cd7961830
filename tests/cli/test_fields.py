"""``reverse-etl fields TYPE CONNECTION OBJECT`` prints a sync to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_reverse_etl.spec.model import Sync
from tests.cli.process import Calls
from tests.servers.threads import in_thread
from tests.servers.vendors.hubspot import TOKEN, HubSpot
from tests.servers.vendors.salesforce import Salesforce

pytestmark = pytest.mark.airflow

PROPERTY = {"description": "", "groupName": "a", "label": "", "type": "string", "fieldType": "text", "options": []}
PROPERTIES: list[dict[str, Any]] = [
    {**PROPERTY, "name": "hs_object_id", "calculated": True},
    {**PROPERTY, "name": "phone"},
    {**PROPERTY, "name": "email"},
    {**PROPERTY, "name": "lastname"},
    {
        **PROPERTY,
        "name": "plan",
        "type": "enumeration",
        "fieldType": "select",
        "options": [{"hidden": False, "label": "x", "value": value} for value in ("gold", "on\nline")],
    },
]


def calls(folder: Path, **fields: Any) -> Calls:
    return Calls(folder, AIRFLOW_CONN_CRM=json.dumps(fields))


def test_a_sync_to_hubspot_has_the_required_and_unique_properties_first(tmp_path: Path) -> None:
    with in_thread(HubSpot(properties={"contacts": PROPERTIES}, required={"contacts": ["lastname"]})) as server:
        program = calls(tmp_path, conn_type="reverse_etl_hubspot", host=server.url, password=TOKEN)
        found = program.run("fields", "hubspot", "crm", "contacts")
    assert found.returncode == 0, found.stderr
    assert (
        found.stdout
        == """\
name: contacts_to_hubspot
model: contacts
source: warehouse
primary_key: id
mode: upsert
mapping:
  lastname: lastname  # required; text
  email: email  # unique; text
  # phone: phone  # text
  # plan: plan  # choice; one of gold, on line
destination:
  type: hubspot
  connection: crm
  object: contacts
  match_on: email
"""
    )
    assert Sync.load(yaml.safe_load(found.stdout)).destination.match_on == ("email",)


def test_a_sync_to_salesforce_does_so_too(tmp_path: Path) -> None:
    field = {"createable": True, "updateable": True, "nillable": True, "defaultedOnCreate": False, "type": "string"}
    fields = [
        {**field, "name": "Phone"},
        {**field, "name": "Name", "nillable": False},
        {**field, "name": "Key__c", "externalId": True},
    ]
    with in_thread(Salesforce(fields=fields)) as server:
        connection = server.connection()
        program = calls(tmp_path, conn_type="salesforce", extra=dict(connection.extra))
        found = program.json("fields", "salesforce", "crm", "Account")
    sync = Sync.load(yaml.safe_load(found["sync"]))
    assert list(sync.mapping.items()) == [("Name", "name"), ("Key__c", "key_c")]
    assert (sync.mode, sync.destination.match_on) == ("upsert", ("Key__c",))


@pytest.mark.parametrize(
    ("answered", "problem"),
    [
        ((401, "INVALID_SESSION_ID", "Session expired or invalid"), "credentials"),
        ((403, "API_DISABLED_FOR_ORG", "API is not enabled for this Organization"), "API is not enabled"),
    ],
)
def test_salesforce_says_what_is_wrong_with_the_connection(
    tmp_path: Path, answered: tuple[int, str, str], problem: str
) -> None:
    from tests.servers.messages import Reply

    status, code, message = answered

    class Refusing(Salesforce):
        def answer(self, request: Any) -> Reply:
            return Reply.of([{"errorCode": code, "message": message}], status)

    with in_thread(Refusing()) as server:
        program = calls(tmp_path, conn_type="salesforce", extra=dict(server.connection().extra))
        found = program.json("fields", "salesforce", "crm", "Account", code=2)
    assert problem in json.dumps(found)
    assert "s3cret" not in json.dumps(found)
