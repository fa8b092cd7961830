"""Task group that takes a dbt project from fresh sources to documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import TaskGroup, chain

from airflow_reverse_etl.dbt.run_state import BUILDING
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.operators.dbt import DbtOperator

if TYPE_CHECKING:
    from airflow.sdk import XComArg

#: In the order in which they run.
STEPS = {
    "freshness": "source freshness",
    "seed": "seed",
    "snapshot": "snapshot",
    "run": "run",
    "test": "test",
    "docs": "docs generate",
}
_SELECTS_SOURCES = "freshness"


class DbtPipeline(TaskGroup):
    """freshness, snapshot, run, test, docs: a task group of :class:`~airflow_reverse_etl.operators.dbt.DbtOperator`.

    ``outputs`` has the output of each step, for ``ReverseEtlOperator(gate=dbt.outputs)``. A step runs when the one
    before it succeeded; with ``dbt={"trigger_rule": "all_done"}`` always, and each sync's gate decides. What
    ``state="last_successful"`` means is kept when ``test`` has succeeded; without that step, ``run``.

    What it does not do: one Airflow task per model; ``command="build"`` in one ``DbtOperator`` is quicker where sources
    have no freshness.

    :param group_id: prefix of the tasks.
    :param project: as for ``DbtOperator``.
    :param steps: which of ``freshness``, ``seed``, ``snapshot``, ``run``, ``test`` and ``docs``; always in this order.
    :param select: what to run; not used for ``freshness``, which looks at all sources.
    :param dbt: everything else that ``DbtOperator`` takes: ``profile_conn_id``, ``target``, ``retries`` …
    """

    def __init__(
        self,
        group_id: str = "dbt",
        *,
        project: Mapping[str, Any] | str | Path | XComArg,
        steps: Sequence[str] = ("freshness", "snapshot", "run", "test", "docs"),
        select: str | Sequence[str] | None = None,
        dbt: Mapping[str, Any] | None = None,
    ) -> None:
        if unknown := [step for step in steps if step not in STEPS]:
            raise SpecError(f"{unknown[0]!r} is not a step", todo=f"use some of {', '.join(STEPS)}", group=group_id)
        super().__init__(group_id=group_id)
        chosen = {step: command for step, command in STEPS.items() if step in steps}
        self.steps = {
            step: DbtOperator(
                task_id=step,
                task_group=self,
                project=project,
                command=command,
                select=None if step == _SELECTS_SOURCES else select,
                **(dbt or {}),
            )
            for step, command in chosen.items()
        }
        for step in self.steps.values():  # a build whose tests then fail is not a success to compare with
            step._completed_by = ("test",) if "test" in chosen else BUILDING
        if len(self.steps) > 1:
            chain(*self.steps.values())

    @property
    def outputs(self) -> list[Any]:
        """Return the steps' outputs, in their order."""
        return [task.output for task in self.steps.values()]
