"""The page at the destination that shows the records of a sync."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.ports import ConnectionInfo


def destination(kind: str, name: str, extra: dict[str, str] | None = None, **more: Any) -> Any:
    sync = Sync.load(
        {
            "name": "s",
            "model": {"table": "t"},
            "source": "w",
            "primary_key": "id",
            "mapping": {"Key__c": "id", "email": "email"},
            "destination": {"type": kind, "connection": "c", "object": name, **more},
        }
    )
    connection = ConnectionInfo("c", kind, login="me", password="token", extra=extra or {})
    return create(sync, connection=connection)


@pytest.mark.parametrize(
    ("name", "account", "url"),
    [
        ("contacts", "123", "https://app.hubspot.com/contacts/123/objects/0-1/views/all/list"),
        ("2-456", "123", "https://app.hubspot.com/contacts/123/objects/2-456/views/all/list"),
        ("contacts", "", ""),
        ("p123_car", "123", ""),
    ],
)
def test_hubspot_lists_the_records_of_an_account(name: str, account: str, url: str) -> None:
    hubspot = destination("hubspot", name, match_on="email")
    hubspot.known_account = account
    assert hubspot.records_url() == url


def test_salesforce_lists_the_records_of_an_organization() -> None:
    salesforce = destination(
        "salesforce", "Account", {"consumer_key": "k", "consumer_secret": "s", "domain": "acme.my"}, match_on="Key__c"
    )
    assert salesforce.records_url() == "https://acme.my.salesforce.com/lightning/o/Account/list"
