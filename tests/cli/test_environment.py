"""The environment of syncs, as commands know it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow_reverse_etl.cli.airflow import environment

if TYPE_CHECKING:
    import pytest


def test_the_environment_is_known_without_airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW__REVERSE_ETL__ENVIRONMENT", "AIRFLOW_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    assert environment() == ""
    (tmp_path / "airflow.cfg").write_text("[core]\nx = %(y)s\n[reverse_etl]\nenvironment = staging\n")
    assert environment() == "staging"
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__ENVIRONMENT", "prod")
    assert environment() == "prod"
