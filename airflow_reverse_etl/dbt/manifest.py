"""manifest.json of a dbt project, reduced to a catalog.

Reads manifest versions 10 to 12, which dbt 1.6 and later and Fusion write; the catalog is the same whichever engine
wrote it. Only JSON is read: dbt is never imported.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from airflow_reverse_etl.dbt.catalog import Catalog, CatalogColumn, Model, Source
from airflow_reverse_etl.errors import ProjectError

MANIFEST_VERSIONS = (10, 11, 12)


def read_manifest(
    manifest: Mapping[str, Any], *, commit: str | None = None, unknown_database: str | None = None
) -> Catalog:
    """The catalog of a manifest.

    :param unknown_database: a placeholder, to be left out of relations: the reader's connection has its own.
    :raises ProjectError: a manifest version that is not known here.
    """
    metadata = manifest.get("metadata", {})
    version = re.search(r"/manifest/v(\d+)\.json", str(metadata.get("dbt_schema_version", "")))
    if not version or int(version[1]) not in MANIFEST_VERSIONS:
        raise ProjectError(
            f"manifest of an unknown version: {metadata.get('dbt_schema_version')}",
            todo="use dbt 1.6 or newer, or Fusion; known versions: "
            + ", ".join(f"v{number}" for number in MANIFEST_VERSIONS),
        )
    fusion = str(metadata.get("dbt_version", "")).startswith("2.")
    tests = _tests_by_model(manifest)
    parents = {unique_id: parents_of(node) for unique_id, node in manifest["nodes"].items()}
    data_tests, owners = tests_by_model(manifest), _owners(manifest)
    models = []
    for unique_id, node in sorted(manifest["nodes"].items()):
        if node["resource_type"] != "model":
            continue
        model = _model(node, tests.get(unique_id, []), fusion=fusion)
        above = (parent for parent in ancestors(unique_id, parents) if parent.startswith("source."))
        group = node.get("group") or node["config"].get("group") or ""
        model = replace(
            model,
            owner=owners.get(group) or _person(model.meta.get("owner")),
            data_tests=tuple(sorted(manifest["nodes"][test]["name"] for test in data_tests.get(unique_id, ()))),
            sources=tuple(sorted(above)),
        )
        models.append(_without_database(model, unknown_database))
    sources = tuple(_source(source, unknown_database) for _, source in sorted((manifest.get("sources") or {}).items()))
    return Catalog(metadata["project_name"], commit, metadata["adapter_type"], tuple(models), sources)


def load(data: bytes, **where: object) -> dict[str, Any]:
    """A manifest.json. Raises ProjectError when it is none."""
    try:
        manifest = json.loads(data)
        manifest["nodes"], manifest["metadata"]["project_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProjectError(
            "this is no manifest.json of dbt", todo="give the one in dbt's target folder", **where
        ) from error
    return dict(manifest)


def ancestors(unique_id: str, parents: Mapping[str, Collection[str]]) -> set[str]:
    """Ids of everything above a node."""
    found: set[str] = set()
    waiting = [unique_id]
    while waiting:
        new = set(parents.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return found


def rebuild_relations(
    manifest: Mapping[str, Any], adapter: str, *, quoting: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    """The manifest with relations as dbt would write them for the real adapter: another one stood in at parsing.

    dbt's own rule: every part is quoted, on Snowflake none, unless a model's or the project's ``quoting`` says so.

    :param quoting: of dbt_project.yml. The one in the manifest is mixed with the stand-in's.
    """
    from sqlglot import exp

    usual = dict.fromkeys(("database", "schema", "identifier"), adapter != "snowflake")
    usual |= {part: said for part, said in (quoting or {}).items() if part in usual}

    def rebuilt(node: Mapping[str, Any]) -> Mapping[str, Any]:
        own = node.get("quoting") or (node.get("config") or {}).get("quoting") or {}
        quoted = usual | {k: v for k, v in own.items() if v is not None}
        values = {**node, "identifier": node.get("identifier") or node.get("alias")}
        parts = [exp.to_identifier(values[part], quoted=quoted[part]) for part in usual if values.get(part)]
        return {**node, "relation_name": ".".join(part.sql(dialect=adapter) for part in parts)}

    def all_of(kind: str) -> dict[str, Any]:
        return {k: rebuilt(v) if v.get("relation_name") else v for k, v in (manifest.get(kind) or {}).items()}

    metadata = {**manifest["metadata"], "adapter_type": adapter}
    return {**manifest, "metadata": metadata, "nodes": all_of("nodes"), "sources": all_of("sources")}


def parents_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids of what a node refers to."""
    return tuple((node.get("depends_on") or {}).get("nodes") or ())


def tests_by_model(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """Model's id → ids of its enabled tests; one that is attached to no model counts for all that it reads."""
    found: dict[str, set[str]] = {}
    for unique_id, node in manifest["nodes"].items():
        if node["resource_type"] == "test" and node["config"].get("enabled", True):
            for model in [node["attached_node"]] if node.get("attached_node") else parents_of(node):
                found.setdefault(model, set()).add(unique_id)
    return found


def _owners(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {group["name"]: _person(group.get("owner")) for group in (manifest.get("groups") or {}).values()}


def _person(owner: object) -> str:
    if not isinstance(owner, Mapping):
        return str(owner or "")
    values = (owner.get(key) or "" for key in ("name", "email"))
    name, email = (", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
    return f"{name} <{email}>" if name and email else name or email


def _source(node: Mapping[str, Any], unknown_database: str | None) -> Source:
    freshness = (node.get("config") or {}).get("freshness") or node.get("freshness") or {}
    ages = {name: freshness.get(name) or {} for name in ("warn_after", "error_after")}
    limits = {name: f"{age['count']} {age['period']}" if age.get("count") else None for name, age in ages.items()}
    relation = node.get("relation_name") or None
    if relation and node.get("database") == unknown_database:
        relation = _short(relation, unknown_database)
    return Source(
        unique_id=node["unique_id"],
        name=f"{node.get('source_name', '')}.{node['name']}",
        relation=relation,
        description=(node.get("description") or "").strip(),
        loaded_at_field=node.get("loaded_at_field"),
        **limits,
    )


def _short(relation: str, database: str | None) -> str:
    """A relation without its database."""
    return re.sub(rf"^.?{re.escape(database or '')}.?\.", "", relation)


def infer_primary_key(node: Mapping[str, Any], tests: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The key in dbt's own order of inference, for manifests of engines that do not write ``primary_key``.

    Constraint on the model; on a column; columns with unique and not_null tests; with an enabled unique test (or
    unique_combination_of_columns); with a disabled one. Source: ``ModelNode.infer_primary_key`` in dbt-core 1.9.
    """
    for constraint in node.get("constraints") or []:
        if constraint["type"] == "primary_key":
            return tuple(constraint["columns"])
    for name, column in node["columns"].items():
        if any(constraint["type"] == "primary_key" for constraint in column.get("constraints") or []):
            return (name,)
    enabled: set[str] = set()
    disabled: set[str] = set()
    not_null: set[str] = set()
    for test in tests:
        columns = _tested_columns(test["test_metadata"]["kwargs"])
        name = test["test_metadata"]["name"]
        if name in ("unique", "unique_combination_of_columns"):
            (enabled if test["config"].get("enabled", True) else disabled).update(columns)
        elif name == "not_null":
            not_null.update(columns)
    declared = {name: n for n, name in enumerate(node["columns"])}
    key = not_null & (enabled | disabled) or enabled or disabled
    return tuple(sorted(key, key=lambda name: (declared.get(name, len(declared)), name)))


def _tested_columns(kwargs: Mapping[str, Any]) -> list[str]:
    if isinstance(kwargs.get("column_name"), str):
        return [kwargs["column_name"]]
    combination = kwargs.get("combination_of_columns")
    return [name for name in combination if isinstance(name, str)] if isinstance(combination, list) else []


def _tests_by_model(manifest: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    disabled = (node for nodes in (manifest.get("disabled") or {}).values() for node in nodes)
    tests: dict[str, list[Mapping[str, Any]]] = {}
    for node in [*manifest["nodes"].values(), *disabled]:
        if node.get("test_metadata") and node.get("attached_node"):
            tests.setdefault(node["attached_node"], []).append(node)
    return tests


def _model(node: Mapping[str, Any], tests: Iterable[Mapping[str, Any]], *, fusion: bool) -> Model:
    config = node["config"]
    tags, meta = _tags_and_meta(node)
    inherited = (tags, meta) if fusion else ((), {})
    version, latest = node.get("version"), node.get("latest_version")
    return Model(
        unique_id=node["unique_id"],
        name=node["name"],
        package=node["package_name"],
        version=None if version is None else str(version),
        latest=version == latest,
        relation=node.get("relation_name") or None,
        database=node.get("database") or None,
        schema=node["schema"],
        alias=node.get("alias") or node["name"],
        materialized=config["materialized"],
        access=config.get("access") or node.get("access") or "protected",
        description=(node.get("description") or "").strip(),
        columns=tuple(_column(column, *inherited) for column in node["columns"].values()),
        primary_key=tuple(node.get("primary_key") or infer_primary_key(node, tests)),
        tags=tags,
        meta=meta,
        path=node["original_file_path"],
        depends_on=tuple(sorted(parents_of(node))),
        checksum=hashlib.sha256(
            (node.get("raw_code") or "").strip().encode()
        ).hexdigest(),  # dbt's own varies by version
        tests=_key_tests(tests),
        contract=bool((node.get("contract") or config.get("contract") or {}).get("enforced")),
        constraints=_constraints(node),
        deprecation_date=(node.get("deprecation_date") or "")[:10] or None,
    )


def _key_tests(tests: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    found = set()
    for test in tests:
        name = test["test_metadata"]["name"].removesuffix("_combination_of_columns")
        columns = _tested_columns(test["test_metadata"]["kwargs"])
        if name in ("unique", "not_null") and columns and test["config"].get("enabled", True):
            found.add(f"{name}({', '.join(columns)})")
    return tuple(sorted(found))


def _constraints(node: Mapping[str, Any]) -> tuple[str, ...]:
    """By type and columns only: engines differ in what else they write."""
    own = [(c["type"], c.get("columns") or ()) for c in node.get("constraints") or ()]
    own += [(c["type"], (n,)) for n, column in node["columns"].items() for c in column.get("constraints") or ()]
    return tuple(sorted({f"{kind}({', '.join(columns)})" for kind, columns in own}))


def _without_database(model: Model, database: str | None) -> Model:
    if not database or model.database != database:
        return model
    return replace(model, database=None, relation=model.relation and _short(model.relation, database))


def _column(column: Mapping[str, Any], model_tags: tuple[str, ...], model_meta: Mapping[str, Any]) -> CatalogColumn:
    """Fusion writes the model's tags and meta into every column: what a column merely inherits is left out."""
    tags, meta = _tags_and_meta(column)
    return CatalogColumn(
        name=column["name"],
        data_type=column.get("data_type") or "",
        description=(column.get("description") or "").strip(),
        tags=tuple(tag for tag in tags if tag not in model_tags) if model_tags else tags,
        meta={k: v for k, v in meta.items() if k not in model_meta or model_meta[k] != v} if model_meta else meta,
    )


def _tags_and_meta(node: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    config = node.get("config") or {}
    both = [some for some in (node.get("tags"), config.get("tags")) if some]
    if not both and not node.get("meta") and not config.get("meta"):
        return (), {}  # most columns; there are many
    tags = {tag for some in both for tag in ([some] if isinstance(some, str) else some)}
    return tuple(sorted(tags)), {**(node.get("meta") or {}), **(config.get("meta") or {})}
