"""Builders of small manifests in dbt's form."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.spec.folders.reading import SyncSource
from airflow_reverse_etl.spec.model import Sync

Node = dict[str, Any]


def model(
    name: str,
    sql: str = "select 1 as id",
    *,
    parents: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    contract: bool = False,
    constraints: Mapping[str, Sequence[str]] | None = None,
    schema: str = "main",
    materialized: str = "table",
    version: int | None = None,
    latest: int | None = None,
    compiled: str | None = None,
    macros: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
    alias: str | None = None,
    package: str = "shop",
    **more: Any,
) -> Node:
    """Return a model's node.

    :param parents: full ids, or names of models of this project.
    """
    unique_id = f"model.{package}.{name}" + (f".v{version}" if version else "")
    alias = alias or (f"{name}_v{version}" if version else name)
    relation = None if materialized == "ephemeral" else f'"db"."{schema}"."{alias}"'
    rules = constraints or {}
    declared = {}
    for column, data_type in (columns or {}).items():
        kinds = [{"type": kind} for kind in rules.get(column, ())]
        declared[column] = {"name": column, "data_type": data_type, "constraints": kinds}
    return {
        "unique_id": unique_id,
        "resource_type": "model",
        "name": name,
        "package_name": package,
        "version": version,
        "latest_version": latest or version,
        "relation_name": relation,
        "database": "db",
        "schema": schema,
        "alias": alias,
        "config": {"materialized": materialized, "meta": dict(meta or {}), "tags": []},
        "contract": {"enforced": contract},
        "access": "protected",
        "description": "",
        "columns": declared,
        "constraints": [],
        "tags": [],
        "meta": {},
        "original_file_path": f"models/{name}.sql",
        "raw_code": sql,
        "compiled_code": compiled,
        "checksum": {"name": "sha256", "checksum": hashlib.sha256(sql.encode()).hexdigest()},
        "depends_on": {
            "nodes": [parent if "." in parent else f"model.shop.{parent}" for parent in parents],
            "macros": list(macros),
        },
        "language": "sql",
        **more,
    }


def seed(name: str, *, checksum: str = "x", kind: str = "sha256", **more: Any) -> Node:
    """Return a seed's node. dbt writes the path of a file over 1 MiB as its checksum, of kind ``path``."""
    value = checksum if kind == "sha256" else f"seeds/{name}.csv"
    return {
        **model(name, "", materialized="seed", **more),
        "unique_id": f"seed.shop.{name}",
        "resource_type": "seed",
        "checksum": {"name": kind, "checksum": value},
        "original_file_path": f"seeds/{name}.csv",
    }


def snapshot(name: str, sql: str, *, parents: Sequence[str] = (), **config: Any) -> Node:
    node = model(name, sql, parents=parents, materialized="snapshot")
    return {
        **node,
        "unique_id": f"snapshot.shop.{name}",
        "resource_type": "snapshot",
        "config": {**node["config"], "unique_key": "id", **config},
        "original_file_path": f"snapshots/{name}.sql",
    }


def data_test(kind: str, on: str, column: str, **config: Any) -> Node:
    return {
        "unique_id": f"test.shop.{kind}_{on}_{column}",
        "resource_type": "test",
        "name": f"{kind}_{on}_{column}",
        "attached_node": f"model.shop.{on}",
        "column_name": column,
        "test_metadata": {"name": kind, "kwargs": {"column_name": column}, "namespace": None},
        "config": {"enabled": True, "materialized": "test", **config},
        "columns": {},
    }


def keyed(on: str, column: str = "id") -> list[Node]:
    return [data_test("unique", on, column), data_test("not_null", on, column)]


def source(name: str, columns: Mapping[str, str] | None = None, **more: Any) -> Node:
    return {
        "unique_id": f"source.shop.raw.{name}",
        "resource_type": "source",
        "name": name,
        "identifier": name,
        "package_name": "shop",
        "relation_name": f'"db"."raw"."{name}"',
        "columns": {n: {"name": n, "data_type": t} for n, t in (columns or {}).items()},
        **more,
    }


def manifest(
    *nodes: Node,
    adapter: str = "duckdb",
    disabled: Sequence[str] = (),
    macros: Mapping[str, str] | None = None,
    invocation: str = "",
) -> dict[str, Any]:
    return {
        "metadata": {
            "dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json",
            "dbt_version": "1.11.16",
            "project_name": "shop",
            "adapter_type": adapter,
            "invocation_id": invocation,
        },
        "nodes": {node["unique_id"]: node for node in nodes if node["resource_type"] != "source"},
        "sources": {node["unique_id"]: node for node in nodes if node["resource_type"] == "source"},
        "macros": {n: {"macro_sql": sql, "depends_on": {"macros": []}} for n, sql in (macros or {}).items()},
        "disabled": {name: [] for name in disabled},
    }


def side(*nodes: Node, **more: Any) -> ProjectVersion:
    return ProjectVersion(manifest(*nodes, **more))


def sync(**more: Any) -> SyncSource:
    values = {
        "name": "customers_to_crm",
        "model": "customers",
        "source": "warehouse",
        "destination": {"type": "http"},
        "mapping": {"email": "email"},
        **more,
    }
    return SyncSource(Sync.load(values), "syncs/customers.yaml", {("model",): 2, ("mapping", "email"): 6, (): 1})
