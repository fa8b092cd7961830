"""Operator that runs any dbt command on the worker."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.assets import model_asset
from airflow_reverse_etl.compat import AssetAlias, Context, airflow_errors
from airflow_reverse_etl.dbt.run_state import BUILDING, LAST_SUCCESSFUL, DbtState, merge_results, without_state
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.hooks.git import GitRepositoryHook
from airflow_reverse_etl.operators.dbt_task import DbtTask, run_state

if TYPE_CHECKING:
    from airflow.sdk import XComArg

    from airflow_reverse_etl.dbt.runner import DbtResult
    from airflow_reverse_etl.git.repository import Repository

_LISTED_FAILURES = 50


class DbtOperator(DbtTask):
    """Run a dbt command on the worker, in a process of its own.

    The task's log shows dbt's progress node by node. Returns, also when dbt failed: ``command``, ``target``,
    ``project``, ``commit``, ``exit_code``, ``nodes`` (how many ran), ``counts`` (by status), ``failures``
    (``unique_id``, ``status``, ``message``; the first 50) and ``seconds``. Red when dbt failed; ``retries`` repeat the
    command. With ``profile_conn_id``, each model that was built is an asset event, so that another DAG can be scheduled
    on ``model_asset(model, profile_conn_id)``.

    ``gate`` in the output is for ``ReverseEtlOperator(gate=…)``. The manifest of the last ``build`` or ``run`` that
    succeeded on everything, or on ``state:modified+``, is kept under the state URL for each project and target, and is
    what ``state="last_successful"`` compares with.

    What it does not do: one Airflow task per model; keep the artifacts, unless ``target_path`` says where or
    ``push_branch`` puts them into the repository.

    :param command: ``build``, ``run``, ``test``, ``seed``, ``snapshot``, ``source freshness``, ``docs generate`` or any
        other, as text or as a list of words. Visible to others on the worker: no secrets.
    :param project: output of a ``DbtModelSyncOperator``: its commit is fetched if this worker does not have it; or the
        path of a folder, absolute or relative to the DAG file.
    :param profile_conn_id: connection of the warehouse to make the profile from. dbt gets its secrets through the
        environment of its process. Types: duckdb, postgres, redshift, snowflake, google_cloud_platform, databricks.
    :param profiles_dir: folder of a ``profiles.yml`` on the worker. Default: the project's own folder.
    :param schema: schema to build in, when the connection does not say or says another.
    :param database: database to build in (BigQuery: project, Databricks: catalog), likewise.
    :param target: target of the profile; default: ``[reverse_etl]
        environment``, if that is set.
    :param vars: dbt variables. Visible to others on the worker.
    :param select: what to run; a list means any of these.
    :param exclude: what to leave out.
    :param env: environment variables for dbt, in addition to the worker's harmless ones: a mapping, templated and
        never shown; or names, to pass on the worker's own values.
    :param deps: install the packages of a project from Git when they are not in the repository.
    :param target_path: folder on the worker to leave ``manifest.json``, ``run_results.json`` and so on in.
    :param state: what ``state:modified+`` and deferral compare with: ``last_successful``, ``last_successful:prod`` (of
        another target), or a folder with a ``manifest.json``. While nothing has succeeded yet, everything is run.
    :param defer_to_state: take what is not built here from where ``state`` has it: dbt's ``--defer``.
    :param retry_failed_only: when Airflow retries the task, run ``dbt retry``: what failed, and what was skipped for
        it. A task that was cleared begins from scratch.
    :param push_branch: branch of the project's repository to commit the artifacts to, below ``dbt_artifacts``, after
        success; created if missing.
    :param dbt_executable: path or name of dbt 1.6 or newer, or Fusion; environments of their own are welcome.
    :raises AirflowFailException: fix the configuration.
    :raises AirflowException: dbt failed.
    """

    template_fields: Sequence[str] = (
        "command",
        "project",
        "profile_conn_id",
        "profiles_dir",
        "schema",
        "database",
        "target",
        "vars",
        "select",
        "exclude",
        "target_path",
        "state",
        "push_branch",
    )
    template_fields_renderers = {"vars": "json"}  # noqa: RUF012 - Airflow's attribute
    ui_color = "#f6d8cb"

    def __init__(
        self,
        *,
        project: Mapping[str, Any] | str | Path | XComArg,
        command: str | Sequence[str] = "build",
        profiles_dir: str | None = None,
        select: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        target_path: str | None = None,
        state: str | None = None,
        defer_to_state: bool = False,
        retry_failed_only: bool = False,
        push_branch: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.project: Any = str(project) if isinstance(project, Path) else project
        self.profiles_dir = profiles_dir
        self.select = select
        self.exclude = exclude
        self.target_path = target_path
        self.state = state
        self.defer_to_state = defer_to_state
        self.retry_failed_only = retry_failed_only
        self.push_branch = push_branch
        self._completed_by: Sequence[str] = BUILDING  # whose success makes the manifest the last successful one
        self._alias = AssetAlias(f"reverse_etl.dbt.{self.task_id}")
        if self.profile_conn_id:
            self.outlets = [*self.outlets, self._alias]

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the command; see the class."""
        with airflow_errors(), tempfile.TemporaryDirectory(prefix="reverse_etl-target-") as temporary:
            target_path = Path(self.target_path or temporary).absolute()
            state = run_state(context, project=self._identity(), target=self.target)
            outcome = self._run(target_path, context, state)
            summary = self._summary(outcome)
            if evidence := state.keep_evidence(_split(self.command)[0], target_path, outcome.nodes):
                summary["gate"] = evidence
            context["ti"].xcom_push(key="return_value", value=summary)
            if self.retry_failed_only and outcome.exit_code and outcome.failures:
                state.keep_failure(target_path)
            outcome.raise_for_failure(task=self.task_id)
            if not outcome.nodes and self.select:
                self.log.warning("dbt found nothing to do: nothing matches %r", self.select)
            self._after_success(outcome, target_path, context, state)
        return summary

    def _after_success(self, outcome: DbtResult, target_path: Path, context: Context, state: DbtState) -> None:
        if self.retry_failed_only:
            state.forget_failure()
        if _split(self.command)[0] in self._completed_by:
            state.keep_manifest(_listed(self.select), self.exclude, target_path)
        self._emit_assets(outcome, target_path, context)
        if self.push_branch:
            self._push(self.push_branch, target_path)

    def _run(self, target_path: Path, context: Context, state: DbtState) -> DbtResult:
        profiles_dir = Path(self.profiles_dir) if self.profiles_dir else None
        dbt = self._project(self._folder(context), context, profile=self._profile(), profiles_dir=profiles_dir)
        with tempfile.TemporaryDirectory(prefix="reverse_etl-state-") as name:
            kept = Path(name)
            words = self._words(kept, state)
            retry = self.retry_failed_only and state.failed_before(kept)
            if retry:
                self.log.info("Running only what failed in the try before")
                words = ["retry", "--state", str(kept)]
            outcome = dbt.run(words, target_path=target_path, on_message=self._log_message)
            went_on = retry and (outcome.nodes or outcome.exit_code == 0)
            return replace(outcome, nodes=merge_results(kept, outcome.nodes)) if went_on else outcome

    def _words(self, kept: Path, state: DbtState) -> list[str]:
        """Return the command with its options. Without a state to compare with, those that need one are left out."""
        words = _split(self.command)
        select = _listed(self.select)
        known = None
        if self.state and self.state.partition(":")[0] == LAST_SUCCESSFUL:
            known = str(kept) if state.last_successful(self.state, kept) else None
        elif self.state:
            known = str(Path(self.state).absolute())
        if known:
            words += ["--state", known, *(["--defer"] if self.defer_to_state else [])]
        elif self.state:
            self.log.warning("No successful run has left a manifest yet: everything is run")
            select = without_state(select)
        for option, value in {"--select": select, "--exclude": _listed(self.exclude)}.items():
            words += [option, *value] if value else []
        return words

    def _identity(self) -> str:
        of = self.project
        return f"{of.get('repository')}\n{of.get('project_path')}" if isinstance(of, Mapping) else str(of)

    def _push(self, branch: str, target_path: Path) -> None:
        from airflow_reverse_etl.git.push import push

        if not isinstance(self.project, Mapping) or "git_conn_id" not in self.project:
            raise ConfigurationError(
                "the project has no repository to push to", todo="give project= from a DbtModelSyncOperator"
            )
        names = ("manifest.json", "run_results.json", "catalog.json", "sources.json")
        files = {f"dbt_artifacts/{name}": target_path / name for name in names if (target_path / name).is_file()}
        message = f"dbt {_split(self.command)[0]} of {self.project['commit']}"
        pushed = push(_repository(self.project), files, branch=branch, message=message)
        self.log.info("Pushed the artifacts to %s: %s", branch, pushed or "nothing new")

    def _folder(self, context: Context) -> Path:
        if isinstance(self.project, Mapping):
            if "git_conn_id" not in self.project:
                raise ConfigurationError(
                    "the model sync's output has no repository",
                    todo="read the models from Git where dbt is to run, or give the project's folder",
                )
            repository = _repository(self.project)
            of = self.project
            return self._checkout(repository, context, commit=of["commit"], path=of["project_path"], ref=of["ref"])
        dag = self.get_dag()
        parent = Path(dag.fileloc).parent if dag is not None and dag.fileloc else Path()
        folder: Path = (parent / self.project).absolute()
        if not (folder / "dbt_project.yml").is_file():
            raise ConfigurationError(
                "dbt_project.yml not found in the project's folder",
                todo="give an absolute path, one relative to the DAG file, or the output of a DbtModelSyncOperator",
                folder=folder,
            )
        return folder

    def _log_message(self, level: str, text: str) -> None:
        {"error": self.log.error, "warn": self.log.warning}.get(level, self.log.info)("%s", text)

    def _summary(self, outcome: DbtResult) -> dict[str, Any]:
        of = self.project if isinstance(self.project, Mapping) else {"project": Path(self.project).name}
        return {
            "command": outcome.command,
            "target": self.target,
            "project": of["project"],
            "commit": of.get("commit"),
            "exit_code": outcome.exit_code,
            "nodes": len(outcome.nodes),
            "counts": outcome.counts,
            "failures": [
                {"unique_id": node.unique_id, "status": node.status, "message": node.message}
                for node in outcome.failures[:_LISTED_FAILURES]
            ],
            "seconds": round(outcome.seconds, 3),
        }

    def _emit_assets(self, outcome: DbtResult, target_path: Path, context: Context) -> None:
        """Emit an event for each model that was built; the latest version also under the name without a version."""
        built = {node.unique_id for node in outcome.nodes if node.status == "success"}
        if not self.profile_conn_id or not built or _split(self.command)[0] not in BUILDING:
            return
        from airflow_reverse_etl.dbt.manifest import read_manifest

        events = context["outlet_events"][self._alias]
        extra = {"commit": self.project["commit"]} if isinstance(self.project, Mapping) else {}
        for model in read_manifest(json.loads((target_path / "manifest.json").read_bytes())).models:
            names = [model.name] if model.latest else []
            names += [f"{model.name}.v{model.version}"] if model.version else []
            for name in names if model.unique_id in built else ():
                events.add(model_asset(name, self.profile_conn_id), extra=extra)


def _repository(project: Mapping[str, Any]) -> Repository:
    """Return the repository of a model sync's output."""
    return GitRepositoryHook(project["git_conn_id"], project.get("repository")).get_conn()


def _split(command: str | Sequence[str]) -> list[str]:
    from airflow_reverse_etl.dbt.runner import split_command

    return split_command(command)


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return value.split() if isinstance(value, str) else list(value or ())
