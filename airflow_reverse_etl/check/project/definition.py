"""The definition of a node: all that decides its columns and rows, apart from its parents.

Two versions of a node with equal definitions, and equal ones upstream, have equal columns and rows. A part that cannot
be known differs from everything, itself in the other version included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.check.project.sql_text import significant

if TYPE_CHECKING:
    from airflow_reverse_etl.check.project.version import ProjectVersion

#: Parts of a definition that the node's statement does not show, and what a finding calls them.
CONFIGURATION = "configuration"
BUILD = "hooks, or macros that replace dbt's own"
FILE = "file"
TABLE = "table"

# Configuration that changes neither columns nor rows, or that another rule compares.
_HARMLESS = frozenset(
    (
        # What other rules compare: place, contract, access.
        *("access", "alias", "contract", "database", "dataset", "enabled", "project", "quoting", "schema"),
        *("target_database", "target_schema"),
        # Documentation and governance.
        *("description", "docs", "freshness", "group", "labels", "latest_version_pointer", "meta", "packages"),
        *("persist_docs", "policy_tags", "static_analysis", "tags"),
        # Rights.
        *("copy_grants", "grant_access_to", "grants", "secure"),
        # How a table is stored, and how fast it is built.
        *("auto_refresh", "automatic_clustering", "backup", "bind", "cluster_by", "concurrent_batches", "dist"),
        *("file_format", "hours_to_expiration", "indexes", "kms_key_name", "location_root", "on_configuration_change"),
        *("query_tag", "snowflake_warehouse", "sort", "sort_type", "tblproperties", "transient", "unlogged"),
    )
)
_DEFAULTS = {"on_schema_change": "ignore", "delimiter": ",", "lookback": 1}
_HOOKS = ("pre-hook", "post-hook", "pre_hook", "post_hook")
_PLAIN = ("view", "table", "ephemeral", "seed", "snapshot")


def definition(project: ProjectVersion, unique_id: str) -> dict[str, str]:
    """Return the parts of a node's definition by their names."""
    node = project.nodes[unique_id]
    parts = dict(_sql_parts(project, unique_id, node))
    config = node.get("config") or {}
    parts[CONFIGURATION] = _configuration(config)
    if node["resource_type"] in ("model", "seed", "snapshot"):
        hooks = json.dumps([config.get(name) for name in _HOOKS if config.get(name)], sort_keys=True)
        macros = project.macros.named_in([hooks]) if len(hooks) > 2 else {}
        parts[BUILD] = "\n".join([hooks, *macros.values(), project.build_of_all])
    if node["resource_type"] == "seed":
        parts[FILE] = _seed_file(project, unique_id, node)
    if node["resource_type"] == "source":
        parts[TABLE] = _source_table(project, node)
        parts["columns"] = repr(project.warehouse_columns(unique_id))
    if (node.get("contract") or {}).get("enforced"):
        declared = (node.get("columns") or {}).values()
        parts["columns"] = "\n".join(f"{column['name']} {column.get('data_type')}" for column in declared)
    return parts


def _sql_parts(project: ProjectVersion, unique_id: str, node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    raw = node.get("raw_code") or ""
    compiled = project.compiled(unique_id)
    if compiled is not None:
        yield "compiled", significant(compiled)
    macros = project.macros.named_in([raw])
    texts = [raw, *macros.values()]
    # Macros and variables are part of compiled SQL, which has only one of the branches of is_incremental().
    if compiled is None or any("is_incremental" in text for text in texts):
        yield "SQL", significant(raw)
        yield "macros", "\n".join(macros.values())
        if any(re.search(r"\bvar\b", text) for text in texts):
            yield "variables", project.variables


def _configuration(config: Mapping[str, Any]) -> str:
    """Return the configuration that may change rows, without values that are dbt's defaults."""
    kept: dict[str, Any] = {}
    for name, value in config.items():
        is_default = value is None or value is False or value in ("", [], {}) or _DEFAULTS.get(name) == value
        if name in _HARMLESS or name in _HOOKS or is_default:
            continue
        if name == "materialized" and value in _PLAIN:
            continue
        kept[name] = value
    return json.dumps(kept, sort_keys=True, default=str)


def _seed_file(project: ProjectVersion, unique_id: str, node: Mapping[str, Any]) -> str:
    checksum = node.get("checksum") or {}
    if checksum.get("name") != "path":
        return str(checksum.get("checksum"))
    # dbt does not hash files over 1 MiB: their checksum is their path.
    known = project.seeds.get(unique_id)
    return known.digest if known else project.unknown(unique_id)


def _source_table(project: ProjectVersion, node: Mapping[str, Any]) -> str:
    relation = node.get("relation_name") or node["name"]
    parts = project.relation(relation)
    place = parts[-1:] if project.other_target else parts
    return json.dumps([place, node.get("external")], sort_keys=True, default=str)
