"""Loading of a dbt project's version: from a manifest, from a folder, or from a ref of the local Git repository."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.errors import ConfigurationError, ProjectError, RepositoryNotFoundError

_MAX_BYTES = 1 << 30  # the largest known manifests have a few hundred megabytes
_SOURCES = (".sql", ".yml", ".yaml", ".csv", ".py", ".md")
_NOT_SOURCES = ("target", "dbt_packages", "logs", "node_modules", "venv", "__pycache__")


@dataclass(frozen=True, slots=True)
class ProjectLoader:
    """Loader for versions of one project.

    :param project_path: folder of ``dbt_project.yml``, relative to the repository's root.
    :param dbt_executable: dbt, used only if no up-to-date manifest exists.
    :param env: environment variables that dbt needs to parse the project.
    """

    project_path: str = "."
    dbt_executable: str = "dbt"
    target: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def load(self, where: str, *, built: bool = False) -> ProjectVersion:
        """Load the project at a manifest's path, in a folder, or at a ref.

        In a folder, ``target/manifest.json`` is used if it is newer than the project's files; otherwise dbt parses
        the project.

        :param built: a catalog.json next to the manifest describes the deployed tables.
        :raises RepositoryNotFoundError: ``where`` is not a manifest, a folder or a ref.
        :raises ConfigurationError: the manifest cannot be read.
        :raises ProjectError: project not found, or dbt cannot parse it.
        """
        path = Path(where)
        if path.is_file():
            return self._from_manifest(path, where, path.parent.parent, built=built)
        if path.is_dir():
            inside = path / self.project_path
            project = inside if _is_project(inside) and not _is_project(path) else path
            for manifest in (project / "target" / "manifest.json", project / "manifest.json"):
                if manifest.is_file() and not _is_outdated(manifest, project):
                    return self._from_manifest(manifest, where, project, built=built)
            return self._parse(project, where)
        return self._from_ref(where)

    def _from_manifest(self, path: Path, label: str, project: Path, *, built: bool) -> ProjectVersion:
        catalog_path = path.with_name("catalog.json")
        catalog_file = _read_artifact(catalog_path) if catalog_path.is_file() else None
        return self._version(_read_artifact(path), label, project, catalog_file=catalog_file, built=built)

    def _from_ref(self, ref: str) -> ProjectVersion:
        commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        if commit is None:
            raise RepositoryNotFoundError(
                f"{ref!r} is not a manifest, a folder or a ref of the local Git repository",
                todo="pass a path, or fetch the ref first: by default CI systems fetch a single commit "
                "(fetch-depth: 0, GIT_DEPTH: 0, clone: depth: full)",
            )
        archived = _git("archive", "--format=tar", commit.decode().strip(), "--", self.project_path, top=True)
        if archived is None:
            raise ProjectError(
                f"{ref} has no folder {self.project_path!r}", todo="pass the project's folder as --project-path"
            )
        with tempfile.TemporaryDirectory(prefix="reverse_etl-ref-") as folder:
            with tarfile.open(fileobj=BytesIO(archived)) as archive:
                archive.extractall(folder, filter=_no_links)  # noqa: S202 - the filter is data_filter, and stricter
            return self._parse(Path(folder) / self.project_path, ref)

    def _parse(self, project: Path, label: str) -> ProjectVersion:
        from airflow_reverse_etl.dbt.profiles import placeholder_profile
        from airflow_reverse_etl.dbt.runner import DbtProject, installed_adapter

        if not _is_project(project):
            raise ProjectError(
                f"{label} has no manifest and no dbt_project.yml",
                todo="pass the project's folder as --project-path, relative to the repository's root",
                path=self.project_path,
            )
        has_profile = (project / "profiles.yml").is_file()
        profile = None if has_profile else placeholder_profile(installed_adapter(self.dbt_executable))
        dbt = DbtProject(project.absolute(), self.dbt_executable, profile=profile, target=self.target, env=self.env)
        dbt.install_packages()
        return self._version(dbt.parse(), label, project)

    def _version(self, manifest: Mapping[str, Any], label: str, project: Path, **more: Any) -> ProjectVersion:
        return ProjectVersion(manifest, label=label, folder=self.project_path, variables=_variables(project), **more)


def _is_outdated(manifest: Path, project: Path) -> bool:
    """Return True if a source file of the project was written after its manifest."""
    written = manifest.stat().st_mtime
    for folder, folders, files in os.walk(project):
        folders[:] = [name for name in folders if name not in _NOT_SOURCES and not name.startswith(".")]
        for name in files:
            if name.endswith(_SOURCES) and (Path(folder) / name).stat().st_mtime > written:
                return True
    return False


def _no_links(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Skip links and reject paths outside the folder: the repository's contents are untrusted."""
    return None if member.issym() or member.islnk() else tarfile.data_filter(member, folder)


def _is_project(folder: Path) -> bool:
    return (folder / "dbt_project.yml").is_file()


def _variables(project: Path) -> object:
    """Return ``vars`` of dbt_project.yml, or None if the file cannot be read."""
    import yaml

    try:
        return (yaml.safe_load((project / "dbt_project.yml").read_text()) or {}).get("vars")
    except (OSError, yaml.YAMLError, AttributeError):
        return None


def _read_artifact(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigurationError("file larger than 1 GiB", todo="pass a manifest.json of dbt", file=path)
        artifact = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        todo = "regenerate it with dbt"
        raise ConfigurationError(f"{path.name} cannot be read: {error}", todo=todo, file=path) from None
    if not isinstance(artifact, dict) or not ("nodes" in artifact and "metadata" in artifact):
        raise ConfigurationError("not a dbt artifact", todo="pass a manifest.json", file=path)
    return artifact


def _git(*arguments: str, top: bool = False) -> bytes | None:
    """Run git in the current folder and return its output, or None if it fails.

    :param top: run git at the root of the repository instead.
    """
    folder = None
    if top:
        root = _git("rev-parse", "--show-toplevel")
        folder = root.decode().strip() if root else None
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, check=False, cwd=folder)
    except OSError:
        raise ConfigurationError("program git not found", todo="install git, or pass manifests") from None
    return result.stdout if result.returncode == 0 else None
