"""Assets: the same thing has the same name, wherever it is mentioned."""

from __future__ import annotations

import pytest

from airflow_reverse_etl import Sync

pytestmark = pytest.mark.airflow

SYNC = {
    "name": "contacts",
    "model": "customers",
    "source": "warehouse",
    "primary_key": "id",
    "destination": {"type": "http", "connection": "crm", "object": "contacts"},
    "mapping": {"email": "email"},
}


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("customers", "dbt/wh/customers"),
        ("shop.customers", "dbt/wh/customers"),
        ("customers.v2", "dbt/wh/customers.v2"),
        ("shop.customers.v2", "dbt/wh/customers.v2"),
        ("Kundïn", "dbt/wh/Kund%C3%AFn"),
    ],
)
def test_model_assets(reference: str, name: str) -> None:
    """With or without its package, a model is one asset; its versions are several."""
    from airflow_reverse_etl.assets import model_asset

    asset = model_asset(reference, "wh")
    assert (asset.name, asset.uri) == (name, f"reverse-etl://{name}")


@pytest.mark.parametrize(("path", "name"), [(".", "project/git_dbt"), ("a/dbt", "project/git_dbt/a%2Fdbt")])
def test_catalog_assets(path: str, name: str) -> None:
    """One for each project of a repository."""
    from airflow_reverse_etl.assets import catalog_asset

    assert catalog_asset("git_dbt", path).uri == f"reverse-etl://{name}"


def test_destination_assets() -> None:
    """Type, connection and object; two syncs into one object share the asset."""
    from airflow_reverse_etl.assets import destination_asset

    asset = destination_asset(Sync.load(SYNC))
    assert asset.name == "http/crm/contacts"
    assert asset == destination_asset(Sync.load({**SYNC, "name": "other"}))


def test_inlets() -> None:
    """A dbt model and a table have names; a query has none."""
    from airflow_reverse_etl.assets import inlets, model_asset, table_asset

    assert inlets(Sync.load(SYNC)) == [model_asset("customers", "warehouse")]
    assert inlets(Sync.load({**SYNC, "model": {"table": "a.b"}})) == [table_asset("a.b", "warehouse")]
    assert inlets(Sync.load({**SYNC, "model": {"sql": "select 1"}})) == []


def test_the_asset_of_a_sync_has_its_definition_and_no_constant() -> None:
    from airflow_reverse_etl.assets import SYNC_GROUP, sync_asset

    mapping = {
        "email": "email",
        "plan": {"sql": "upper(plan)"},
        "token": {"value": "s3cret"},
        "hi": {"template": "Dear {{ row.name }}"},
        "*": "*",
    }
    asset = sync_asset(Sync.load({**SYNC, "mapping": mapping}))
    assert (asset.name, asset.uri, asset.group) == ("sync/contacts", "reverse-etl://sync/contacts", SYNC_GROUP)
    assert asset.extra == {
        "sync": "contacts",
        "model": "customers",
        "source": "warehouse",
        "destination": {"type": "http", "connection": "crm", "object": "contacts"},
        "mode": "upsert",
        "match_on": [],
        "fields": {
            "email": "email",
            "plan": "upper(plan)",
            "token": "a constant",
            "hi": "a template",
            "*": "every column",
        },
        "guards": {"min_rows": 1},
        "failure": {"max_rejected": 0, "max_given_up": "1%", "on_unknown": "resend"},
        "retry": {"max_attempts": 5, "max_age_days": 14.0},
    }
