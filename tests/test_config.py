"""The section ``[reverse_etl]`` of Airflow's configuration, as typed values."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_reverse_etl.config import settings
from airflow_reverse_etl.errors import ConfigurationError

pytestmark = pytest.mark.airflow


def configure(monkeypatch: pytest.MonkeyPatch, **options: str) -> None:
    for option, text in options.items():
        monkeypatch.setenv(f"AIRFLOW__REVERSE_ETL__{option.upper()}", text)
    settings.cache_clear()


def test_an_option_that_is_not_set_has_its_default() -> None:
    home = os.environ["AIRFLOW_HOME"]
    assert asdict(settings()) == {
        "state_url": f"{home}/reverse_etl",
        "state_conn_id": None,
        "checkout_folder": Path(f"{home}/reverse_etl_checkouts"),
        "dbt_cloud_webhooks": frozenset(),
        "environment": "",
        "environment_is_new": False,
        "warehouse_schema": "reverse_etl",
        "history_days": timedelta(days=365),
        "change_log": False,
        "memory_limit": "900MB",
        "duckdb_external_access": False,
        "privacy_policy": None,
        "scratch_folder": None,
    }


def test_an_empty_option_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, memory_limit="", history_days="")
    assert settings().memory_limit == "900MB"
    assert settings().history_days == timedelta(days=365)


def test_every_option_is_read_as_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "state_url": "s3://bucket/state",
        "state_conn_id": "aws",
        "checkout_folder": "checkouts",
        "dbt_cloud_webhooks": " one, two,",
        "environment": "dev",
        "environment_is_new": "yes",
        "warehouse_schema": "db.state",
        "history_days": "90",
        "change_log": "true",
        "memory_limit": "1.5 GiB",
        "duckdb_external_access": "No",
        "privacy_policy": "/opt/privacy.yaml",
        "scratch_folder": "/mnt/scratch",
    }
    configure(monkeypatch, **options)
    assert asdict(settings()) == {
        **options,
        "checkout_folder": Path.cwd() / "checkouts",
        "dbt_cloud_webhooks": frozenset({"one", "two"}),
        "history_days": timedelta(days=90),
        "environment_is_new": True,
        "change_log": True,
        "duckdb_external_access": False,
        "privacy_policy": Path("/opt/privacy.yaml"),
        "scratch_folder": Path("/mnt/scratch"),
    }


def test_the_section_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the cache is cleared."""
    configure(monkeypatch, memory_limit="3GB")
    assert settings().memory_limit == "3GB"
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__MEMORY_LIMIT", "4GB")
    assert settings().memory_limit == "3GB"
    settings.cache_clear()
    assert settings().memory_limit == "4GB"


def test_one_error_names_every_value_that_is_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, history_days="0", change_log="maybe", memory_limit="lots", warehouse_schema="fine")
    with pytest.raises(ConfigurationError) as caught:
        settings()
    problems, todo = str(caught.value).splitlines()
    assert problems.split("; ") == [
        "[reverse_etl] history_days is '0', not a number of days, 1 or more",
        "[reverse_etl] change_log is 'maybe', neither True nor False",
        "[reverse_etl] memory_limit is 'lots', not an amount of memory such as 900MB or 4GB",
    ]
    assert todo == "What to do: correct airflow.cfg, or the environment: AIRFLOW__REVERSE_ETL__<OPTION>"


@pytest.mark.parametrize("text", ["-1", "1.5", "a year"])
def test_history_is_kept_for_whole_days(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    configure(monkeypatch, history_days=text)
    with pytest.raises(ConfigurationError, match="history_days"):
        settings()


@pytest.mark.parametrize("text", ["dev/eu", "a-b", "d\u00e9v", "syncs"])
def test_an_environment_is_part_of_a_path_and_of_a_schemas_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    configure(monkeypatch, environment=text)
    with pytest.raises(ConfigurationError, match=r"environment is .*, not a name of letters"):
        settings()


@pytest.mark.parametrize("text", ["900MB", "4 gb", "2T", "80%"])
def test_an_amount_of_memory_is_written_as_duckdb_reads_it(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    import duckdb

    configure(monkeypatch, memory_limit=text)
    with duckdb.connect() as connection:
        connection.execute("SET memory_limit = $1", [settings().memory_limit])
