"""The files of seeds: their content, columns and types, which no manifest has."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from airflow_reverse_etl.spec.columns import Column

_KINDS = (
    ("boolean", r"(?i)true|false"),
    ("number", r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    ("date", r"\d{4}-\d\d-\d\d"),
    ("timestamp", r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d.*"),
)


@dataclass(frozen=True, slots=True)
class Seed:
    """The content of a seed's file.

    :param digest: hash of the content.
    :param columns: names in its header, with the family of types that dbt infers from the values.
    """

    digest: str
    columns: tuple[Column, ...]


def seed_of(data: bytes, *, delimiter: str = ",") -> Seed:
    """Read the content of a seed's file."""
    rows = csv.reader(StringIO(data.decode("utf-8-sig", errors="replace")), delimiter=delimiter or ",")
    header = next(rows, [])
    values = list(zip(*(row for row in rows if len(row) == len(header)), strict=True))
    columns: list[Column] = []
    for position, name in enumerate(header):
        kind = _kind(values[position]) if values else ""
        columns.append(Column(name.strip(), kind))
    return Seed(hashlib.sha256(data).hexdigest(), tuple(columns))


def _kind(values: Iterable[str]) -> str:
    """Return the family of types that all values of a column have, an empty text if all are empty."""
    given = {value.strip() for value in values} - {"", "null", "NULL"}
    if not given:
        return ""
    for kind, form in _KINDS:
        if all(re.fullmatch(form, value) for value in given):
            return kind
    return "text"


def read_seeds(manifest: Mapping[str, Any], project: Path, *, packages: str, trusted: bool) -> dict[str, Seed]:
    """Read the files of a manifest's seeds, as far as they are those that the manifest describes.

    :param project: folder of dbt_project.yml.
    :param packages: name of the folder of installed packages in it.
    :param trusted: the manifest was made from these very files. If not, a file must have the manifest's checksum.
    :returns: content by the seed's id.
    """
    found: dict[str, Seed] = {}
    for unique_id, node in manifest["nodes"].items():
        if node["resource_type"] != "seed":
            continue
        root = project
        if node["package_name"] != manifest["metadata"]["project_name"]:
            root = project / packages / node["package_name"]
        try:
            data = (root / node["original_file_path"]).read_bytes()
        except OSError:
            continue
        if trusted or _has_checksum(data, node.get("checksum") or {}):
            found[unique_id] = seed_of(data, delimiter=(node.get("config") or {}).get("delimiter") or ",")
    return found


def _has_checksum(data: bytes, checksum: Mapping[str, str]) -> bool:
    # dbt hashes the text, in some versions without white space around it.
    texts = (data, data.strip())
    hashes = {hashlib.sha256(text).hexdigest() for text in texts}
    return checksum.get("checksum") in hashes
