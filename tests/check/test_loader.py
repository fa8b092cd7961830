"""Tests of loading a project's version from files, folders, and refs of a local repository, parsed by the real dbt."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from airflow_reverse_etl.check.project.loader import ProjectLoader
from airflow_reverse_etl.cli.main import main
from airflow_reverse_etl.errors import ConfigurationError, ProjectError, RepositoryNotFoundError
from tests.dbt.projects import manifest, model

SYNC = """\
name: customers_to_crm
model: customers
source: warehouse
destination: {type: http}
mapping: {email: email, plan: {sql: upper(plan)}}
"""


def git(*arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a dbt project under ``analytics``, whose last commit renames a column."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch=main")
    write(
        {
            "syncs/customers.yaml": SYNC,
            "analytics/dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: shop\nmodels: {+materialized: table}\n",
            "analytics/models/customers.sql": "select 1 as id, 'x' as email, 'free' as plan",
            "analytics/models/schema.yml": "models: [{name: customers, columns: [{name: id, data_tests: [unique]}]}]",
        }
    )
    (tmp_path / "analytics" / "passwords").symlink_to("/etc/passwd")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    write({"analytics/models/customers.sql": "select 1 as id, 'x' as email_address, 'free' as plan"})
    git("commit", "--quiet", "-am", "second")
    return tmp_path


@pytest.mark.slow
def test_refs_are_parsed_by_dbt_and_compared(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """dbt also reads our exposures, which the head, a folder, has among its models."""
    project = ["--project-path", "analytics", "--syncs", "syncs"]
    assert main(["exposures", "--project", "main~1", "--owner", "data", *project]) == 0
    write({"analytics/models/exposures.yml": capsys.readouterr().out})
    assert main(["check", "--base", "main~1", "--head", ".", *project]) == 1
    assert "email of customers is missing; it was probably renamed to email_address" in capsys.readouterr().out
    assert not (repository / "analytics" / "target").exists()


def test_the_error_of_a_missing_ref_says_how_to_fetch_it(repository: Path) -> None:
    with pytest.raises(RepositoryNotFoundError, match="fetch-depth"):
        ProjectLoader().load("origin/main")
    with pytest.raises(ProjectError, match="no folder 'dbt'"):
        ProjectLoader("dbt").load("main")
    with pytest.raises(RepositoryNotFoundError):
        ProjectLoader().load("--output=/tmp/x")


def test_a_manifest_in_the_target_folder_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "dbt_project.yml").write_text("vars: {a: 1}")
    (tmp_path / "target" / "manifest.json").write_text(json.dumps(manifest(model("customers"))))
    for where in (tmp_path, tmp_path / "target", tmp_path / "target" / "manifest.json"):
        assert [m.name for m in ProjectLoader().load(str(where)).catalog.models] == ["customers"]


def test_a_manifest_older_than_its_sources_is_not_trusted(tmp_path: Path) -> None:
    test_a_manifest_in_the_target_folder_is_used_as_it_is(tmp_path)
    (tmp_path / "models").mkdir()
    model = tmp_path / "models" / "customers.sql"
    model.write_text("select 1")
    os.utime(model, (4_000_000_000, 4_000_000_000))
    with pytest.raises(ConfigurationError, match="dbt not found at '/nowhere/dbt'"):
        ProjectLoader(dbt_executable="/nowhere/dbt").load(str(tmp_path))
