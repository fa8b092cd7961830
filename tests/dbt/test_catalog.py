"""Catalogs from manifest.json: equal for every engine, and for supported versions only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.dbt.catalog import Catalog, load_catalog
from airflow_reverse_etl.dbt.manifest import infer_primary_key, read_manifest
from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError, ProjectError, StateError
from airflow_reverse_etl.stores.files import StateFiles

MANIFESTS = sorted((Path(__file__).parent / "manifests").glob("*.json"))


def manifest(path: Path = MANIFESTS[-2]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_bytes())
    return loaded


@pytest.fixture
def catalog() -> Catalog:
    return read_manifest(manifest(), commit="c" * 40)


def test_every_engine_gives_the_same_catalog() -> None:
    """The engines are dbt 1.6 to 1.12 (manifests 10 to 12) and Fusion."""
    catalogs = {path.name: read_manifest(manifest(path)) for path in MANIFESTS}
    assert len(catalogs) == 5
    expected = dict.fromkeys(catalogs, catalogs["v12-1.12.6.json"].models)
    # This Fusion reads a column's meta under config only, where the project has none, so its manifest lacks "pii".
    expected["v12-fusion-rc196.json"] = tuple(
        replace(model, columns=tuple(replace(column, meta={}) for column in model.columns))
        for model in expected["v12-fusion-rc196.json"]
    )
    assert {name: catalog.models for name, catalog in catalogs.items()} == expected


def test_what_a_sync_needs_is_there(catalog: Catalog) -> None:
    model = catalog.find("customers")
    assert (catalog.project, catalog.adapter, catalog.commit) == ("jaffle", "duckdb", "c" * 40)
    assert (model.unique_id, model.relation) == ("model.jaffle.customers.v2", '"jaffle"."main"."customers_v2"')
    assert (model.primary_key, model.tags, model.materialized) == (("customer_id",), ("reverse_etl",), "table")
    assert model.meta == {"reverse_etl": {"destination": "hubspot", "primary_key": "customer_id"}}
    email = model.columns[1]
    assert (email.name, email.data_type, email.meta) == ("email", "varchar", {"pii": True})
    assert (model.description, model.columns[0].description) == ("One row per customer", "PK")


@pytest.mark.parametrize(
    ("ref", "unique_id"),
    [
        ("customers", "model.jaffle.customers.v2"),
        ("customers.v1", "model.jaffle.customers.v1"),
        ("jaffle.customers", "model.jaffle.customers.v2"),
        ("jaffle.customers.v1", "model.jaffle.customers.v1"),
        ("orders", "model.jaffle.orders"),
    ],
)
def test_models_are_found_as_dbt_names_them(catalog: Catalog, ref: str, unique_id: str) -> None:
    assert catalog.find(ref).unique_id == unique_id


def test_a_name_without_version_means_the_latest_not_the_newest() -> None:
    """A model may have ``latest_version: 1`` while v2 is in preparation."""
    changed = manifest()
    for node in changed["nodes"].values():
        if node["name"] == "customers":
            node["latest_version"] = 1
    assert read_manifest(changed).find("customers").version == "1"


def test_missing_model_names_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean customers"):
        catalog.find("costumers")


def test_two_packages_with_one_name() -> None:
    """The project's own model wins; between models of two dependencies the author has to choose."""
    both = manifest()
    orders = both["nodes"]["model.jaffle.orders"]
    both["nodes"] |= {
        f"model.{p}.orders": {**orders, "package_name": p, "unique_id": f"model.{p}.orders"} for p in ("a", "b")
    }
    assert read_manifest(both).find("orders").package == "jaffle"
    del both["nodes"]["model.jaffle.orders"]
    with pytest.raises(ModelNotFoundError, match=r"a\.orders, b\.orders"):
        read_manifest(both).find("orders")


@pytest.mark.parametrize("version", ["https://schemas.getdbt.com/dbt/manifest/v13.json", "nonsense", None])
def test_unknown_version_is_refused_naming_the_known(version: str | None) -> None:
    with pytest.raises(ProjectError, match="v10, v11, v12"):
        read_manifest({"metadata": {"dbt_schema_version": version}, "nodes": {}})


def test_stored_catalog_comes_back_as_it_was(catalog: Catalog, tmp_path: Path) -> None:
    files = StateFiles(str(tmp_path))
    files.write("catalogs/x/c.json", catalog.to_json())
    assert load_catalog(files, {"catalog": "catalogs/x/c.json"}) == catalog
    with pytest.raises(ConfigurationError, match="run the model sync again"):
        load_catalog(files, {"catalog": "catalogs/x/gone.json"})


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format": 1, "models": [{}]}', b'{"format": 99}'])
def test_damaged_or_newer_catalog_is_no_catalog(data: bytes) -> None:
    with pytest.raises(StateError):
        Catalog.from_json(data)


def test_unknown_database_is_left_to_the_reader() -> None:
    catalog = read_manifest(manifest(), unknown_database="jaffle")
    assert (catalog.find("orders").relation, catalog.find("orders").database) == ('"main"."orders"', None)


def node(**fields: Any) -> dict[str, Any]:
    return {"constraints": [], "columns": {name: {"constraints": []} for name in ("a", "b", "c")}, **fields}


def generic_test(name: str, *, enabled: bool = True, **kwargs: Any) -> dict[str, Any]:
    return {"test_metadata": {"name": name, "kwargs": kwargs}, "config": {"enabled": enabled}}


PRIMARY = [{"type": "primary_key", "columns": ["b", "a"]}]


@pytest.mark.parametrize(
    ("model", "tests", "key"),
    [
        (node(constraints=PRIMARY), [generic_test("unique", column_name="c")], ("b", "a")),
        (node(columns={"a": {}, "b": {"constraints": [{"type": "primary_key"}]}}), [], ("b",)),
        (
            node(),
            [generic_test("unique", column_name=c) for c in "ab"]
            + [generic_test("not_null", column_name=c) for c in "bc"],
            ("b",),
        ),
        (
            node(),
            [
                generic_test("unique", column_name="b", enabled=False),
                generic_test("not_null", column_name="b"),
                generic_test("unique", column_name="a"),
            ],
            ("b",),
        ),
        (node(), [generic_test("unique_combination_of_columns", combination_of_columns=["c", "a"])], ("a", "c")),
        (
            node(),
            [generic_test("unique", column_name="a"), generic_test("unique", column_name="b", enabled=False)],
            ("a",),
        ),
        (node(), [generic_test("unique", column_name="b", enabled=False)], ("b",)),
        (node(), [generic_test("not_null", column_name="a")], ()),
        (node(), [generic_test("unique", column_name=["not", "text"])], ()),
    ],
)
def test_primary_key_in_dbts_order_of_inference(
    model: dict[str, Any], tests: list[dict[str, Any]], key: tuple[str, ...]
) -> None:
    """The cases of ``ModelNode.infer_primary_key``, for engines that write no key; columns in declared order."""
    assert infer_primary_key(model, tests) == key
