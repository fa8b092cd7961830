"""The description of each destination type is true: its example, its schema, its connection form."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml

from airflow_reverse_etl.destinations.info import Account, ConnectionForm, FormField, Info
from airflow_reverse_etl.destinations.registry import BUILT_IN, check_options, create, destination_class, sync_schema
from airflow_reverse_etl.http.auth.keys import ApiKey, Auth, bearer
from airflow_reverse_etl.http.server import Server
from airflow_reverse_etl.provider import destination_connections
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.ports import ConnectionInfo

CHECKED = jsonschema.Draft202012Validator(sync_schema())


@pytest.mark.parametrize("type_", BUILT_IN)
def test_the_example_of_a_type_is_a_sync_that_it_can_run(type_: str) -> None:
    info = destination_class(type_).info
    assert info.type == type_
    values = yaml.safe_load(info.example)
    CHECKED.validate(values)
    sync = Sync.load(values, check=check_options)
    made = create(sync, connection=ConnectionInfo("c", "postgres", host="example.com"), connect=lambda: None)
    assert made.capabilities.operations


@pytest.mark.parametrize("type_", BUILT_IN)
def test_the_schema_knows_the_keys_of_each_type(type_: str) -> None:
    values = yaml.safe_load(destination_class(type_).info.example)
    values["destination"]["ojbect"] = "contacts"
    assert [error.json_path for error in CHECKED.iter_errors(values)] == ["$.destination"]


def test_the_schema_lets_types_that_are_not_installed_have_any_keys() -> None:
    values = yaml.safe_load(destination_class("http").info.example)
    CHECKED.validate({**values, "destination": {"type": "of_another_package", "anything": 1}})


def test_the_schema_names_missing_and_wrong_options() -> None:
    values = yaml.safe_load(destination_class("http").info.example)
    del values["destination"]["connection"]
    values["destination"]["rows"] = "many"
    texts = [error.message for error in CHECKED.iter_errors(values)]
    assert any("'connection' is a required property" in text for text in texts)
    assert any("'many' is not one of" in text for text in texts)


def test_the_schema_knows_the_keys_of_an_environment() -> None:
    values = yaml.safe_load(destination_class("http").info.example)
    dev = {
        "source": "warehouse_dev",
        "destination": {"connection": "sandbox"},
        "guards": {"min_rows": 0},
        "dry_run": True,
    }
    CHECKED.validate({**values, "environments": {"dev": dev, "prod": None}})
    for wrong in ({"conection": "x"}, {"name": "x"}, {"guards": {"max_remove": 1}}, {"dry_run": "maybe"}):
        assert not CHECKED.is_valid({**values, "environments": {"dev": wrong}}), wrong


ACME = Info(
    type="acme",
    title="Acme",
    example="",
    base_url="https://api.acme.example",
    auth_header="Api-Key",
    test="/me",
    account=Account("/me", "account.id"),
    connection=ConnectionForm(
        type="acme",
        name="Acme",
        hook="acme_reverse_etl.AcmeHook",
        labels={"password": "Token"},
        hidden=("port",),
        fields={"region": FormField("Region", "eu or us"), "key": FormField("Key", "Signing key", secret=True)},
    ),
)


def test_a_form_is_declared_as_airflow_wants_it() -> None:
    assert isinstance(ACME.connection, ConnectionForm)
    declared = ACME.connection.connection_type()
    assert declared["hook-class-name"] == "acme_reverse_etl.AcmeHook"
    assert declared["ui-field-behaviour"]["relabeling"] == {"password": "Token"}
    assert declared["conn-fields"]["key"]["schema"]["format"] == "password"
    assert "format" not in declared["conn-fields"]["region"]["schema"]


def test_the_forms_in_the_package_are_those_of_the_types() -> None:
    forms = [destination_class(type_).info.connection for type_ in BUILT_IN]
    expected: list[dict[str, Any]] = [form.connection_type() for form in forms if isinstance(form, ConnectionForm)]
    assert destination_connections() == expected


def test_a_connection_without_a_host_has_the_base_url_of_its_type() -> None:
    assert Server.from_connection(ConnectionInfo("acme", "acme"), base_url=ACME.base_url).url == ACME.base_url
    own = ConnectionInfo("acme", "acme", host="https://sandbox.acme.example")
    assert Server.from_connection(own, base_url=ACME.base_url).url == "https://sandbox.acme.example"


@pytest.mark.parametrize(
    ("extra", "auth"),
    [
        ({}, ApiKey("Api-Key", "s3cret")),
        ({"auth_header": "X-Own"}, ApiKey("X-Own", "s3cret")),
        ({"auth_query": "key"}, ApiKey("key", "s3cret", "query")),
        ({"auth_header": "", "headers": {"X-Region": "eu"}}, ApiKey("Api-Key", "s3cret")),
    ],
)
def test_the_key_goes_into_the_header_of_the_type_unless_the_connection_names_a_place(
    extra: dict[str, Any], auth: Auth
) -> None:
    connection = ConnectionInfo("acme", "acme", host="h", password="s3cret", extra=extra)
    assert Server.from_connection(connection, auth_header=ACME.auth_header).auth == auth
    assert connection.extra == extra


def test_the_key_of_a_type_without_a_header_of_its_own_is_a_bearer_token() -> None:
    connection = ConnectionInfo("acme", "acme", host="h", password="s3cret")
    assert Server.from_connection(connection, auth_header="").auth == bearer("s3cret")
