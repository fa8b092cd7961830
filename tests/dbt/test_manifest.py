"""What a manifest says beyond the columns: owners, tests, sources; and relations for an adapter that is not there."""

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
from airflow_reverse_etl.dbt.profiles import place, project_output, stand_in
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
    """Of the group, or of the meta; sources are those of all models above."""
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
def test_what_is_no_selector_here_is_refused(selector: str) -> None:
    with pytest.raises(ConfigurationError, match="no selector"):
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
def test_relations_for_the_adapter_that_another_stood_in_for(adapter: str, relation: str) -> None:
    """As dbt itself writes them; ephemeral models still have none."""
    parsed = manifest(model("customers"), model("inner", materialized="ephemeral"))
    found = read_manifest(rebuild_relations(parsed, adapter))
    assert (found.adapter, found.find("customers").relation, found.find("inner").relation) == (adapter, relation, None)


def test_quoting_of_project_and_model() -> None:
    parsed = manifest(model("a"), model("b"))
    parsed["nodes"]["model.shop.b"]["config"]["quoting"] = {"identifier": False}
    found = read_manifest(rebuild_relations(parsed, "snowflake", quoting={"identifier": True}))
    assert [m.relation for m in found.models] == ['db.main."a"', "db.main.b"]


def test_what_is_no_manifest() -> None:
    for data in (b"<html>", b"[]", b"{}", b"\xff"):
        with pytest.raises(ProjectError, match=r"no manifest\.json") as raised:
            load(data, file="x")
        assert "html" not in str(raised.value)


def test_place_in_the_projects_own_profile(tmp_path: Path) -> None:
    """With the target that is meant, and variables answered."""
    (tmp_path / "profiles.yml").write_text(
        "shop:\n  target: \"{{ env_var('T', 'dev') }}\"\n  outputs:\n"
        "    dev: {type: snowflake, database: D, schema: s}\n"
        "    prod: {type: bigquery, project: \"{{ env_var('P') }}\", dataset: d, threads: 4}\n"
    )
    found: dict[str, Any] = {"profile": "shop", "env": {"P": "my-project"}}
    assert place(project_output(tmp_path, target=None, **found)) == ("D", "s")
    assert place(project_output(tmp_path, target="prod", **found)) == ("my-project", "d")
    with pytest.raises(ProjectError, match="profile or target"):
        project_output(tmp_path, target="staging", **found)
    assert stand_in("duckdb", schema="s", database="my-db.x").output["path"].endswith("/my-db.x.duckdb")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_history_has_each_change_and_knows_what_was_before(commits: list[str]) -> None:
    """Syncing the same commit again is no change; going back to an older one is."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files, now, changes = StateFiles(folder), datetime(2026, 1, 1, tzinfo=UTC), []
        for n, commit in enumerate(commits):
            previous = record(files, "catalogs/k", commit=commit, at=now + timedelta(minutes=n))
            changes += [commit] if changes[-1:] != [commit] else []
            assert previous == next((c for c in reversed(changes) if c != commit), None)
        assert [entry.commit for entry in history(files, "catalogs/k")] == changes[::-1]


def test_a_hundred_megabytes() -> None:
    """A repository can make dbt write as much: what is kept of it is as small as what a sync needs."""
    big = manifest(model("customers"), *keyed("customers"), macros={f"macro.x.{n}": "x" * 100_000 for n in range(1000)})
    data = json.dumps(big).encode()
    assert len(data) > 100_000_000
    assert len(read_manifest(load(data)).to_json()) < 2000
