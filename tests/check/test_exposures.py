"""Tests of syncs in dbt's own files: exposures, which dbt itself reads, and syncs in models' meta."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_reverse_etl.check.exposures import exposures, syncs_in_meta
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.dbt.profiles import placeholder_profile
from airflow_reverse_etl.dbt.runner import DbtProject
from tests.dbt.projects import manifest, model, side, sync

FILES = {
    "dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: shop\n",
    "packages.yml": "packages: [{local: ./vendor}]",
    "vendor/dbt_project.yml": "name: vendor\nversion: '1.0'\nprofile: shop\n",
    "vendor/models/customers.sql": "{{ config(alias='theirs') }} select 1 as id",
    "models/customers_v1.sql": "select 1 as id, 'x' as email",
    "models/customers_v2.sql": "select 1 as id, 'x' as email",
    "models/secret.sql": "select 1 as id, 'x' as email",
    "models/models.yml": """
groups: [{name: crm, owner: {name: Ada}}]
models:
  - {name: customers, latest_version: 1, versions: [{v: 1}, {v: 2}]}
  - {name: secret, config: {group: crm, access: private}}
""",
}
QUERY = "select c.id, email from main.customers_v1 c join main.theirs t on c.id = t.id"


@pytest.mark.slow
def test_dbt_reads_the_exposures_of_every_kind_of_sync(tmp_path: Path) -> None:
    """Cover versioned models, private ones, another package's, a query over two, and names that dbt treats as equal."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    dbt = DbtProject(tmp_path, profile=placeholder_profile("duckdb"))
    dbt.install_packages(movable=True)
    models = {
        "a.1": "customers",
        "a-1": "customers.v2",
        "private": "secret",
        "theirs": "vendor.customers",
        "query": {"sql": QUERY},
        "table": {"table": "main.theirs"},
        "unknown": {"table": "other.place"},
    }
    syncs = [sync(name=name, model=of, primary_key="id") for name, of in models.items()]
    text = exposures(syncs, ProjectVersion(dbt.parse()), owner="data@example.com")
    (tmp_path / "models" / "exposures.yml").write_text(text)

    found = dbt.parse()["exposures"].values()  # which fails for one of a private model

    one, two, theirs = "model.shop.customers.v1", "model.shop.customers.v2", "model.vendor.customers"
    assert {exposure["label"]: set(exposure["depends_on"]["nodes"]) for exposure in found} == {
        "a.1": {one}, "a-1": {two}, "theirs": {theirs}, "query": {one, theirs},
        "table": {theirs},
    }  # fmt: skip
    assert "# private reads secret, which is private." in text


def test_an_exposure_lists_the_used_columns() -> None:
    """Types are those that the project declares, in the form that other tools read."""
    source = sync(mapping={"mail": "email", "plan": {"sql": "upper(plan)"}}, primary_key="id")
    text = exposures([source], side(model("customers", columns={"id": "int", "email": "text"})), owner="data")
    [found] = yaml.safe_load(text)["exposures"]
    assert found["meta"]["referenced_columns"] == [
        {"column_name": "id", "data_type": "int"},
        {"column_name": "email", "data_type": "text"},
        {"column_name": "plan"},
    ]


def test_syncs_and_marks_in_meta() -> None:
    """Meta has one sync or a list; a mark is not a sync, and an invalid sync is an error."""
    spec: dict[str, Any] = json.loads(sync().sync.model_dump_json(exclude={"model"}, exclude_unset=True))
    values = {
        "one": spec,
        "two": [{**spec, "name": "a"}, {**spec, "name": "b", "model": "one"}],
        "mark": True,
        "marked": {"owner": "crm"},
        "wrong": {"name": "c", "destination": {"type": "http"}, "maping": {}},
    }
    nodes = [model(name, meta={"reverse_etl": value}) for name, value in values.items()]
    sources, errors = syncs_in_meta(read_manifest(manifest(*nodes)))
    assert {source.sync.name: source.sync.model for source in sources} == {
        "customers_to_crm": "shop.one", "a": "shop.two", "b": "one",
    }  # fmt: skip
    [error] = errors
    assert "models/wrong.sql" in str(error)
    assert any("maping" in problem for problem in error.problems)
