"""The proof that a manifest was made from exactly the files of its project, by their set and their content.

Times prove nothing: a checkout changes them, and moving or deleting a file leaves them. dbt writes a hash of each
file that it has read into ``partial_parse.msgpack``, next to the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from airflow_reverse_etl.dbt.runner import packages_folder, project_settings
from airflow_reverse_etl.errors import ProjectError

#: What dbt reads in the folders of a project.
_SOURCES = (".sql", ".yml", ".yaml", ".csv", ".py", ".md")
_FOLDERS = ("model", "seed", "snapshot", "macro", "test", "analysis", "docs", "function")
_DEFAULTS = {"analysis": ("analyses",), "docs": ()}


def is_current(manifest: Path, project: Path) -> bool:
    """Return True if dbt made a manifest from exactly the files of a project and of its installed packages.

    False also means that nothing proves it, because dbt's own file of hashes is missing or belongs to another manifest.
    """
    try:
        parsed = _parsed_files(manifest)
        packages = packages_folder(project)
    except (OSError, ValueError, KeyError, TypeError, ProjectError):
        return False
    roots = {str(project_settings(project)["name"]): project}
    for name in parsed["state_check"]["project_hashes"]:
        if (packages / name).is_dir():
            roots[name] = packages / name
    if packages.is_dir() and len(roots) != 1 + sum(entry.is_dir() for entry in packages.iterdir()):
        return False
    return all(_is_same(name, root, parsed) for name, root in roots.items())


def _parsed_files(manifest: Path) -> Mapping[str, Any]:
    """Return what dbt knew of its files when it wrote the manifest.

    :raises OSError, ValueError, KeyError: it is not known.
    """
    import msgspec

    try:
        parsed: dict[str, Any] = msgspec.msgpack.decode(manifest.with_name("partial_parse.msgpack").read_bytes())
    except msgspec.DecodeError as error:
        raise ValueError("not dbt's file") from error
    made_by = json.loads(manifest.read_bytes())["metadata"]["invocation_id"]
    if parsed["metadata"]["invocation_id"] != made_by:
        raise ValueError("another run of dbt wrote it")
    return parsed


def _is_same(name: str, root: Path, parsed: Mapping[str, Any]) -> bool:
    """Return True if the files of one package are those that dbt has read."""
    hashes = {"dbt_project.yml": parsed["state_check"]["project_hashes"].get(name) or {}}
    for file in parsed["files"].values():
        if file["project_name"] == name:
            path = Path(file["path"]["searched_path"]) / file["path"]["relative_path"]
            hashes[path.as_posix()] = file["checksum"]
    if set(_source_files(root)) - set(hashes):
        return False
    return all(_has_hash(root / path, checksum) for path, checksum in hashes.items())


def _source_files(root: Path) -> Iterator[str]:
    """Yield the path of every file that dbt would read in a package, relative to its folder."""
    settings = project_settings(root)
    for kind in _FOLDERS:
        for folder in settings.get(f"{kind}-paths") or _DEFAULTS.get(kind, (f"{kind}s",)):
            for path in (root / folder).rglob("*"):
                if path.suffix in _SOURCES and path.is_file():
                    yield path.relative_to(root).as_posix()


def _has_hash(path: Path, checksum: Mapping[str, str]) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return False
    # dbt does not hash files over 1 MiB; the content of a seed is compared anyway.
    if checksum.get("name") == "path":
        return True
    # dbt hashes the text of most files without the white space around it.
    return checksum.get("checksum") in {hashlib.sha256(text).hexdigest() for text in (data, data.strip())}
