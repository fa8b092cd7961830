"""The commands ``reverse-etl status`` and ``history``: what the state knows of syncs and their runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.options import StateConnection, SyncOrName
from airflow_reverse_etl.cli.output import Table

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_reverse_etl.stores.state import PastRun, SyncState

_USUAL_COUNTS = ("accepted", "rejected")
_RUN_COUNTS = ("accepted", "rejected", "retryable", "unknown", "given_up")


def status(
    sync: Annotated[
        str | None,
        typer.Argument(
            metavar="[SYNC]",
            help="YAML file of a sync; or its name, if its state is under the state_url; default: all that have state",
        ),
    ] = None,
    connection: StateConnection = None,
) -> Answer:
    """Show how the last run of each sync ended, and whether a run is not finished."""
    from airflow_reverse_etl.cli.airflow import state_store
    from airflow_reverse_etl.cli.session import open_state
    from airflow_reverse_etl.stores.state import no_state

    if sync is None:
        with state_store(connection) as store:
            found = [_status(store, state) for state in store.syncs()]
        return _statuses(found) if found else Answer([], ["no state found"])
    with open_state(sync, connection) as (name, store):
        states = [state for state in store.syncs() if state.sync == name]
        if not states:
            raise no_state(name)
        found = [_status(store, state) for state in states]
        reasons = [reason for run in store.past_runs(name, limit=1) for reason in run.report.reasons]
    answer = _statuses(found)
    if not reasons:
        return answer
    from airflow_reverse_etl.cli.run import reasons_of

    return dataclasses.replace(answer, shown=[*answer.shown, reasons_of(reasons)])


def _status(store: Any, state: SyncState) -> dict[str, Any]:
    runs: Sequence[PastRun] = store.past_runs(state.sync, limit=1)
    report = runs[0].report if runs else None
    unfinished = [plan.run_id for plan in store.unfinished(state.sync)]
    verdict = "ok"
    if unfinished:
        verdict = "unfinished"
    elif report and report.rejected:
        verdict = "rejected"
    elif report and report.given_up:
        verdict = "given up"
    return {
        "sync": state.sync,
        "status": verdict,
        "records": state.rows,
        "last_run": state.last_run,
        "destination": state.destination,
        "unfinished": unfinished,
        "report": report.to_json() if report else None,
    }


def _statuses(found: Sequence[dict[str, Any]]) -> Answer:
    reports = [state["report"] or {} for state in found]
    names = _shown_counts(reports)
    rows = []
    for state, report in zip(found, reports, strict=True):
        counts = [f"{report[name]:,}" if report else "-" for name in names]
        last = _minute(state["last_run"]) if state["last_run"] else "never"
        rows.append((state["sync"], state["status"], last, f"{state['records']:,}", *counts))
    head = ("sync", "status", "last run", "records", *_words(names))
    return Answer(found, [Table(head, rows)])


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


def history(
    sync: SyncOrName,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="most runs to list; default: 20")] = 20,
    connection: StateConnection = None,
) -> Answer:
    """List the last runs of a sync, the last one first."""
    from airflow_reverse_etl.cli.session import open_state

    with open_state(sync, connection) as (name, store):
        runs: Sequence[PastRun] = store.past_runs(name, limit=limit)
    data = [
        {
            "planned_at": run.planned_at.isoformat(),
            "committed_at": run.committed_at.isoformat(),
            "mode": run.mode,
            **run.report.to_json(),
        }
        for run in runs
    ]
    if not runs:
        return Answer(data, ["no runs found"])
    names = _shown_counts([run.report.to_json() for run in runs])
    head = ("planned", "mode", "added", "changed", "removed", *_words(names), "seconds")
    return Answer(data, [Table(head, [_cells(run, names) for run in runs])])


def _cells(run: PastRun, names: Sequence[str]) -> tuple[str, ...]:
    report = run.report
    planned = report.planned
    counts = (planned.added, planned.changed, planned.removed, *(getattr(report, name) for name in names))
    return (_minute(run.planned_at), run.mode, *(f"{count:,}" for count in counts), f"{report.seconds:.1f}")


def _shown_counts(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the counts that a table shows: the usual ones, and those that some run has. A terminal has few columns."""
    seen = {name for report in reports for name in _RUN_COUNTS if report.get(name)}
    return [name for name in _RUN_COUNTS if name in _USUAL_COUNTS or name in seen]


def _words(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]
