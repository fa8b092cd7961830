"""``make live`` runs the wire cases against an account, here a server's, and records them without secrets."""

from __future__ import annotations

import json
from pathlib import Path

from airflow_reverse_etl.sync.ports import ConnectionInfo
from tests.live import run
from tests.servers.threads import in_thread
from tests.servers.vendors.hubspot import TOKEN, HubSpot
from tests.servers.vendors.salesforce import Salesforce


def test_the_cases_of_hubspot_are_run_and_recorded(tmp_path: Path) -> None:
    with in_thread(HubSpot()) as server:
        found = run("hubspot", ConnectionInfo("hubspot", host=server.url, password=TOKEN), tmp_path)
    assert found["upsert-200"] == ""
    recorded = {path.stem: path.read_text() for path in (tmp_path / "hubspot").iterdir()}
    assert recorded.keys() == found.keys()
    assert not any(TOKEN in text for text in recorded.values())
    upsert = json.loads(recorded["upsert-200"])
    assert upsert["replies"][0]["status"] == 200
    assert upsert["outcomes"] == ["accepted"] * len(upsert["records"])


def test_the_cases_of_salesforce_are_run_and_recorded(tmp_path: Path) -> None:
    """Those of updates and deletes need records of the account, so they may differ."""
    with in_thread(Salesforce(key="Ext__c")) as server:
        found = run("salesforce", server.connection("salesforce"), tmp_path)
    assert found["upsert-200"] == found["insert-200"] == ""
    recorded = {path.stem: path.read_text() for path in (tmp_path / "salesforce").iterdir()}
    assert recorded.keys() == found.keys()
    assert not any("s3cret" in text for text in recorded.values())
