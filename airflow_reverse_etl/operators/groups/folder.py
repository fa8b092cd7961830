"""Tasks for the syncs of a folder, in a task group, or in DAGs of their own."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, XComArg

from airflow_reverse_etl import config
from airflow_reverse_etl.compat import TaskGroup
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.operators.base import PlanningOperator
from airflow_reverse_etl.operators.groups.mapped import map_syncs
from airflow_reverse_etl.operators.reverse_etl import ReverseEtlOperator
from airflow_reverse_etl.operators.sync_group import reverse_etl
from airflow_reverse_etl.spec.folders.order import in_order
from airflow_reverse_etl.spec.folders.reading import SyncSource, read_syncs

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.model import Sync

_Gate = Mapping[str, Any] | Sequence[Mapping[str, Any]] | XComArg | None


def sync_group(
    folder: str | Path | None = None,
    *,
    catalog: Mapping[str, Any] | XComArg | None = None,
    gate: _Gate = None,
    project: XComArg | None = None,
    meta: bool = False,
    group_id: str = "syncs",
    **task_arguments: Any,
) -> TaskGroup:
    """Build a task group with a task for each sync in a folder and its subfolders.

    A task has the name of its sync. A sync whose ``airflow`` has ``partitions`` or ``approve`` is a task group, as
    :func:`airflow_reverse_etl.reverse_etl` builds it. ``after`` in a sync orders the tasks. A ``defaults.yaml`` in
    the folder has the keys that its syncs share. The files are read while Airflow parses the DAG: a file that is not
    valid is an import error of the DAG, which lists all problems.

    With ``project``, the folder is that of the dbt project at the commit that the model sync read. The DAG stays as it
    is when the folder changes: the task ``list`` reads the syncs in the folder and in models' ``meta``, and the task
    ``sync`` is mapped over them. A sync that is not valid fails only its own task instance. ``after`` and gates hold as
    in tasks of their own. ``pool``, ``retries`` and ``schedule`` are those of the one task, and nothing is partitioned
    or approved.

    :param folder: folder of YAML files, relative to the folder of the DAG file, or absolute; with ``project``,
        relative to the dbt project, and None for the syncs in models' ``meta`` only.
    :param catalog: output of a ``DbtModelSyncOperator``; needed when the model of a sync is a dbt model.
    :param gate: output of a ``DbtOperator``, or several of one dbt run. Each sync whose model is dbt's runs only if
        its own model was built and tested, unless its ``airflow`` has ``gate: false``. To run also after a dbt task
        that failed for another model, set ``trigger_rule="all_done"``.
    :param project: output of a ``DbtModelSyncOperator`` whose dbt project has the folder; it is the catalog, too.
    :param meta: map a task over the syncs in models' ``meta`` as well, which need the ``catalog``. They and the syncs
        in files cannot name each other in ``after``.
    :param group_id: prefix of the tasks.
    :param task_arguments: arguments of every task of a sync: ``retries``, ``pool``, ``trigger_rule``, ``deferrable``
        … ``pool`` and ``retries`` in a sync come first.
    :raises SpecError: some files are not valid, or do not fit together; lists all problems, each with ``file:line``.
    """
    with TaskGroup(group_id) as group:
        if project is not None:
            map_syncs(folder, catalog=project, gate=gate, **task_arguments)
            return group
        if folder is not None:
            file = str(group.dag.fileloc)
            sources = _read(folder, file)
            _check_schedules(sources)
            paths = [_path(source, folder, file) for source in sources]
            _make_tasks(sources, paths, catalog=catalog, gate=gate, **task_arguments)
        if meta:
            map_syncs(None, catalog=catalog, gate=gate, **task_arguments)
    return group


def reverse_etl_dag(
    folder: str | Path,
    *,
    dag_id: str = "reverse_etl",
    schedule: Any = None,
    models: Mapping[str, Any] | None = None,
    **dag_arguments: Any,
) -> list[DAG]:
    """Build DAGs that run the syncs in a folder and its subfolders: one DAG for each schedule.

    The syncs without a schedule of their own are in the DAG ``dag_id``. Those with ``airflow: {schedule: "@daily"}``,
    in the file or in the folder's ``defaults.yaml``, are in ``<dag_id>_daily``. Airflow finds the DAGs without a
    variable. The tasks are those of :func:`airflow_reverse_etl.sync_group`.

    :param folder: folder of YAML files, relative to the folder of the DAG file, or absolute.
    :param dag_id: id of the DAG, and the beginning of the other DAGs' ids.
    :param schedule: schedule of the syncs without one of their own; as Airflow's ``DAG`` takes it.
    :param models: arguments of a ``DbtModelSyncOperator`` ``models``, which each DAG with a sync of a dbt model then
        begins with.
    :param dag_arguments: further arguments of Airflow's ``DAG``: ``start_date``, ``default_args``, ``tags`` … By
        default, ``catchup`` is off, and ``max_active_runs`` is 1.
    :raises SpecError: as :func:`airflow_reverse_etl.sync_group`.
    """
    file = sys._getframe(1).f_code.co_filename
    by_schedule: dict[str | None, list[SyncSource]] = {}
    for source in _read(folder, file):
        by_schedule.setdefault(source.sync.airflow.schedule, []).append(source)
    arguments = {"catchup": False, "max_active_runs": 1, **dag_arguments}
    dags = []
    for own, sources in by_schedule.items():
        id_ = f"{dag_id}_{_slug(own)}" if own else dag_id
        with DAG(id_, schedule=own or schedule, **arguments) as dag:
            dag.fileloc = file  # Airflow takes the file that calls DAG()
            paths = [_path(source, folder, file) for source in sources]
            _make_tasks(sources, paths, catalog=_model_sync(sources, models))
        dags.append(dag)
    return dags


def _read(folder: str | Path, dag_file: str) -> list[SyncSource]:
    return in_order(*read_syncs(Path(dag_file).parent / folder, environment=config.environment()))


def _check_schedules(sources: Sequence[SyncSource]) -> None:
    own = [source for source in sources if source.sync.airflow.schedule]
    if own:
        problem = "airflow.schedule: a task group has the schedule of its DAG"
        raise SpecError(
            f"{len(own):,} syncs have a schedule of their own",
            problems=tuple(f"{source.place('airflow', 'schedule')}: {problem}" for source in own),
            todo="remove it, or use reverse_etl_dag, which makes a DAG for each schedule",
        )


def _model_sync(sources: Sequence[SyncSource], arguments: Mapping[str, Any] | None) -> Any:
    from airflow_reverse_etl.operators.dbt_models import DbtModelSyncOperator

    if arguments is None or not any(isinstance(source.sync.model, str) for source in sources):
        return None
    return DbtModelSyncOperator(**{"task_id": "models", **arguments}).output


def _make_tasks(
    sources: Sequence[SyncSource], paths: Sequence[str], *, catalog: Any, gate: Any = None, **task_arguments: Any
) -> None:
    """Make the tasks of syncs, which are in their order."""
    #: Name of a sync → its task or task group, and the id of its last task.
    made: dict[str, tuple[Any, str]] = {}
    for source, path in zip(sources, paths, strict=True):
        sync = source.sync
        of_dbt = isinstance(sync.model, str)
        arguments = {
            "sync": path,
            "catalog": catalog if of_dbt else None,
            "gate": gate if of_dbt and sync.airflow.gate else None,
            **task_arguments,
            **_own_arguments(sync),
        }
        task, planning, last = _make(sync, arguments)
        made[sync.name] = task, last
        planning.after = [(name, made[name][1], None) for name in sync.after]
        for name in sync.after:
            made[name][0] >> task


def _make(sync: Sync, arguments: Mapping[str, Any]) -> tuple[Any, PlanningOperator, str]:
    """Make the task or the task group of a sync.

    :returns: it, its task that plans, and the id of its last task.
    """
    options = sync.airflow
    if options.partitions == 1 and not options.approve:
        task = ReverseEtlOperator(task_id=sync.name, **arguments)
        return task, task, task.task_id
    group = reverse_etl(
        partitions=options.partitions,
        approve=options.approve,
        group_id=sync.name.replace(".", "__"),  # the id of a group has no dots
        **arguments,
    )
    plan: Any = group.children[f"{group.group_id}.plan"]
    return group, plan, f"{group.group_id}.commit"


def _own_arguments(sync: Sync) -> dict[str, Any]:
    own = {"pool": sync.airflow.pool, "retries": sync.airflow.retries}
    return {name: value for name, value in own.items() if value is not None}


def _path(source: SyncSource, folder: str | Path, dag_file: str) -> str:
    """Return the path of a sync's file as a task takes it: relative to the DAG file, if the folder is.

    On another worker, or in another version of a bundle, the DAG file is in another place.
    """
    inside = Path(source.file).relative_to(Path(dag_file).parent / folder)
    return (Path(folder) / inside).as_posix()


def _slug(schedule: str) -> str:
    """Return a schedule as a part of a DAG's id."""
    return re.sub(r"\W+", "_", schedule.removeprefix("@").replace("*", "x"))
