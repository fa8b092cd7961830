"""Lines of the marks of personal data in a project's YAML files, which a manifest does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from airflow_reverse_etl.dbt.manifest import tags_and_meta
from airflow_reverse_etl.spec.privacy.marks import KEY, declared_marks

#: Column that stands for the node itself.
_WHOLE = "*"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def mark_lines(manifest: Mapping[str, Any], project: Path) -> dict[str, dict[str, int]]:
    """Return the lines of the marks of each node: id → column in lower case, or ``*`` for the node itself → line.

    Only files with marks are read. A mark that a file does not show, such as one of dbt_project.yml, has no line.
    """
    files: dict[str, yaml.Node | None] = {}
    found: dict[str, dict[str, int]] = {}
    for unique_id, node in {**manifest["nodes"], **(manifest.get("sources") or {})}.items():
        marked = [entry["name"] for entry in (node.get("columns") or {}).values() if _is_marked(entry)]
        if not marked and not _is_marked(node):
            continue
        path = str(node.get("patch_path") or node.get("original_file_path") or "").rpartition("://")[2]
        if path not in files:
            files[path] = _composed(project / path)
        entry = _entry(files[path], node)
        if entry is not None:
            found[unique_id] = _lines(entry, marked)
    return found


def _is_marked(entry: Mapping[str, Any]) -> bool:
    return declared_marks(*tags_and_meta(entry)) is not None


def _composed(path: Path) -> yaml.Node | None:
    """Return the YAML of a file; None if it cannot be read."""
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None


def _entry(file: yaml.Node | None, node: Mapping[str, Any]) -> yaml.Node | None:
    """Return the part of a file that has the properties of a node."""
    source = node.get("source_name")
    if source is None:
        return _named(_value(file, f"{node['resource_type']}s"), node["name"])
    return _named(_value(_named(_value(file, "sources"), source), "tables"), node["name"])


def _lines(entry: yaml.Node, columns: list[str]) -> dict[str, int]:
    found = {_WHOLE: _mark_line(entry)}
    for column in columns:
        named = _named(_value(entry, "columns"), column)
        if named is not None:
            found[column.lower()] = _mark_line(named)
    return found


def _mark_line(entry: yaml.Node) -> int:
    """Return the line of the mark in the properties of a node or column, or else the first line of these."""
    for part in (entry, _value(entry, "config")):
        for key, value in _pairs(_value(part, "meta")):
            if key.value == KEY:
                return int(value.start_mark.line) + 1
        tags = _value(part, "tags")
        for tag in (tags, *_items(tags)):
            if isinstance(tag, yaml.ScalarNode) and tag.value.partition(":")[0].strip().lower() == KEY:
                return int(tag.start_mark.line) + 1
    return int(entry.start_mark.line) + 1


def _named(items: yaml.Node | None, name: str) -> yaml.Node | None:
    """Return the item of a list whose ``name`` is the one that is looked for."""
    for item in _items(items):
        found = _value(item, "name")
        if isinstance(found, yaml.ScalarNode) and found.value.lower() == name.lower():
            return item
    return None


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    return next((value for name, value in _pairs(node) if name.value == key), None)


def _pairs(node: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from node.value


def _items(node: yaml.Node | None) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
