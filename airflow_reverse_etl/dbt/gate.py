"""May a sync run? Only if, in one dbt run, its model was built, the model's tests passed and its sources were fresh.

Pure functions over what dbt leaves behind: manifest.json, run_results.json, sources.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_reverse_etl.dbt.manifest import ancestors, parents_of, tests_by_model

BUILT = frozenset({"success", "no-op", "reused"})  # the last two: dbt found the table to be as it should be
PASSED = frozenset({"pass", "warn", "success"})
#: Commands whose results are about tables. Others have results, too: docs generate, of what it compiled.
TELLING = frozenset({"build", "run", "test", "seed", "snapshot", "source"})


def evidence(manifest: Mapping[str, Any], results: Mapping[str, str]) -> dict[str, Any]:
    """What has to be kept of a dbt command to judge any of its models later; JSON.

    :param results: node's id → status, of nodes, tests and the freshness of sources.
    """
    nodes, sources = manifest["nodes"], manifest.get("sources") or {}
    parents = {unique_id: parents_of(node) for unique_id, node in nodes.items()}
    tests = tests_by_model(manifest)
    models = {}
    for unique_id, node in nodes.items():
        if node["resource_type"] == "model":
            above = ancestors(unique_id, parents)
            limited = [s for s in above if s in sources and _limited(sources[s])]
            models[unique_id] = {"tests": sorted(tests.get(unique_id, ())), "sources": sorted(limited)}
    return {"results": dict(results), "models": models}


def merge_evidence(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The evidence of several commands of one run, in their order: freshness, run, test."""
    whole: dict[str, Any] = {"results": {}, "models": {}}
    for one in found:
        for part in whole:
            whole[part] |= one[part]
    return whole


def closed(found: Mapping[str, Any], unique_id: str) -> tuple[str, ...]:
    """Why a sync of the model must not run; empty: it may. What is not known is a reason, too."""
    model, results = found["models"].get(unique_id), found["results"]
    if model is None:
        return (f"{unique_id} is not in that dbt run's project",)
    reasons = []
    if results.get(unique_id) not in BUILT:
        reasons.append(f"{unique_id} was not built: {results.get(unique_id, 'not selected')}")
    reasons += [f"{test}: {results.get(test, 'did not run')}" for test in model["tests"] if _bad(results, test)]
    reasons += [
        f"{source}: freshness {results.get(source, 'was not checked')}"
        for source in model["sources"]
        if _bad(results, source)
    ]
    return tuple(reasons)


def _bad(results: Mapping[str, str], unique_id: str) -> bool:
    return results.get(unique_id) not in PASSED


def _limited(source: Mapping[str, Any]) -> bool:
    """Whether the source says how old it may be."""
    freshness = (source.get("config") or {}).get("freshness") or source.get("freshness") or {}
    return any((freshness.get(age) or {}).get("count") for age in ("warn_after", "error_after"))
