"""Commands for webhooks read the connection from the environment, and take no token as an argument."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from airflow_reverse_etl.cli.dbt_cloud import add_commands
from airflow_reverse_etl.errors import CredentialsError
from tests.dbt_cloud.server import DbtCloudServer


def call(*words: str) -> Any:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    args = parser.parse_args(["dbt-cloud", "webhook", *words, "--connection", "dbt_cloud"])
    return json.loads(args.run(args))


def test_a_webhook_from_birth_to_death(cloud: DbtCloudServer, connect: Any) -> None:
    created = call("create", "7", "http://127.0.0.1:9/hook")
    assert created["hmac_secret"]
    assert created["job_ids"] == ["7"]
    assert [hook["id"] for hook in call("list")] == [created["id"]]
    assert call("test", created["id"])["verification_status_code"] == 0  # nobody listens there
    assert call("delete", created["id"]) == {"deleted": created["id"]}
    assert call("list") == []


@pytest.mark.parametrize("value", [None, "dbtc_secret", '["dbtc_secret"]'])
def test_a_missing_or_broken_connection_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value:
        monkeypatch.setenv("AIRFLOW_CONN_DBT_CLOUD", value)
    with pytest.raises(CredentialsError, match="AIRFLOW_CONN_DBT_CLOUD") as caught:
        call("list")
    assert "dbtc_secret" not in str(caught.value)
