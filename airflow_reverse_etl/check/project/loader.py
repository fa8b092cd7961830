"""Loading of a dbt project's version: from a manifest, from a folder, or from a ref of the local Git repository."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_reverse_etl.check.project.current import is_current
from airflow_reverse_etl.check.project.mark_lines import mark_lines
from airflow_reverse_etl.check.project.seeds import read_seeds
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.dbt.runner import packages_folder, project_settings
from airflow_reverse_etl.errors import ConfigurationError, ProjectError, RepositoryNotFoundError
from airflow_reverse_etl.git.repository import local_packages

_MAX_BYTES = 1 << 30  # the largest known manifests have a few hundred megabytes


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

        In a folder, ``target/manifest.json`` is used if it was made from exactly the project's files (see
        :mod:`.current`), or if the folder has only artifacts; otherwise dbt parses the project.

        :param built: a catalog.json next to the manifest describes the deployed tables.
        :raises RepositoryNotFoundError: ``where`` is not a manifest, a folder or a ref.
        :raises ConfigurationError: the manifest cannot be read.
        :raises ProjectError: project not found, or dbt cannot parse it.
        """
        path = Path(where)
        if path.is_file():
            return self._from_manifest(path, where, path.parent.parent, built=built, trusted=False)
        if path.is_dir():
            inside = path / self.project_path
            project = inside if _is_project(inside) else path
            for manifest in (project / "target" / "manifest.json", project / "manifest.json"):
                if manifest.is_file() and (not _is_project(project) or is_current(manifest, project)):
                    return self._from_manifest(manifest, where, project, built=built)
            return self._parse(project, where)
        return self._from_ref(where)

    def _from_manifest(
        self, path: Path, label: str, project: Path, *, built: bool, trusted: bool = True
    ) -> ProjectVersion:
        catalog_path = path.with_name("catalog.json")
        catalog_file = _read_artifact(catalog_path) if catalog_path.is_file() else None
        manifest = _read_artifact(path)
        return self._version(manifest, label, project, trusted=trusted, catalog_file=catalog_file, built=built)

    def _from_ref(self, ref: str) -> ProjectVersion:
        commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        if commit is None:
            raise RepositoryNotFoundError(
                f"{ref!r} is not a manifest, a folder or a ref of the local Git repository",
                todo="pass a path, or fetch the ref first: by default CI systems fetch a single commit "
                "(fetch-depth: 0, GIT_DEPTH: 0, clone: depth: full)",
            )
        with tempfile.TemporaryDirectory(prefix="reverse_etl-ref-") as folder:
            tree = Path(folder) / "tree"
            if not _extract(commit.decode().strip(), [self.project_path], tree):
                raise ProjectError(
                    f"{ref} has no folder {self.project_path!r}", todo="pass the project's folder as --project-path"
                )
            extracted: list[str] = []
            # A package that was extracted may name others.
            while new := [path for path in local_packages(tree, self.project_path) if path not in extracted]:
                _extract(commit.decode().strip(), new, tree)
                extracted += new
            return self._parse(tree / self.project_path, ref)

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
        dbt.install_packages(movable=False)
        return self._version(dbt.parse(), label, project)

    def _version(
        self, manifest: Mapping[str, Any], label: str, project: Path, *, trusted: bool = True, **more: Any
    ) -> ProjectVersion:
        about = files_of(manifest, project, trusted=trusted)
        return ProjectVersion(manifest, label=label, folder=self.project_path, **about, **more)


def files_of(manifest: Mapping[str, Any], project: Path, *, trusted: bool) -> dict[str, Any]:
    """Return what a manifest does not have, from the files of its project: variables, content of seeds, lines of marks.

    :param trusted: the manifest was made from these very files.
    :returns: arguments of :class:`ProjectVersion`.
    """
    try:
        packages = packages_folder(project)
        own_name = project_settings(project)["name"]
    except ProjectError:
        return {}
    if own_name != manifest["metadata"].get("project_name"):
        return {}
    variables = {own_name: project_settings(project).get("vars")}
    for package in sorted(packages.iterdir()) if packages.is_dir() else ():
        if _is_project(package):
            variables[package.name] = project_settings(package).get("vars")
    seeds = read_seeds(manifest, project, packages=packages.name, trusted=trusted)
    return {"variables": variables, "seeds": seeds, "mark_lines": mark_lines(manifest, project)}


def _extract(commit: str, paths: Sequence[str], tree: Path) -> bool:
    """Write the files under some paths of a commit into a folder. Returns False if the commit has no such files.

    ``git archive`` would leave out files by their attributes. Links become small text files: the repository's contents
    are untrusted.
    """
    listed = _git("ls-tree", "-r", "-z", "--name-only", commit, "--", *paths, top=True)
    if not listed:
        return False
    with tempfile.TemporaryDirectory(prefix="reverse_etl-index-") as folder:
        index = {**os.environ, "GIT_INDEX_FILE": str(Path(folder) / "index")}
        write = ("checkout-index", "--force", "--quiet", f"--prefix={tree}/", "-z", "--stdin")
        done = _git("read-tree", commit, top=True, env=index)
        if done is not None:
            done = _git("-c", "core.symlinks=false", *write, top=True, env=index, given=listed)
    return done is not None


def _is_project(folder: Path) -> bool:
    return (folder / "dbt_project.yml").is_file()


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


def _git(
    *arguments: str, top: bool = False, env: Mapping[str, str] | None = None, given: bytes | None = None
) -> bytes | None:
    """Run git in the current folder and return its output, or None if it fails.

    :param top: run git at the root of the repository instead.
    :param given: standard input.
    """
    folder = None
    if top:
        root = _git("rev-parse", "--show-toplevel")
        folder = root.decode().strip() if root else None
    try:
        result = subprocess.run(
            ["git", *arguments], capture_output=True, check=False, cwd=folder, env=env, input=given or b""
        )
    except OSError:
        raise ConfigurationError("program git not found", todo="install git, or pass manifests") from None
    return result.stdout if result.returncode == 0 else None
