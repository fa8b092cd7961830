"""Gate of a sync: open if one dbt run built the model, passed its tests, and found its sources fresh.

Pure functions over dbt's artifacts: manifest.json, run_results.json, sources.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_reverse_etl.dbt.manifest import ancestors, parents_of, tests_by_model

BUILT = frozenset({"success", "no-op", "reused"})  # no-op and reused: dbt found the table up to date
PASSED = frozenset({"pass", "warn", "success"})
#: Commands whose results are about tables. Others have results too: those of docs generate are about compilation.
GATED_COMMANDS = frozenset({"build", "run", "test", "seed", "snapshot", "source"})


def evidence(manifest: Mapping[str, Any], results: Mapping[str, str]) -> dict[str, Any]:
    """Return what the gate needs later to judge any model of a dbt command, as JSON.

    :param results: node's id → status, for nodes, tests and the freshness of sources.
    """
    nodes = manifest["nodes"]
    sources = manifest.get("sources") or {}
    parents = {unique_id: parents_of(node) for unique_id, node in nodes.items()}
    tests = tests_by_model(manifest)
    models = {}
    for unique_id, node in nodes.items():
        if node["resource_type"] != "model":
            continue
        upstream = ancestors(unique_id, parents)
        checked = [source for source in upstream if source in sources and _has_freshness_limit(sources[source])]
        models[unique_id] = {"tests": sorted(tests.get(unique_id, ())), "sources": sorted(checked)}
    return {"results": dict(results), "models": models}


def merge_evidence(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the evidence of several commands of one run, given in their order, such as freshness, run, test."""
    whole: dict[str, Any] = {"results": {}, "models": {}}
    for one in found:
        for part in whole:
            whole[part] |= one[part]
    return whole


def closed_reasons(found: Mapping[str, Any], unique_id: str) -> tuple[str, ...]:
    """Return the reasons that close the gate for a model, empty if the gate is open. A missing result is a reason."""
    model = found["models"].get(unique_id)
    results = found["results"]
    if model is None:
        return (f"{unique_id} is not in that dbt run's project",)
    reasons = []
    if results.get(unique_id) not in BUILT:
        reasons.append(f"{unique_id} was not built: {results.get(unique_id, 'not selected')}")
    tests = [test for test in model["tests"] if results.get(test) not in PASSED]
    reasons += [f"{test}: {results.get(test, 'did not run')}" for test in tests]
    sources = [source for source in model["sources"] if results.get(source) not in PASSED]
    reasons += [f"{source}: freshness {results.get(source, 'was not checked')}" for source in sources]
    return tuple(reasons)


def shown_results(found: Mapping[str, Any], unique_id: str) -> dict[str, Any]:
    """Return what dbt said of a model or source, for a picture; empty if it said nothing.

    :returns: ``status``, of the build or of the freshness; ``passed`` and ``failed``, numbers of a model's tests.
    """
    results = found["results"]
    shown: dict[str, Any] = {}
    if unique_id in results:
        shown["status"] = results[unique_id]
    model = found["models"].get(unique_id) or {"tests": ()}
    ran = [results[test] for test in model["tests"] if test in results]
    if ran:
        passed = sum(status in PASSED for status in ran)
        shown |= {"passed": passed, "failed": len(ran) - passed}
    return shown


def _has_freshness_limit(source: Mapping[str, Any]) -> bool:
    """Return whether the source declares how old its data may be."""
    freshness = (source.get("config") or {}).get("freshness") or source.get("freshness") or {}
    return any((freshness.get(age) or {}).get("count") for age in ("warn_after", "error_after"))
