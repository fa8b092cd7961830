"""The commands ``reverse-etl run``, ``reset``, ``full-resync`` and ``send-one``: runs, as an operator does them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.options import Project, SyncFile
from airflow_reverse_etl.cli.output import Table, is_terminal, show

if TYPE_CHECKING:
    from airflow_reverse_etl.cli.progress import RunObserver
    from airflow_reverse_etl.cli.session import Session
    from airflow_reverse_etl.spec.report import RunReport
    from airflow_reverse_etl.sync.context import RunOptions

LiftGuards = Annotated[
    list[str] | None,
    typer.Option(
        "--lift-guard",
        metavar="NAME",
        help="guard that does not stop this run: min_rows, max_removed, max_changes or all; may be repeated",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")]


def run(
    sync: SyncFile,
    project: Project = None,
    lift_guard: LiftGuards = None,
    on_destination_change: Annotated[
        Literal["stop", "resync", "keep"] | None,
        typer.Option(
            help="what to do if the destination is another place than before: stop, resync or keep; default: as the "
            "sync says"
        ),
    ] = None,
) -> Answer:
    """Plan, load and commit; waits while another run of the sync is at work."""
    from airflow_reverse_etl.sync.context import RunOptions

    lifted = lifted_guards(lift_guard)
    return _run(sync, project, RunOptions(on_destination_change=on_destination_change or "", lift_guards=lifted))


def reset(sync: SyncFile, project: Project = None, yes: Yes = False) -> Answer:
    """Record every valid row as delivered, and send nothing."""
    from airflow_reverse_etl.sync.context import RunOptions

    _confirm(f"Record every valid row of {sync} as delivered, without sending it?", yes=yes)
    return _run(sync, project, RunOptions(reset=True))


def full_resync(sync: SyncFile, project: Project = None, lift_guard: LiftGuards = None, yes: Yes = False) -> Answer:
    """Send every valid row again; removed rows are left for the next run."""
    from airflow_reverse_etl.sync.context import RunOptions

    _confirm(f"Send every valid row of {sync} again?", yes=yes)
    return _run(sync, project, RunOptions(full_resync=True, lift_guards=lifted_guards(lift_guard)))


def send_one_row(
    sync: SyncFile,
    row: Annotated[
        str,
        typer.Option(metavar="KEY", help="primary key of the row; a JSON array of texts if it has several parts"),
    ],
    project: Project = None,
) -> Answer:
    """Send one row of the plan, in a run like any other."""
    from airflow_reverse_etl.sync.run import send_one

    def work(session: Session) -> Coroutine[Any, Any, RunReport]:
        return send_one(session.sync, session.model, session.destination, session.context, key=row)

    return _do(sync, project, work)


def lifted_guards(names: Sequence[str] | None) -> frozenset[str]:
    """Return the guards that an option lifts.

    :raises ConfigurationError: it names unknown guards.
    """
    from airflow_reverse_etl.sync.guards import lifted_guards as lifted

    value: bool | list[str] = True if names and "all" in names else list(names or ())
    return lifted(value, where="--lift-guard", sync="")


def _confirm(question: str, *, yes: bool) -> None:
    """Ask a person, unless the answer is given.

    :raises ConfigurationError: the person says no, or no person can answer.
    """
    from airflow_reverse_etl.errors import ConfigurationError

    if yes:
        return
    if not is_terminal(sys.stdin):
        raise ConfigurationError(
            "the command asks for confirmation, and standard input is not a terminal", todo="confirm with --yes"
        )
    if not typer.confirm(question, err=True):
        raise ConfigurationError("nothing was done", todo="answer y, or pass --yes")


def _run(path: str, project: str | None, options: RunOptions) -> Answer:
    from airflow_reverse_etl.sync.run import run_sync

    def work(session: Session) -> Coroutine[Any, Any, RunReport]:
        return run_sync(session.sync, session.model, session.destination, session.context, options)

    return _do(path, project, work)


def _do(path: str, project: str | None, work: Callable[[Session], Coroutine[Any, Any, RunReport]]) -> Answer:
    from airflow_reverse_etl.cli.progress import run_observer
    from airflow_reverse_etl.cli.session import open_sync, wait_for
    from airflow_reverse_etl.errors import ReverseEtlError

    with run_observer() as observer, open_sync(path, project, observer=observer) as session:
        drift = _look_for_drift(session, observer)
        try:
            report = wait_for(work(session))
        except ReverseEtlError as error:
            if error.report is not None:
                show(parts_of(session.sync.name, error.report))  # standard output is standard error until the answer
            raise
    data = report.to_json()
    if drift:
        data["drift"] = drift
    return Answer(data, parts_of(session.sync.name, report))


def _look_for_drift(session: Session, observer: RunObserver) -> list[dict[str, str]]:
    """Find and log changes to the model since the sync's last run, as its ``drift`` asks."""
    from airflow_reverse_etl.check.drift_memory import look_for_drift
    from airflow_reverse_etl.cli.airflow import wiring

    files = wiring().state_files()
    query = session.model.query
    found, _ = look_for_drift(session.sync, query=query, warehouse=session.warehouse, files=files, output=None)
    for finding in found:
        observer.write(f"{session.sync.name}: changed since the last run: {finding.message}")
    return [{"rule": finding.rule, "level": finding.level.value, "message": finding.message} for finding in found]


def parts_of(name: str, report: RunReport) -> list[str | Table]:
    """Return the counts of a run that are not zero, the reasons, and where to look further."""
    counts = {**dict(report.planned), **_outcomes(report)}
    rows = [(count, f"{rows:,}") for count, rows in counts.items() if rows]
    requests = "request" if report.requests == 1 else "requests"
    parts: list[str | Table] = [f"{name}: run {report.run_id}, {report.requests:,} {requests}, {report.seconds:.1f} s"]
    parts.append(Table(("rows", "number"), rows) if rows else "Nothing was to be sent.")
    if report.reasons:
        parts.append(reasons_of(report.reasons))
    if report.rejected or report.given_up:
        parts.append(f"See the rows: reverse-etl rejected list {name}")
    return parts


def _outcomes(report: RunReport) -> dict[str, int]:
    names = ("accepted", "rejected", "retryable", "unknown", "skipped", "given_up", "moved", "held")
    return {name.replace("_", " "): getattr(report, name) for name in names}


def reasons_of(reasons: Sequence[Mapping[str, Any]]) -> Table:
    """Return the reasons why rows were not accepted, as a table."""
    rows = [
        (f"{reason['count']:,}", str(reason["code"]), str(reason.get("status") or "-"), str(reason["message"]))
        for reason in reasons
    ]
    return Table(("rows", "code", "status", "message"), rows)
