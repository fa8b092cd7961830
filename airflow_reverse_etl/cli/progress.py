"""The events of a run on standard error: a progress bar on a terminal, lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.cli.output import console, is_terminal
from airflow_reverse_etl.sync.log_observer import LogObserver

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class RunObserver(LogObserver):
    """Observer that writes each event as a line, and progress into a bar if there is one."""

    def __init__(self, bar: Progress | None) -> None:
        super().__init__(self.write)
        self._bar = bar
        self._task: TaskID | None = None

    def write(self, line: str) -> None:
        """Write a line, above the bar."""
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def event(self, name: str, **facts: Any) -> None:
        if self._bar is None or name != "progress":
            super().event(name, **facts)
            return
        if self._task is None:
            self._task = self._bar.add_task(str(facts["sync"]), total=None)
        total = facts["total"]
        rejected = facts["rejected"]
        self._bar.update(self._task, completed=facts["settled"], total=total, rejected=f"{rejected:,} rejected")


@contextmanager
def run_observer() -> Iterator[RunObserver]:
    """Make an observer for the block. Its bar disappears at the end."""
    if not is_terminal(sys.stderr):
        yield RunObserver(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rejected]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        yield RunObserver(bar)
