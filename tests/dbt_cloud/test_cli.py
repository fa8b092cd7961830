"""Commands for webhooks read the connection from the environment, and take no token as an argument."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_reverse_etl.cli.main import main
from tests.dbt_cloud.server import DbtCloudServer

Call = Callable[..., Any]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command with these words, and return what it printed."""

    def run(*words: str) -> Any:
        assert main(["dbt-cloud", "webhook", *words, "--connection", "dbt_cloud"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_a_webhook_from_birth_to_death(cloud: DbtCloudServer, connect: Any, call: Call) -> None:
    created = call("create", "7", "http://127.0.0.1:9/hook")
    assert created["hmac_secret"]
    assert created["job_ids"] == ["7"]
    assert [hook["id"] for hook in call("list")] == [created["id"]]
    assert call("test", created["id"])["verification_status_code"] == 0  # nobody listens there
    assert call("delete", created["id"]) == {"deleted": created["id"]}
    assert call("list") == []


@pytest.mark.parametrize("value", [None, "dbtc_secret", '["dbtc_secret"]'])
def test_a_missing_or_broken_connection_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str | None
) -> None:
    if value:
        monkeypatch.setenv("AIRFLOW_CONN_DBT_CLOUD", value)
    assert main(["dbt-cloud", "webhook", "list", "--connection", "dbt_cloud"]) == 2
    said = capsys.readouterr().err
    assert "AIRFLOW_CONN_DBT_CLOUD" in said
    assert "dbtc_secret" not in said
