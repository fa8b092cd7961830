"""dbt parse with whatever profile there is: another adapter stands in for one that is not installed."""

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
    """Parses dbt projects.

    :param open_project: dbt in a folder, with a profile.
    :param environment: what dbt may see of the environment.
    :param files: the state's files, asked for when something is kept.
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
        """dbt parse, with whatever profile there is: it connects to nothing.

        :param cache: path under the state URL for what dbt keeps to parse quicker the next time.
        """
        from airflow_reverse_etl.dbt.manifest import rebuild_relations
        from airflow_reverse_etl.dbt.profiles import UNKNOWN_DATABASE, place, project_output, stand_in
        from airflow_reverse_etl.dbt.runner import installed_adapter, profile_name, project_settings

        if profile is None and not (folder / "profiles.yml").is_file():
            adapter = installed_adapter(self._executable)
            profile = stand_in(adapter, schema=self._schema, database=self._database or UNKNOWN_DATABASE)
            self._log.warning(
                "No profile_conn_id, and no profiles.yml in the project: taken for a project for %s, in schema %r",
                adapter,
                profile.output.get("schema") or profile.output.get("dataset"),
            )
        elif profile is None and (self._schema or self._database):
            self._log.warning(
                "schema and database are left out: the project's own profiles.yml says where the models are"
            )
        try:
            return self._parse_cached(folder, profile=profile and profile.without_secrets(), cache=cache)
        except ProjectError as error:
            missing = re.search(r"Could not find adapter type (\w+)", error.what)
            if not missing:
                raise
        if profile is None:
            output = project_output(folder, profile=profile_name(folder), target=self._target, env=self._environment())
        else:
            output = dict(profile.output)
        database, schema = place(output)
        adapter = installed_adapter(self._executable)
        self._log.info("dbt-%s is not installed: dbt-%s stands in for it", missing[1], adapter)
        stand = stand_in(
            adapter, schema=self._schema or schema, database=self._database or database or UNKNOWN_DATABASE
        )
        manifest = self._parse_cached(folder, profile=stand, cache=cache and f"{cache}-{adapter}")
        return rebuild_relations(manifest, missing[1], quoting=project_settings(folder).get("quoting"))

    def _parse_cached(self, folder: Path, *, profile: Profile | None, cache: str | None) -> dict[str, Any]:
        project = self._open_project(folder, profile=profile)
        if not cache or project.hides_values:  # dbt would write the values of environment variables into it
            return project.parse()
        files = self._files()
        with tempfile.TemporaryDirectory(prefix="reverse_etl-dbt-") as name:
            partial = Path(name) / "partial_parse.msgpack"
            if known := files.read(cache):
                partial.write_bytes(known)
            manifest = project.parse(target_path=Path(name))
            if partial.is_file() and partial.read_bytes() != known:
                files.write(cache, partial.read_bytes())
        return manifest
