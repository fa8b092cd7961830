"""A version of a dbt project for a check: from a manifest, from a folder, or from a ref of the local Git repository."""

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

from airflow_reverse_etl.check.project_version import ProjectVersion
from airflow_reverse_etl.errors import ConfigurationError, ProjectError, RepositoryNotFoundError

_LARGEST = 1 << 30  # of manifests that exist, the largest have a few hundred megabytes
_SOURCES = (".sql", ".yml", ".yaml", ".csv", ".py", ".md")
_NOT_SOURCES = ("target", "dbt_packages", "logs", "node_modules", "venv", "__pycache__")


@dataclass(frozen=True, slots=True)
class ProjectLoader:
    """How to get at versions of a project.

    :param project_path: folder of ``dbt_project.yml``, relative to the repository's root.
    :param dbt_executable: used only where there is no manifest yet.
    :param env: environment variables that the project needs to be parsed.
    """

    project_path: str = "."
    dbt_executable: str = "dbt"
    target: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def load(self, where: str, *, built: bool = False) -> ProjectVersion:
        """The project at a manifest's path, in a folder, or at a ref.

        In a folder, ``target/manifest.json`` is taken if no file of the project is newer; otherwise dbt parses it.

        :param built: a catalog.json beside the manifest describes what is deployed.
        :raises ConfigurationError: there is no such thing. :raises ProjectError: dbt cannot read it.
        """
        path = Path(where)
        if path.is_file():
            return self._of_file(path, where, path.parent.parent, built=built)
        if path.is_dir():
            inside = path / self.project_path
            project = inside if _is_project(inside) and not _is_project(path) else path
            for manifest in (project / "target" / "manifest.json", project / "manifest.json"):
                if manifest.is_file() and not _outdated(project, manifest):
                    return self._of_file(manifest, where, project, built=built)
            return self._parsed(project, where)
        return self._at_ref(where)

    def _of_file(self, path: Path, label: str, project: Path, *, built: bool) -> ProjectVersion:
        beside = path.with_name("catalog.json")
        return self._version(
            _read(path), label, project, catalog_file=_read(beside) if beside.is_file() else None, built=built
        )

    def _at_ref(self, ref: str) -> ProjectVersion:
        commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        if commit is None:
            raise RepositoryNotFoundError(
                f"{ref!r} is no manifest, no folder and no ref of the Git repository here",
                todo="give a path, or fetch the ref first: CI systems fetch one commit only unless told otherwise "
                "(fetch-depth: 0, GIT_DEPTH: 0, clone: depth: full)",
            )
        packed = _git("archive", "--format=tar", commit.decode().strip(), "--", self.project_path, top=True)
        if packed is None:
            raise ProjectError(
                f"{ref} has no folder {self.project_path!r}", todo="give the project's folder as --project-path"
            )
        with tempfile.TemporaryDirectory(prefix="reverse_etl-ref-") as folder:
            with tarfile.open(fileobj=BytesIO(packed)) as archive:
                archive.extractall(folder, filter=_no_links)  # noqa: S202 - the filter is data_filter, and stricter
            return self._parsed(Path(folder) / self.project_path, ref)

    def _parsed(self, project: Path, label: str) -> ProjectVersion:
        from airflow_reverse_etl.dbt.profiles import stand_in
        from airflow_reverse_etl.dbt.runner import DbtProject, installed_adapter

        if not _is_project(project):
            raise ProjectError(
                f"{label}: no manifest and no dbt_project.yml",
                todo="give the project's folder as --project-path, relative to the repository's root",
                path=self.project_path,
            )
        own = (project / "profiles.yml").is_file()
        profile = None if own else stand_in(installed_adapter(self.dbt_executable))
        dbt = DbtProject(project.absolute(), self.dbt_executable, profile=profile, target=self.target, env=self.env)
        dbt.install_packages()
        return self._version(dbt.parse(), label, project)

    def _version(self, manifest: Mapping[str, Any], label: str, project: Path, **more: Any) -> ProjectVersion:
        return ProjectVersion(manifest, label=label, folder=self.project_path, variables=_variables(project), **more)


def _outdated(project: Path, manifest: Path) -> bool:
    """Whether a source file of the project was written after its manifest."""
    made = manifest.stat().st_mtime
    for folder, folders, files in os.walk(project):
        folders[:] = [name for name in folders if name not in _NOT_SOURCES and not name.startswith(".")]
        for name in files:
            if name.endswith(_SOURCES) and (Path(folder) / name).stat().st_mtime > made:
                return True
    return False


def _no_links(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """The repository is other people's: nothing lands or points outside the folder."""
    return None if member.issym() or member.islnk() else tarfile.data_filter(member, folder)


def _is_project(folder: Path) -> bool:
    return (folder / "dbt_project.yml").is_file()


def _variables(project: Path) -> object:
    import yaml

    try:
        return (yaml.safe_load((project / "dbt_project.yml").read_text()) or {}).get("vars")
    except (OSError, yaml.YAMLError, AttributeError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigurationError("the file is larger than 1 GiB", todo="give a manifest.json of dbt", file=path)
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        todo = "write it again with dbt"
        raise ConfigurationError(f"cannot read {path.name}: {error}", todo=todo, file=path) from None
    if not isinstance(found, dict) or not ("nodes" in found and "metadata" in found):
        raise ConfigurationError("this is no artifact of dbt", todo="give a manifest.json", file=path)
    return found


def _git(*arguments: str, top: bool = False) -> bytes | None:
    """What git prints, in the repository here; None when it fails."""
    folder = None
    if top:
        found = _git("rev-parse", "--show-toplevel")
        folder = found.decode().strip() if found else None
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False, cwd=folder)
    except OSError:
        raise ConfigurationError("the program git is not here", todo="install it, or give manifests") from None
    return done.stdout if done.returncode == 0 else None
