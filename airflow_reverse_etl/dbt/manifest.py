"""Reader of a dbt project's manifest.json, which reduces it to a catalog.

Reads manifest versions 10 to 12, which dbt 1.6 and later and Fusion write. The catalog does not depend on the engine
that wrote the manifest. Only JSON is read; dbt is never imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from airflow_reverse_etl.dbt.catalog import Catalog, CatalogColumn, Model, Source
from airflow_reverse_etl.errors import ProjectError

MANIFEST_VERSIONS = (10, 11, 12)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Raise what a damaged manifest makes its reader say as a ProjectError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ProjectError(
            f"the manifest.json is damaged: {type(error).__name__}",
            todo="let dbt parse the project again, and use the manifest.json in its target folder",
        ) from error


@_readable()
def read_manifest(
    manifest: Mapping[str, Any], *, commit: str | None = None, unknown_database: str | None = None
) -> Catalog:
    """Return the catalog of a manifest.

    :param commit: commit that the manifest was made from.
    :param unknown_database: placeholder to remove from relations, because the reader's connection names the database.
    :raises ProjectError: the manifest's version is not supported, or the manifest is damaged.
    """
    metadata = manifest.get("metadata", {})
    version = re.search(r"/manifest/v(\d+)\.json", str(metadata.get("dbt_schema_version", "")))
    if not version or int(version[1]) not in MANIFEST_VERSIONS:
        supported = [f"v{number}" for number in MANIFEST_VERSIONS]
        raise ProjectError(
            f"the manifest's version is not supported: {metadata.get('dbt_schema_version')}",
            todo=f"use dbt 1.6 or newer, or Fusion, which write the manifest versions {', '.join(supported)}",
        )
    fusion = str(metadata.get("dbt_version", "")).startswith("2.")
    key_tests = _key_tests_by_model(manifest)
    data_tests = tests_by_model(manifest)
    owners = _owners(manifest)
    parents = {unique_id: parents_of(node) for unique_id, node in manifest["nodes"].items()}
    models = []
    for unique_id, node in sorted(manifest["nodes"].items()):
        if node["resource_type"] != "model":
            continue
        model = _model(node, key_tests.get(unique_id, []), fusion=fusion)
        group = node.get("group") or node["config"].get("group") or ""
        upstream_sources = [parent for parent in ancestors(unique_id, parents) if parent.startswith("source.")]
        test_names = [manifest["nodes"][test]["name"] for test in data_tests.get(unique_id, ())]
        model = replace(
            model,
            owner=owners.get(group) or _person(model.meta.get("owner")),
            data_tests=tuple(sorted(test_names)),
            sources=tuple(sorted(upstream_sources)),
        )
        models.append(_without_database(model, unknown_database))
    declared_sources = sorted((manifest.get("sources") or {}).items())
    sources = tuple(_source(source, unknown_database) for _, source in declared_sources)
    return Catalog(metadata["project_name"], commit, metadata["adapter_type"], tuple(models), sources)


@_readable()
def read_tables(manifest: Mapping[str, Any]) -> dict[str, Model]:
    """Return a manifest's seeds and snapshots by id. A sync cannot name them, and may read their tables."""
    tests = _key_tests_by_model(manifest)
    found: dict[str, Model] = {}
    for unique_id, node in manifest["nodes"].items():
        if node["resource_type"] in ("seed", "snapshot"):
            config = {"materialized": node["resource_type"], **node["config"]}
            found[unique_id] = _model({**node, "config": config}, tests.get(unique_id, []), fusion=False)
    return found


def load(data: bytes, **where: object) -> dict[str, Any]:
    """Parse the content of a manifest.json.

    :raises ProjectError: the content is not a dbt manifest.
    """
    try:
        manifest = json.loads(data)
        manifest["nodes"], manifest["metadata"]["project_name"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ProjectError(
            "not a dbt manifest.json", todo="use the manifest.json in dbt's target folder", **where
        ) from error
    return dict(manifest)


def ancestors(unique_id: str, parents: Mapping[str, Collection[str]]) -> set[str]:
    """Return the ids of all nodes and sources upstream of a node."""
    found: set[str] = set()
    pending = [unique_id]
    while pending:
        new = set(parents.get(pending.pop(), ())) - found
        found |= new
        pending += new
    return found


@_readable()
def rebuild_relations(
    manifest: Mapping[str, Any], adapter: str, *, quoting: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    """Rewrite the relations of a manifest as dbt writes them for the real adapter, after another adapter parsed it.

    By dbt's own rule every part is quoted, and none on Snowflake, unless ``quoting`` of a model or the project differs.

    :param adapter: the real adapter.
    :param quoting: ``quoting`` of dbt_project.yml. The manifest's own is mixed with the defaults of the other adapter.
    """
    from sqlglot import exp

    defaults = dict.fromkeys(("database", "schema", "identifier"), adapter != "snowflake")
    defaults |= {part: value for part, value in (quoting or {}).items() if part in defaults}

    def rebuild(node: Mapping[str, Any]) -> Mapping[str, Any]:
        if not node.get("relation_name"):
            return node
        config = node.get("config") or {}
        own = node.get("quoting") or config.get("quoting") or {}
        quoted = defaults | {part: value for part, value in own.items() if value is not None}
        # A source has an identifier, a model has an alias.
        names = {**node, "identifier": node.get("identifier") or node.get("alias")}
        parts: list[str] = []
        for part in defaults:
            if names.get(part):
                identifier = exp.to_identifier(names[part], quoted=quoted[part])
                parts.append(identifier.sql(dialect=adapter))
        return {**node, "relation_name": ".".join(parts)}

    rebuilt = dict(manifest)
    rebuilt["metadata"] = {**manifest["metadata"], "adapter_type": adapter}
    for kind in ("nodes", "sources"):
        entries = manifest.get(kind) or {}
        rebuilt[kind] = {unique_id: rebuild(node) for unique_id, node in entries.items()}
    return rebuilt


def parents_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of the nodes and sources that a node refers to."""
    return tuple((node.get("depends_on") or {}).get("nodes") or ())


def tests_by_model(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the ids of each model's enabled tests. A test without an attached model counts for each model it reads."""
    found: dict[str, set[str]] = {}
    for unique_id, node in manifest["nodes"].items():
        if node["resource_type"] != "test" or not node["config"].get("enabled", True):
            continue
        attached = node.get("attached_node")
        tested = [attached] if attached else parents_of(node)
        for model in tested:
            found.setdefault(model, set()).add(unique_id)
    return found


def _owners(manifest: Mapping[str, Any]) -> dict[str, str]:
    groups = (manifest.get("groups") or {}).values()
    return {group["name"]: _person(group.get("owner")) for group in groups}


def _person(owner: object) -> str:
    if not isinstance(owner, Mapping):
        return str(owner or "")
    name = _joined(owner.get("name") or "")
    email = _joined(owner.get("email") or "")
    return f"{name} <{email}>" if name and email else name or email


def _joined(value: object) -> str:
    """Return a text, or a list's texts with commas between: dbt allows several e-mail addresses."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _source(node: Mapping[str, Any], unknown_database: str | None) -> Source:
    freshness = (node.get("config") or {}).get("freshness") or node.get("freshness") or {}
    limits = {}
    for name in ("warn_after", "error_after"):
        age = freshness.get(name) or {}
        limits[name] = f"{age['count']} {age['period']}" if age.get("count") else None
    relation = node.get("relation_name") or None
    if relation and node.get("database") == unknown_database:
        relation = _without_prefix(relation, unknown_database)
    return Source(
        unique_id=node["unique_id"],
        name=f"{node.get('source_name', '')}.{node['name']}",
        relation=relation,
        description=(node.get("description") or "").strip(),
        loaded_at_field=node.get("loaded_at_field"),
        **limits,
    )


def _without_prefix(relation: str, database: str | None) -> str:
    """Remove the database from a relation."""
    return re.sub(rf"^.?{re.escape(database or '')}.?\.", "", relation)


def infer_primary_key(node: Mapping[str, Any], tests: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Infer the primary key as dbt does, for manifests of engines that do not write ``primary_key``.

    The first of these that exists: a constraint on the model; one on a column; columns with unique and not_null tests;
    with an enabled unique test (or unique_combination_of_columns); with a disabled unique test. Source:
    ``ModelNode.infer_primary_key`` in dbt-core 1.9.
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
            unique = enabled if test["config"].get("enabled", True) else disabled
            unique.update(columns)
        elif name == "not_null":
            not_null.update(columns)
    key = not_null & (enabled | disabled) or enabled or disabled
    # In the order of the declared columns, then columns that are not declared, by name.
    positions = {name: position for position, name in enumerate(node["columns"])}
    return tuple(sorted(key, key=lambda name: (positions.get(name, len(positions)), name)))


def _tested_columns(kwargs: Mapping[str, Any]) -> list[str]:
    if isinstance(kwargs.get("column_name"), str):
        return [kwargs["column_name"]]
    combination = kwargs.get("combination_of_columns")
    if not isinstance(combination, list):
        return []
    return [name for name in combination if isinstance(name, str)]


def _key_tests_by_model(manifest: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the generic tests attached to each model, disabled ones included."""
    nodes = list(manifest["nodes"].values())
    # Several disabled nodes may share an id.
    for same_id in (manifest.get("disabled") or {}).values():
        nodes += same_id
    tests: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes:
        model = node.get("attached_node")
        if model and node.get("test_metadata"):
            tests.setdefault(model, []).append(node)
    return tests


def _model(node: Mapping[str, Any], tests: Iterable[Mapping[str, Any]], *, fusion: bool) -> Model:
    config = node["config"]
    tags, meta = tags_and_meta(node)
    inherited = (tags, meta) if fusion else ((), {})
    version = node.get("version")
    # dbt's own checksum differs between its versions.
    code = (node.get("raw_code") or "").strip()
    contract = node.get("contract") or config.get("contract") or {}
    return Model(
        unique_id=node["unique_id"],
        name=node["name"],
        package=node["package_name"],
        version=None if version is None else str(version),
        latest=version == node.get("latest_version"),
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
        checksum=hashlib.sha256(code.encode()).hexdigest(),
        tests=_key_tests(tests),
        contract=bool(contract.get("enforced")),
        constraints=_constraints(node),
        deprecation_date=(node.get("deprecation_date") or "")[:10] or None,
    )


def _key_tests(tests: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    found = set()
    for test in tests:
        name = test["test_metadata"]["name"].removesuffix("_combination_of_columns")
        columns = _tested_columns(test["test_metadata"]["kwargs"])
        # A test of some rows only proves nothing about the others.
        applies = test["config"].get("enabled", True) and not test["config"].get("where")
        if name in ("unique", "not_null") and columns and applies:
            found.add(f"{name}({', '.join(columns)})")
    return tuple(sorted(found))


def _constraints(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Return type and columns of each constraint of a model and its columns: engines differ in the other fields."""
    found = set()
    for constraint in node.get("constraints") or ():
        columns = constraint.get("columns") or ()
        found.add(f"{constraint['type']}({', '.join(columns)})")
    for name, column in node["columns"].items():
        for constraint in column.get("constraints") or ():
            found.add(f"{constraint['type']}({name})")
    return tuple(sorted(found))


def _without_database(model: Model, database: str | None) -> Model:
    if not database or model.database != database:
        return model
    return replace(model, database=None, relation=model.relation and _without_prefix(model.relation, database))


def _column(column: Mapping[str, Any], model_tags: tuple[str, ...], model_meta: Mapping[str, Any]) -> CatalogColumn:
    """Return a column without inherited tags and meta: Fusion writes the model's into every column."""
    tags, meta = tags_and_meta(column)
    if model_tags:
        tags = tuple(tag for tag in tags if tag not in model_tags)
    if model_meta:
        meta = {key: value for key, value in meta.items() if key not in model_meta or model_meta[key] != value}
    return CatalogColumn(
        name=column["name"],
        data_type=column.get("data_type") or "",
        description=(column.get("description") or "").strip(),
        tags=tags,
        meta=meta,
    )


def tags_and_meta(node: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the tags and meta of a node or column, those of its ``config`` included."""
    config = node.get("config") or {}
    tagged = [value for value in (node.get("tags"), config.get("tags")) if value]
    if not tagged and not node.get("meta") and not config.get("meta"):
        return (), {}  # a shortcut for most columns, of which there are many
    tags: set[str] = set()
    for value in tagged:
        tags.update([value] if isinstance(value, str) else value)
    return tuple(sorted(tags)), {**(node.get("meta") or {}), **(config.get("meta") or {})}
