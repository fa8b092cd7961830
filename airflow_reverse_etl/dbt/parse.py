"""Parsing of dbt projects with any profile: an installed adapter replaces one that is not installed."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ProjectError

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt.profiles import Profile
    from airflow_reverse_etl.dbt.runner import DbtProject
    from airflow_reverse_etl.stores.files import StateFiles


class ProjectParser:
    """Parser of dbt projects.

    :param open_project: function that opens a dbt project, given its folder and a profile.
    :param target: output of the project's own profile; default: the profile's default target.
    :param schema: schema for a project that has no profile.
    :param database: database for a project that has no profile.
    :param environment: function that returns the environment variables that profiles.yml may read.
    :param files: function that opens the state files; called only if a cache is used.
    """

    def __init__(
        self,
        open_project: Callable[..., DbtProject],
        *,
        executable: str,
        target: str | None,
        schema: str | None,
        database: str | None,
        environment: Callable[[], Mapping[str, str]],
        files: Callable[[], StateFiles],
        log: logging.Logger | Any,
    ) -> None:
        self._open_project = open_project
        self._executable = executable
        self._target = target
        self._schema = schema
        self._database = database
        self._environment = environment
        self._files = files
        self._log = log

    def manifest(self, folder: Path, *, profile: Profile | None, cache: str | None = None) -> dict[str, Any]:
        """Return the manifest by ``dbt parse``, which opens no connection, so that any profile works.

        :param cache: path under the state URL of dbt's partial parse file, which makes the next parse quicker.
        """
        from sqlglot.dialects.dialect import Dialect

        from airflow_reverse_etl.dbt.manifest import rebuild_relations
        from airflow_reverse_etl.dbt.profiles import (
            UNKNOWN_DATABASE,
            database_and_schema,
            placeholder_profile,
            project_output,
        )
        from airflow_reverse_etl.dbt.runner import installed_adapter, profile_name, project_settings

        if profile is None and not (folder / "profiles.yml").is_file():
            adapter = installed_adapter(self._executable)
            profile = placeholder_profile(adapter, schema=self._schema, database=self._database or UNKNOWN_DATABASE)
            self._log.warning(
                "No profile_conn_id and no profiles.yml found; assuming adapter %s and schema %r",
                adapter,
                profile.output.get("schema") or profile.output.get("dataset"),
            )
        elif profile is None and (self._schema or self._database):
            self._log.warning("schema and database are ignored: the project's own profiles.yml sets them")
        try:
            return self._parse_cached(folder, profile=profile and profile.without_secrets(), cache=cache)
        except ProjectError as error:
            missing = re.search(r"Could not find adapter type (\w+)", error.what)
            # Without sqlglot's dialect, only the adapter itself can write the names of relations.
            if not missing or not Dialect.get(missing[1]):
                raise
        # Parse with an installed adapter instead, with the database and schema of the real profile.
        if profile is None:
            output = project_output(folder, profile=profile_name(folder), target=self._target, env=self._environment())
        else:
            output = dict(profile.output)
        database, schema = database_and_schema(output)
        adapter = installed_adapter(self._executable)
        self._log.info("dbt-%s is not installed; parsing with dbt-%s instead", missing[1], adapter)
        replacement = placeholder_profile(
            adapter, schema=self._schema or schema, database=self._database or database or UNKNOWN_DATABASE
        )
        manifest = self._parse_cached(folder, profile=replacement, cache=cache and f"{cache}-{adapter}")
        return rebuild_relations(manifest, missing[1], quoting=project_settings(folder).get("quoting"))

    def _parse_cached(self, folder: Path, *, profile: Profile | None, cache: str | None) -> dict[str, Any]:
        project = self._open_project(folder, profile=profile)
        if (
            not cache or project.hides_values
        ):  # dbt writes the values of environment variables into the partial parse file
            return project.parse()
        files = self._files()
        with tempfile.TemporaryDirectory(prefix="reverse_etl-dbt-") as name:
            partial = Path(name) / "partial_parse.msgpack"
            if cached := files.read(cache):
                partial.write_bytes(cached)
            manifest = project.parse(target_path=Path(name))
            if partial.is_file() and partial.read_bytes() != cached:
                files.write(cache, partial.read_bytes())
        return manifest
