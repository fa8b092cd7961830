"""Content of a manifest beyond columns: owners, tests, sources; and relations for an adapter that is not installed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.catalog_history import history, record
from airflow_reverse_etl.dbt.manifest import load, read_manifest, rebuild_relations
from airflow_reverse_etl.dbt.profiles import database_and_schema, placeholder_profile, project_output
from airflow_reverse_etl.dbt.selection import select
from airflow_reverse_etl.errors import ConfigurationError, ProjectError
from airflow_reverse_etl.stores.files import StateFiles
from tests.dbt.projects import keyed, manifest, model, source


def catalog() -> Catalog:
    raw = source("orders") | {
        "source_name": "raw", "database": "db", "schema": "raw", "loaded_at_field": "at",
        "freshness": {"warn_after": {"count": 12, "period": "hour"}, "error_after": {"count": None, "period": None}},
    }  # fmt: skip
    found = manifest(
        raw,
        model("stg", parents=["source.shop.raw.orders"], original_file_path="models/staging/stg.sql"),
        model("customers", parents=["stg"], group="crm", tags=["crm"], original_file_path="models/marts/customers.sql"),
        model("scores", parents=["customers"], meta={"owner": "Bob", "reverse_etl": {"name": "x"}}),
        model("old", meta={"reverse_etl": False}),
        *keyed("customers"),
    )
    found["groups"] = {
        "group.shop.crm": {"name": "crm", "owner": {"name": "Ada", "email": ["ada@example.com", "b@example.com"]}}
    }
    return Catalog.from_json(read_manifest(found).to_json())


def test_owners_tests_and_lineage() -> None:
    """The owner is the group's, or the one in meta. Sources include those of all upstream models."""
    found = catalog()
    customers, scores = found.find("customers"), found.find("scores")
    assert (customers.owner, scores.owner, found.find("old").owner) == (
        "Ada <ada@example.com, b@example.com>",
        "Bob",
        "",
    )
    assert customers.data_tests == ("not_null_customers_id", "unique_customers_id")
    assert customers.depends_on == ("model.shop.stg",)
    assert scores.sources == customers.sources == ("source.shop.raw.orders",)
    (raw,) = found.sources
    assert (raw.name, raw.loaded_at_field, raw.warn_after, raw.error_after) == ("raw.orders", "at", "12 hour", None)


@pytest.mark.parametrize(
    ("selectors", "names"),
    [
        (["customers"], {"customers"}),
        (["shop.s*"], {"stg", "scores"}),
        (["tag:crm"], {"customers"}),
        (["path:models/staging", "tag:crm"], {"stg", "customers"}),
        (["path:models/*/stg.sql"], {"stg"}),
        (["meta.reverse_etl"], {"scores"}),
        (["config.meta.owner:bob"], {"scores"}),
        (["path:models,meta.reverse_etl"], {"scores"}),
        (["package:shop,tag:none"], set()),
    ],
)
def test_selection(selectors: list[str], names: set[str]) -> None:
    assert {found.name for found in select(catalog().models, selectors)} == names


@pytest.mark.parametrize("selector", ["+customers", "customers+", "@x", "state:modified", "", "tag:", "a,,b"])
def test_unsupported_selectors_are_refused(selector: str) -> None:
    with pytest.raises(ConfigurationError, match="not a supported model selector"):
        select(catalog().models, [selector])


@pytest.mark.parametrize(
    ("adapter", "relation"),
    [
        ("snowflake", "db.main.customers"),
        ("bigquery", "`db`.`main`.`customers`"),
        ("databricks", "`db`.`main`.`customers`"),
        ("redshift", '"db"."main"."customers"'),
    ],
)
def test_relations_for_an_adapter_that_another_replaced(adapter: str, relation: str) -> None:
    """The relations are those that dbt itself writes; ephemeral models have none."""
    parsed = manifest(model("customers"), model("inner", materialized="ephemeral"))
    found = read_manifest(rebuild_relations(parsed, adapter))
    assert (found.adapter, found.find("customers").relation, found.find("inner").relation) == (adapter, relation, None)


def test_quoting_of_project_and_model() -> None:
    parsed = manifest(model("a"), model("b"))
    parsed["nodes"]["model.shop.b"]["config"]["quoting"] = {"identifier": False}
    found = read_manifest(rebuild_relations(parsed, "snowflake", quoting={"identifier": True}))
    assert [m.relation for m in found.models] == ['db.main."a"', "db.main.b"]


def test_other_content_is_refused() -> None:
    for data in (b"<html>", b"[]", b"{}", b"\xff"):
        with pytest.raises(ProjectError, match=r"not a dbt manifest\.json") as raised:
            load(data, file="x")
        assert "html" not in str(raised.value)


def test_database_and_schema_of_the_projects_own_profile(tmp_path: Path) -> None:
    """The values are those of the chosen target, with environment variables resolved."""
    (tmp_path / "profiles.yml").write_text(
        "shop:\n  target: \"{{ env_var('T', 'dev') }}\"\n  outputs:\n"
        "    dev: {type: snowflake, database: D, schema: s}\n"
        "    prod: {type: bigquery, project: \"{{ env_var('P') }}\", dataset: d, threads: 4}\n"
    )
    found: dict[str, Any] = {"profile": "shop", "env": {"P": "my-project"}}
    assert database_and_schema(project_output(tmp_path, target=None, **found)) == ("D", "s")
    assert database_and_schema(project_output(tmp_path, target="prod", **found)) == ("my-project", "d")
    with pytest.raises(ProjectError, match="profile or target"):
        project_output(tmp_path, target="staging", **found)
    assert placeholder_profile("duckdb", schema="s", database="my-db.x").output["path"].endswith("/my-db.x.duckdb")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_history_has_each_change_and_the_commit_before(commits: list[str]) -> None:
    """Syncing the same commit again is not a change; returning to an older commit is."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = StateFiles(folder)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        changes: list[str] = []
        for minutes, commit in enumerate(commits):
            previous = record(files, "catalogs/k", commit=commit, at=start + timedelta(minutes=minutes))
            if changes[-1:] != [commit]:
                changes.append(commit)
            assert previous == next((c for c in reversed(changes) if c != commit), None)
        assert [entry.commit for entry in history(files, "catalogs/k")] == changes[::-1]


@pytest.mark.long
def test_a_hundred_megabytes() -> None:
    """A repository can make dbt write this much. The catalog contains only what a sync needs."""
    big = manifest(model("customers"), *keyed("customers"), macros={f"macro.x.{n}": "x" * 100_000 for n in range(1000)})
    data = json.dumps(big).encode()
    assert len(data) > 100_000_000
    assert len(read_manifest(load(data)).to_json()) < 2000
