"""Tests of loading a project's version from files, folders, and refs of a local repository, parsed by the real dbt."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import msgspec
import pytest

from airflow_reverse_etl.check.check import check_project
from airflow_reverse_etl.check.project.loader import ProjectLoader, files_of
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.cli.main import main
from airflow_reverse_etl.dbt.profiles import UNKNOWN_DATABASE
from airflow_reverse_etl.errors import ConfigurationError, ProjectError, RepositoryNotFoundError
from tests.dbt.projects import manifest, model, seed, sync

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


def test_a_manifest_in_a_folder_without_a_project_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "manifest.json").write_text(json.dumps(manifest(model("customers"))))
    for where in (tmp_path, tmp_path / "target", tmp_path / "target" / "manifest.json"):
        assert [m.name for m in ProjectLoader().load(str(where)).catalog.models] == ["customers"]


PROJECT = "name: shop\nversion: '1.0'\nprofile: shop\n"
FILES = {"dbt_project.yml": PROJECT, "models/customers.sql": "select 1", "models/schema.yml": "models: []\n"}


def hashed(text: str) -> dict[str, str]:
    return {"name": "sha256", "checksum": hashlib.sha256(text.encode()).hexdigest()}


def parsed(folder: Path) -> None:
    """Write a project, its manifest, and dbt's own hashes of the project's files, as dbt 1.11 does."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    files = {}
    for name in ("customers.sql", "schema.yml"):
        path = {"searched_path": "models", "relative_path": name, "project_root": "/elsewhere"}
        text = FILES[f"models/{name}"].strip()
        files[f"shop://models/{name}"] = {"project_name": "shop", "path": path, "checksum": hashed(text)}
    hashes = {
        "metadata": {"invocation_id": "run"},
        "files": files,
        "state_check": {"project_hashes": {"shop": hashed(PROJECT), "dbt": hashed("dbt's own")}},
    }
    (folder / "target").mkdir()
    (folder / "target" / "partial_parse.msgpack").write_bytes(msgspec.msgpack.encode(hashes))
    (folder / "target" / "manifest.json").write_text(json.dumps(manifest(model("customers"), invocation="run")))


def edit(path: Path, text: str) -> None:
    """Change a file's text, and keep its times in the distant past."""
    path.write_text(text)
    os.utime(path, (1, 1))


def test_a_manifest_of_the_very_files_is_used_whatever_their_times(tmp_path: Path) -> None:
    parsed(tmp_path)
    os.utime(tmp_path / "models" / "customers.sql", (4_000_000_000, 4_000_000_000))
    assert [m.name for m in ProjectLoader().load(str(tmp_path)).catalog.models] == ["customers"]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "models/customers.sql").unlink(),
        lambda folder: (folder / "models/customers.sql").rename(folder / "models/people.sql"),
        lambda folder: edit(folder / "models/customers.sql", "select 2"),
        lambda folder: edit(folder / "models/schema.yml", "models: [{name: customers}]"),
        lambda folder: edit(folder / "models/more.sql", "select 3"),
        lambda folder: edit(folder / "dbt_project.yml", PROJECT + "vars: {a: 2}"),
        lambda folder: (folder / "target" / "partial_parse.msgpack").unlink(),
        lambda folder: edit(folder / "target" / "partial_parse.msgpack", "?"),
        lambda folder: edit(
            folder / "target" / "manifest.json", json.dumps(manifest(model("customers"), invocation="another"))
        ),
        lambda folder: (folder / "dbt_packages" / "lib").mkdir(parents=True),
    ],
    ids=["deleted", "renamed", "SQL", "YAML", "added", "project", "no hashes", "damaged", "another run", "package"],
)
def test_a_manifest_of_other_files_is_not_used(tmp_path: Path, change: Callable[[Path], None]) -> None:
    parsed(tmp_path)
    change(tmp_path)
    with pytest.raises(ConfigurationError, match="dbt not found at '/nowhere/dbt'"):
        ProjectLoader(dbt_executable="/nowhere/dbt").load(str(tmp_path))


def test_variables_of_packages_and_seeds_are_read_from_the_project(tmp_path: Path) -> None:
    parsed(tmp_path)
    (tmp_path / "dbt_packages" / "lib").mkdir(parents=True)
    (tmp_path / "dbt_packages" / "lib" / "dbt_project.yml").write_text("name: lib\nvars: {name: email}\n")
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "codes.csv").write_text("id,email\n1,a\n")
    about = files_of(manifest(seed("codes", kind="path")), tmp_path, trusted=True)
    assert about["variables"] == {"shop": None, "lib": {"name": "email"}}
    assert [column.name for column in about["seeds"]["seed.shop.codes"].columns] == ["id", "email"]
    # The file need not be that of a manifest from elsewhere.
    assert files_of(manifest(seed("codes", kind="path")), tmp_path, trusted=False)["seeds"] == {}


@pytest.fixture
def monorepo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a package with a project of tests in it, which takes the package and one next to it, in flow style."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch=main")
    package = "name: {}\nversion: '1.0'\n"
    write(
        {
            "lib/dbt_project.yml": package.format("lib"),
            "lib/models/target/customers.sql": "select 1 as id, {{ mail() }} as email",
            "lib/integration_tests/dbt_project.yml": package.format("tests"),
            "lib/integration_tests/packages.yml": "packages: [{local: ../}]",
            "lib/packages.yml": "packages:\n  - {local: ../../shared}",
            "shared/dbt_project.yml": package.format("shared"),
            "shared/macros/mail.sql": "{% macro mail() %}'x'{% endmacro %}",
            "shared/.gitattributes": "macros export-ignore",
            "syncs/customers.yaml": SYNC.replace(", plan: {sql: upper(plan)}", ""),
        }
    )
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    return tmp_path


@pytest.mark.slow
def test_packages_around_and_above_a_project_come_with_a_ref(monorepo: Path) -> None:
    """A project without a profile's name, files that ``git archive`` leaves out: dbt parses it all."""
    version = ProjectLoader("lib/integration_tests").load("main")
    assert [model.unique_id for model in version.catalog.models] == ["model.lib.customers"]
    assert "macro.shared.mail" in version.macros.texts
    assert version.variables == repr({"tests": None, "lib": None, "shared": None})


BEFORE = {
    "dbt_project.yml": PROJECT + "models: {+materialized: table}\nvars: {name: email}\n",
    "models/plain.sql": "select 1 as id, 'x' as email",
    "models/by_macro.sql": "select 1 as id, {{ apply(mail) }} from {{ ref('plain') }}",
    "models/by_variable.sql": "select 1 as id, email as {{ var('name') }} from {{ ref('plain') }}",
    "models/by_branch.sql": "{{ config(materialized='incremental', unique_key='id') }}"
    "select id, email from {{ ref('plain') }}{% if is_incremental() %} where id > 1{% endif %}",
    "models/by_seed.sql": "select id, cast(email as varchar) as email from {{ ref('codes') }}",
    "models/by_snapshot.sql": "select id, cast(email as varchar) as email from {{ ref('history') }}",
    "models/hooked.sql": "select id, email from {{ ref('plain') }}",
    "macros/all.sql": "{% macro apply(m) %}{{ m() }}{% endmacro %}{% macro mail() %}email{% endmacro %}",
    "seeds/codes.csv": "id,email\n1,a\n",
    "snapshots/history.sql": "{% snapshot history %}{{ config(target_schema='s', unique_key='id', strategy='check', "
    "check_cols='all') }} select id, email from {{ ref('plain') }}{% endsnapshot %}",
}
CHANGED = {
    "dbt_project.yml": PROJECT + "models: {+materialized: table, shop: {hooked: {+post-hook: 'select 1'}}}\n"
    "vars: {name: mail}\n",
    "models/plain.sql": "-- people\nselect 1 as id, 'x' as email",
    "models/by_branch.sql": "{{ config(materialized='incremental', unique_key='email') }}"
    "select id, {% if is_incremental() %}id{% else %}email{% endif %} from {{ ref('plain') }}",
    "macros/all.sql": BEFORE["macros/all.sql"].replace("%}email{%", "%}mail{%"),
    "seeds/codes.csv": "id,mail\n1,a\n",
    "snapshots/history.sql": BEFORE["snapshots/history.sql"].replace("email", "email as mail"),
}


@pytest.mark.slow
def test_verdicts_on_manifests_that_dbt_itself_wrote(tmp_path: Path) -> None:
    """Parse two versions with dbt 1.11, and check a sync of each model."""
    versions = []
    for name, texts in (("base", BEFORE), ("head", {**BEFORE, **CHANGED})):
        write({str(tmp_path / name / path): text for path, text in texts.items()})
        versions.append(ProjectLoader().load(str(tmp_path / name)))
    names = [path.removeprefix("models/").removesuffix(".sql") for path in BEFORE if path.startswith("models/")]
    syncs = [sync(name=name, model=name, primary_key="id") for name in names]
    report = check_project(syncs, *versions, today=date(2026, 7, 1))
    worst: dict[str, str] = {}
    for finding in report.findings:  # the worst come first
        worst.setdefault(finding.sync, f"{finding.level.value}: {finding.rule}")
    assert worst == {
        "by_macro": "needs review: column-unverified",
        "by_variable": "needs review: column-unverified",
        "by_branch": "breaking: column-missing",
        "by_seed": "breaking: column-missing",
        "by_snapshot": "breaking: column-missing",
        "hooked": "needs review: build-changed",
    }


def test_a_database_that_no_profile_names_is_left_to_the_connection() -> None:
    relation = f'"{UNKNOWN_DATABASE}"."main"."customers"'
    parsed = manifest({**model("customers"), "database": UNKNOWN_DATABASE, "relation_name": relation})
    assert ProjectVersion(parsed).catalog.find("customers").relation == '"main"."customers"'
