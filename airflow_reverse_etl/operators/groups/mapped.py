"""Tasks that are mapped at run time over the syncs of a dbt project: those in a folder, and those in models' meta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl import config
from airflow_reverse_etl.compat import BaseOperator, Context, airflow_errors
from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.hooks.git import GitRepositoryHook
from airflow_reverse_etl.operators.reverse_etl import ReverseEtlOperator
from airflow_reverse_etl.spec.folders.order import in_order
from airflow_reverse_etl.spec.folders.reading import SyncSource, sync_files
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.wiring import state_files

if TYPE_CHECKING:
    from airflow.sdk import XComArg


class SyncListOperator(BaseOperator):
    """Returns the arguments of :class:`MappedSyncOperator` for each sync of a dbt project, in their order.

    :param catalog: output of a ``DbtModelSyncOperator``. Templated.
    :param folder: folder of syncs in the dbt project, at the commit of the catalog; None for those in models' ``meta``
        only.
    :raises AirflowFailException: the syncs do not fit together, or a file is not YAML; lists all problems.
    """

    template_fields: Sequence[str] = ("catalog", "folder")
    ui_color = "#f6e4dc"

    def __init__(self, *, catalog: Mapping[str, Any] | XComArg, folder: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.catalog: Any = catalog
        self.folder = folder

    def execute(self, context: Context) -> list[dict[str, Any]]:  # noqa: ARG002  Airflow's signature
        """Find the syncs; see the class."""
        with airflow_errors():
            found, errors = self._in_folder(self.folder) if self.folder is not None else ([], [])
            found += self._in_meta()
            specs = {id(source): values for source, values in found}
            try:
                ordered = in_order([source for source, _ in found], errors)
            except SpecError as error:
                error.where["commit"] = str(self.catalog.get("commit"))
                raise
        index = {source.sync.name: number for number, source in enumerate(ordered)}
        self.log.info("Syncs of the dbt project: %s", ", ".join(index) or "none")
        arguments = []
        for source in ordered:
            after = {name: index[name] for name in source.sync.after}
            arguments.append({"sync": specs[id(source)], "after": after})
        return arguments

    def _in_folder(self, folder: str) -> tuple[list[tuple[SyncSource, dict[str, Any]]], list[SpecError]]:
        from airflow_reverse_etl.spec.folders.layers import read_layers

        found: list[tuple[SyncSource, dict[str, Any]]] = []
        errors: list[SpecError] = []
        project = self._checkout()
        if not (project / folder).exists():
            raise ConfigurationError(
                "the dbt project has no such folder of syncs",
                todo="check the path, and that the commit has it",
                folder=folder,
                commit=self.catalog["commit"],
            )
        for path in sync_files(project / folder):
            file = path.relative_to(project).as_posix()
            try:
                values, lines = read_layers(path)
            except SpecError as error:
                # The reader knows the project, and not where this worker has checked it out.
                problems = tuple(text.replace(f"{project.as_posix()}/", "") for text in error.problems)
                errors.append(SpecError(error.what, problems=problems, file=file))
            else:
                found.append((SyncSource(_outline(values, path.stem), file, lines), values))
        return found, errors

    def _checkout(self) -> Path:
        of = self.catalog
        if "git_conn_id" not in of:
            raise ConfigurationError(
                "a folder of syncs needs a dbt project from Git, and these models come from a manifest",
                todo="read the models from Git, or keep the syncs next to the DAG, or in models' meta",
            )
        repository = GitRepositoryHook(of["git_conn_id"], of["repository"]).get_conn()
        under = config.settings().checkout_folder
        return repository.checkout(of["commit"], path=of["project_path"], ref=of["ref"], under=under)

    def _in_meta(self) -> Iterator[tuple[SyncSource, dict[str, Any]]]:
        from airflow_reverse_etl.check.exposures import specs_in_meta
        from airflow_reverse_etl.dbt.catalog import load_catalog

        for model, values in specs_in_meta(load_catalog(state_files(), self.catalog)):
            yield SyncSource(_outline(values, model.name), model.path), values


def _outline(values: Mapping[str, Any], name: str) -> Sync:
    """Return as much of a sync as its place in the order needs; the sync need not be valid.

    :param name: of a sync without one.
    """
    after = values.get("after") or ()
    names = (after,) if isinstance(after, str) else tuple(map(str, after)) if isinstance(after, list) else ()
    return Sync.model_construct(name=str(values.get("name") or name), after=names)


class MappedSyncOperator(ReverseEtlOperator):
    """A sync of a list, in a task instance of its own, which waits for those that it comes after.

    :param after: name of a sync that this one comes after: its map index.
    """

    def __init__(self, *, after: Mapping[str, int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.after = [(name, self.task_id, index) for name, index in (after or {}).items()]

    def _check_gate(self, sync: Sync, context: Context) -> None:
        if isinstance(sync.model, str) and sync.airflow.gate:
            super()._check_gate(sync, context)


def map_syncs(folder: str | Path | None, *, catalog: Any, gate: Any, **task_arguments: Any) -> None:
    """Make a task that lists the syncs of a dbt project, and one that is mapped over them.

    :raises ConfigurationError: the catalog is missing.
    """
    if catalog is None:
        raise ConfigurationError(
            "the syncs in models' meta need the models", todo="set catalog= to the output of a DbtModelSyncOperator"
        )
    listed = SyncListOperator(task_id="list", catalog=catalog, folder=None if folder is None else str(folder))
    MappedSyncOperator.partial(
        task_id="sync", catalog=catalog, gate=gate, map_index_template="{{ task.sync.name }}", **task_arguments
    ).expand_kwargs(listed.output)
