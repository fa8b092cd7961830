"""profiles.yml from connections: complete, and without a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.dbt.profiles import UNKNOWN_DATABASE, from_connection, placeholder_profile
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.sync.ports import ConnectionInfo

KEY = "-----BEGIN PRIVATE KEY-----\nTOPSECRET\n-----END PRIVATE KEY-----\n"
KEYFILE = json.dumps({"project_id": "x", "private_key": KEY})
BY_KEY = {"account": "a", "private_key_content": KEY}
SNOWFLAKE = {"account": "ab123", "region": "eu-west-1", "database": "DB", "warehouse": "wh", "role": "r"}


def connection(type_: str, **fields: Any) -> ConnectionInfo:
    return ConnectionInfo("warehouse", type_, **fields)


@pytest.mark.parametrize(
    ("conn", "output"),
    [
        (
            connection("postgres", host="h", port=5433, schema="db", login="u", password="TOPSECRET",
                       extra={"sslmode": "require"}),
            {"type": "postgres", "host": "h", "port": 5433, "user": "u", "dbname": "db", "schema": "public",
             "threads": 4, "sslmode": "require", "password": "{{ env_var('DBT_ENV_SECRET_PASSWORD') }}"},
        ),
        (  # libpq finds another way to sign in; dbt demands the key
            connection("postgres", host="h", schema="db", login="u"),
            {"type": "postgres", "host": "h", "port": 5432, "user": "u", "dbname": "db", "schema": "public",
             "threads": 4, "password": ""},
        ),
        (
            connection("redshift", host="h", schema="db", login="u", password="TOPSECRET"),
            {"type": "redshift", "host": "h", "port": 5439, "user": "u", "dbname": "db", "schema": "public",
             "threads": 4, "password": "{{ env_var('DBT_ENV_SECRET_PASSWORD') }}"},
        ),
        (
            connection("snowflake", schema="marts", login="u", password="TOPSECRET", extra=SNOWFLAKE),
            {"type": "snowflake", "account": "ab123.eu-west-1", "user": "u", "database": "DB", "warehouse": "wh",
             "role": "r", "schema": "marts", "threads": 4, "password": "{{ env_var('DBT_ENV_SECRET_PASSWORD') }}"},
        ),
        (
            connection("snowflake", schema="marts", login="u", password="TOPSECRET", extra=BY_KEY),
            {"type": "snowflake", "account": "a", "user": "u", "schema": "marts", "threads": 4,
             "private_key": "{{ env_var('DBT_ENV_SECRET_PRIVATE_KEY') }}",
             "private_key_passphrase": "{{ env_var('DBT_ENV_SECRET_PASSPHRASE') }}"},
        ),
        (
            connection("google_cloud_platform", extra={"project": "p", "dataset": "d", "keyfile_dict": KEYFILE}),
            {"type": "bigquery", "method": "service-account-json", "project": "p", "dataset": "d", "threads": 4,
             "keyfile_json": {"project_id": "x", "private_key": "{{ env_var('DBT_ENV_SECRET_PRIVATE_KEY') }}"}},
        ),
        (
            connection("google_cloud_platform", schema="d",
                       extra={"project": "p", "key_path": "/key.json", "location": "EU"}),
            {"type": "bigquery", "method": "service-account", "keyfile": "/key.json", "project": "p", "dataset": "d",
             "location": "EU", "threads": 4},
        ),
        (
            connection("databricks", host="https://h.example.com/", password="TOPSECRET", schema="s",
                       extra={"http_path": "/sql/1", "catalog": "main"}),
            {"type": "databricks", "host": "h.example.com", "http_path": "/sql/1", "catalog": "main", "schema": "s",
             "threads": 4, "token": "{{ env_var('DBT_ENV_SECRET_TOKEN') }}"},
        ),
        (
            connection("duckdb", host="/data/shop.duckdb"),
            {"type": "duckdb", "path": "/data/shop.duckdb", "schema": "main", "threads": 1},
        ),
        (
            connection("duckdb", host="md:shop", password="TOPSECRET"),
            {"type": "duckdb", "path": "md:shop", "schema": "main", "threads": 1,
             "settings": {"motherduck_token": "{{ env_var('DBT_ENV_SECRET_MOTHERDUCK_TOKEN') }}"}},
        ),
    ],
    ids=lambda value: value.conn_type if isinstance(value, ConnectionInfo) else "",
)  # fmt: skip
def test_profile_of_each_warehouse(conn: ConnectionInfo, output: dict[str, Any], tmp_path: Path) -> None:
    profile = from_connection(conn)
    assert profile.output == output
    written = (profile.write(tmp_path, name="shop", target="prod") / "profiles.yml").read_text()
    assert json.loads(written) == {"shop": {"target": "prod", "outputs": {"prod": output}}}
    for text in (written, repr(profile), repr(profile.without_secrets()), str(profile.without_secrets().secrets)):
        assert "TOPSECRET" not in text
    assert bool(profile.secrets) == ("DBT_ENV_SECRET" in written)
    assert all("TOPSECRET" in value for value in profile.secrets.values())


def test_schema_of_the_task_and_settings_of_the_connection_win() -> None:
    """``extra.dbt`` holds settings that only dbt has, such as threads."""
    conn = connection(
        "google_cloud_platform", schema="d", extra={"project": "p", "dbt": {"threads": 16, "priority": "batch"}}
    )
    output = from_connection(conn, schema="dev_ada").output
    assert (output["dataset"], output["threads"], output["priority"]) == ("dev_ada", 16, "batch")


@pytest.mark.parametrize(
    ("conn", "key"),
    [
        (connection("snowflake", schema="s", extra=SNOWFLAKE), "database"),
        (connection("postgres", host="h", schema="db"), "dbname"),
        (connection("google_cloud_platform", schema="d", extra={"project": "p"}), "project"),
        (connection("databricks", host="h", extra={"catalog": "main"}), "catalog"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.conn_type,
)
def test_the_tasks_database_wins_over_the_connections(conn: ConnectionInfo, key: str) -> None:
    assert from_connection(conn, database="CI").output[key] == "CI"
    with pytest.raises(ConfigurationError, match="its file"):
        from_connection(connection("duckdb", host="shop.duckdb"), database="CI")


def test_relative_duckdb_file_is_the_one_that_airflow_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_connection(connection("duckdb", host="shop.duckdb")).output["path"] == str(tmp_path / "shop.duckdb")


def test_connections_without_a_profile() -> None:
    with pytest.raises(ConfigurationError, match="snowflake"):
        from_connection(connection("mongo"))
    with pytest.raises(ConfigurationError, match="dataset"):
        from_connection(connection("google_cloud_platform", extra={"project": "p"}))


@pytest.mark.parametrize("adapter", ["duckdb", "postgres", "redshift", "snowflake", "bigquery", "databricks"])
def test_placeholder_profile_for_parsing(adapter: str) -> None:
    """The profile's database is a known placeholder."""
    text = json.dumps(dict(placeholder_profile(adapter).output))
    assert UNKNOWN_DATABASE in text
