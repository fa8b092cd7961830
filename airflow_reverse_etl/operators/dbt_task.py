"""Base class and helpers of the dbt operators."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_reverse_etl import config
from airflow_reverse_etl.compat import BaseOperator, Context
from airflow_reverse_etl.connections import connection_info
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.wiring import state_files

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt.profiles import Profile
    from airflow_reverse_etl.dbt.run_state import DbtState
    from airflow_reverse_etl.dbt.runner import DbtProject
    from airflow_reverse_etl.errors import SpecError
    from airflow_reverse_etl.git.repository import Repository
    from airflow_reverse_etl.spec.folders.reading import SyncSource

#: Syncs in an operator's arguments: a folder of YAML files, a file, or several of them and of syncs.
Syncs = str | Path | Sequence[Sync | Mapping[str, Any] | str | Path]


class DbtTask(BaseOperator):
    """Base class for a task that runs dbt, and that stops dbt when the task is stopped."""

    def __init__(
        self,
        *,
        dbt_executable: str = "dbt",
        profile_conn_id: str | None = None,
        schema: str | None = None,
        database: str | None = None,
        target: str | None = None,
        vars: Mapping[str, Any] | None = None,  # noqa: A002 - dbt's own word
        env: Mapping[str, str] | Sequence[str] | None = None,
        deps: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dbt_executable = dbt_executable
        self.profile_conn_id = profile_conn_id
        self.schema = schema
        self.database = database
        self.target = target or config.environment() or None
        self.vars = vars
        self.env = env
        self.deps = deps
        self._dbt: DbtProject | None = None
        self._killed = False

    def on_kill(self) -> None:
        """Stop dbt and everything it started."""
        self._killed = True
        if self._dbt:
            self._dbt.stop()

    def _project(self, path: Path, context: Context, **settings: Any) -> DbtProject:
        """Return dbt in a folder. ``on_kill`` can stop it."""
        from airflow_reverse_etl.dbt.runner import DbtProject

        env = self._environment(context)
        variables = self.vars or {}
        self._dbt = DbtProject(path, self.dbt_executable, target=self.target, variables=variables, env=env, **settings)
        if self._killed:
            self._dbt.stop()
        return self._dbt

    def _environment(self, context: Context) -> dict[str, str]:
        """Render ``env`` here, not as a template field: Airflow would store and show the values."""
        if self.env is None or isinstance(self.env, Mapping):
            return dict(self.render_template(dict(self.env or {}), context))
        names = [self.env] if isinstance(self.env, str) else self.env
        if missing := [name for name in names if name not in os.environ]:
            raise ConfigurationError(
                f"environment variables for dbt are not set on this worker: {', '.join(missing)}",
                todo="set them on every worker, or give env= as a mapping",
            )
        return {name: os.environ[name] for name in names}

    def _profile(self) -> Profile | None:
        from airflow_reverse_etl.dbt.profiles import from_connection

        if not self.profile_conn_id:
            return None
        return from_connection(connection_info(self.profile_conn_id), schema=self.schema, database=self.database)

    def _checkout(self, repository: Repository, context: Context, *, commit: str, path: str, ref: str) -> Path:
        def install(project: Path) -> None:
            self.log.info("Installing the packages of %s", path)
            self._project(project, context).install_packages(movable=True)

        under = config.settings().checkout_folder
        return repository.checkout(
            commit, path=path, ref=ref, under=under, prepare=("deps", install) if self.deps else None
        )

    def _manifest(
        self, folder: Path, context: Context, *, profile: Profile | None, cache: str | None = None
    ) -> dict[str, Any]:
        """Run ``dbt parse``, with or without a profile.

        :param cache: path under the state URL for the files that let dbt parse faster the next time.
        """
        from airflow_reverse_etl.dbt.parse import ProjectParser

        parser = ProjectParser(
            lambda folder, **settings: self._project(folder, context, **settings),
            executable=self.dbt_executable,
            target=self.target,
            schema=self.schema,
            database=self.database,
            environment=lambda: self._environment(context),
            files=state_files,
            log=self.log,
        )
        return parser.manifest(folder, profile=profile, cache=cache)


def given_syncs(task: BaseOperator, syncs: Syncs) -> tuple[list[SyncSource], list[SpecError]]:
    """Read the syncs that a task was given.

    :returns: the valid ones, and the errors of the others.
    :raises ConfigurationError: a folder or file is missing. Paths are relative to the DAG file.
    """
    from airflow_reverse_etl.errors import SpecError
    from airflow_reverse_etl.spec.folders.reading import SyncSource, read_syncs

    sources: list[SyncSource] = []
    errors: list[SpecError] = []
    dag = task.get_dag()
    file = str(dag.fileloc) if dag is not None else ""
    for sync in [syncs] if isinstance(syncs, str | Path) else syncs:
        if isinstance(sync, str | Path):
            found, wrong = read_syncs(Path(file).parent / sync, environment=config.environment())
            sources += found
            errors += wrong
        else:
            try:
                sources.append(SyncSource(Sync.load(sync, environment=config.environment()), file or task.task_id))
            except SpecError as error:
                errors.append(error)
    return sources, errors


def task_key(context: Context) -> str:
    """Return the task as a part of a path: its DAG's id and its own."""
    return "/".join(quote(part, safe="") for part in (context["ti"].dag_id, context["ti"].task_id))


def run_state(context: Context, *, project: str, target: str | None) -> DbtState:
    """Return the stored dbt files of a task instance."""
    from airflow_reverse_etl.dbt.run_state import DbtState

    ti = context["ti"]
    return DbtState(
        state_files(),
        task=task_key(context),
        run=f"{ti.run_id}\n{ti.map_index}",
        try_number=int(ti.try_number),
        max_tries=int(ti.max_tries),
        project=project,
        target=target,
    )
