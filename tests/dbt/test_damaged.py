"""Manifests and catalogs that are not what dbt or this package wrote: typed errors only."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.manifest import load, read_manifest, read_tables, rebuild_relations
from airflow_reverse_etl.errors import ProjectError, ReverseEtlError, StateError

MANIFESTS = sorted((Path(__file__).parent / "manifests").glob("*.json"))
ODD: list[Any] = [None, "x", "", -1, 10**30, [], {}, [[1]], True, 1.5, "\ud800", {"a": [None]}, {"name": 1}, [{}]]


def mutated(values: Any, chance: random.Random) -> Any:
    """Return a copy in which one to three parts are others, or are missing."""
    whole = copy.deepcopy(values)
    for _ in range(chance.choice([1, 1, 2, 3])):
        level = whole
        while isinstance(level, dict | list) and level:
            key = chance.choice(list(level)) if isinstance(level, dict) else chance.randrange(len(level))
            part = level[key]
            if isinstance(part, dict | list) and part and chance.random() < 0.85:
                level = part
                continue
            if chance.random() < 0.3:
                del level[key]
            else:
                level[key] = chance.choice(ODD)
            break
    return whole


@pytest.mark.parametrize("count", [40, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_that_dbt_did_not_write_raises_typed_errors_only(path: Path, count: int) -> None:
    """The slow ones are 10,000 manifests."""
    chance = random.Random(path.stem)
    good = json.loads(path.read_text())
    read = 0
    for _ in range(count):
        data = json.dumps(mutated(good, chance)).encode()
        try:
            manifest = load(data)
            catalog = read_manifest(manifest)
            read_tables(manifest)
            rebuild_relations(manifest, "snowflake")
            assert Catalog.from_json(catalog.to_json()).to_json() == catalog.to_json()
            read += 1
        except ReverseEtlError as error:
            assert str(error)  # noqa: PT017 - any other exception fails the test
    assert read > 10


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b'"nodes"', b"[" * 100_000, b"\xff\xfe", b'{"nodes": [], "metadata": 1}']
)
def test_what_is_not_a_manifest_is_named(data: bytes) -> None:
    with pytest.raises(ProjectError, match="not a dbt manifest"):
        load(data)
    with pytest.raises(StateError, match="damaged"):
        Catalog.from_json(data)


def test_a_cut_catalog_is_damaged() -> None:
    data = read_manifest(load(MANIFESTS[0].read_bytes())).to_json()
    chance = random.Random(1)
    for _ in range(100):
        with pytest.raises(StateError, match="damaged"):
            Catalog.from_json(data[: chance.randrange(len(data))])
