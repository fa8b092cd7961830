"""The models from which a model is made, for a picture."""

from __future__ import annotations

from airflow_reverse_etl.dbt.manifest import read_manifest
from tests.dbt.projects import data_test, manifest, model


def test_two_steps_upstream_are_shown_with_their_tests() -> None:
    parents = {"customers": ["stg", "orders"], "orders": ["stg"], "stg": ["raw"], "raw": ["older"], "older": []}
    nodes = [model(name, parents=names) for name, names in parents.items()]
    catalog = read_manifest(manifest(*nodes, data_test("unique", "stg", "id")))
    found = catalog.upstream("customers")
    assert {node["name"]: (node["kind"], node["step"], node["tests"]) for node in found["nodes"]} == {
        "customers": ("model", 0, 0),
        "stg": ("model", 1, 1),
        "orders": ("model", 1, 0),
        "raw": ("model", 2, 0),
    }
    pairs = {tuple(name.rpartition(".")[2] for name in edge) for edge in found["edges"]}
    assert pairs == {("stg", "customers"), ("orders", "customers"), ("stg", "orders"), ("raw", "stg")}


def test_models_that_refer_to_each_other_end() -> None:
    catalog = read_manifest(manifest(model("a", parents=["b"]), model("b", parents=["a"])))
    assert [node["name"] for node in catalog.upstream("a", steps=9)["nodes"]] == ["a", "b"]
