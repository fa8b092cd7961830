"""The ``reverse-etl`` program. It loads Airflow and other heavy modules only in the commands that need them.

:mod:`.frame` has the exit codes.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from airflow_reverse_etl.cli import connections, dbt_cloud, rejected, state
from airflow_reverse_etl.cli.airflow import prepare_environment
from airflow_reverse_etl.cli.check import check
from airflow_reverse_etl.cli.doctor import doctor
from airflow_reverse_etl.cli.errors import errors
from airflow_reverse_etl.cli.exposures import exposures
from airflow_reverse_etl.cli.fields import fields
from airflow_reverse_etl.cli.frame import add_command
from airflow_reverse_etl.cli.init import init
from airflow_reverse_etl.cli.models import models
from airflow_reverse_etl.cli.plan import guards, plan
from airflow_reverse_etl.cli.run import full_resync, reset, run, send_one_row
from airflow_reverse_etl.cli.schema import schema
from airflow_reverse_etl.cli.show import show
from airflow_reverse_etl.cli.status import history, status
from airflow_reverse_etl.cli.validate import validate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; see :mod:`.frame`.

    :param arguments: default: those of this process, which is then the program itself.
    """
    if arguments is None:
        prepare_environment()
    program = build_program()
    try:
        program(args=None if arguments is None else list(arguments), prog_name="reverse-etl")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def build_program() -> Any:
    """Build the program with all commands."""
    return typer.main.get_command(_build_app())


def _build_app() -> typer.Typer:
    # A traceback with local variables would show rows and secrets.
    app = _group(
        "Reverse ETL for Airflow, from a terminal: preview, run and look after syncs.",
        pretty_exceptions_enable=False,
        add_completion=True,
    )
    app.callback()(_options)

    for name, function, text in (
        ("init", init, "write a sync and its DAG for a dbt model, and list what to set up"),
        ("validate", validate, "check syncs: files, model, columns and fields"),
        ("plan", plan, "show what a run would send: counts, keys and guards; sends nothing"),
        ("show", show, "show the exact requests of a few rows; sends nothing"),
        ("guards", guards, "compare what a run would send with the sync's guards; sends nothing"),
        ("send-one", send_one_row, "send one row of the plan, in a run like any other"),
        ("run", run, "run a sync: plan, load, commit"),
        ("reset", reset, "record every valid row as delivered, and send nothing"),
        ("full-resync", full_resync, "send every valid row again; removed rows are left for the next run"),
        ("status", status, "show how the last run of each sync ended"),
        ("history", history, "list the last runs of a sync"),
        ("models", models, "list the models of a dbt project, or describe one: key, columns, tests, syncs, rows"),
        ("fields", fields, "list the fields of a sync's destination"),
        (
            "doctor",
            doctor,
            "check this installation: versions, settings, state, types, and connections of syncs",
        ),
    ):
        add_command(app, name, function, help=text)
    app.add_typer(_rejected(), name="rejected")
    tested = _group("test Airflow connections")
    add_command(tested, "test", connections.test_all, help="test connections, as Airflow's form does")
    app.add_typer(tested, name="connections")
    earlier = {"grades_errors": False}
    add_command(
        app, "check", check, help="check what a change to a dbt project does to the syncs that use it", **earlier
    )
    add_command(app, "exposures", exposures, help="print dbt exposures for syncs, as YAML", **earlier)
    add_command(app, "schema", schema, help="print the JSON Schema of a sync file, for editors", **earlier)
    add_command(app, "errors", errors, help="explain errors and how to resolve them", **earlier)
    app.add_typer(_dbt_cloud(), name="dbt-cloud")
    app.add_typer(_state(), name="state")
    return app


def _group(help: str, **more: Any) -> typer.Typer:  # noqa: A002 - typer's name
    names = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(help=help, no_args_is_help=True, context_settings=names, **more)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    """Print the versions, from the metadata of what is installed: importing Airflow takes seconds."""
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    from airflow_reverse_etl import __version__

    airflow = "not installed"
    with contextlib.suppress(PackageNotFoundError):
        airflow = version("apache-airflow")
    print(f"reverse-etl {__version__}, Airflow {airflow}, Python {platform.python_version()}")
    raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="print the versions of this package, Airflow and Python",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Act on the options that come before a command."""


def _dbt_cloud() -> typer.Typer:
    group = _group("manage dbt Cloud")
    webhook = _group("manage the webhooks by which dbt Cloud notifies Airflow")
    group.add_typer(webhook, name="webhook")
    created = "create a webhook that reports finished runs of a job; print its secret, once"
    earlier = {"grades_errors": False}
    add_command(webhook, "create", dbt_cloud.create, help=created, **earlier)
    add_command(webhook, "list", dbt_cloud.list_all, help="list the webhooks of the account", **earlier)
    add_command(webhook, "test", dbt_cloud.ask_for_delivery, help="ask dbt Cloud for a test delivery", **earlier)
    add_command(webhook, "delete", dbt_cloud.delete, help="delete a webhook", **earlier)
    return group


def _rejected() -> typer.Typer:
    group = _group("find, release and dismiss the rows that a destination refused")
    for name, function, text in (
        ("list", rejected.list_rejected, "list the refused rows of a sync, with their keys and the reasons"),
        ("release", rejected.release, "let the next run try a row again, although it did not change"),
        ("dismiss", rejected.dismiss, "do not count a row as given up any more; it is sent when it changes"),
    ):
        add_command(group, name, function, help=text)
    return group


def _state() -> typer.Typer:
    group = _group("manage the state of syncs")
    for name, function, text in (
        ("list", state.list_all, "list the syncs that have state"),
        ("forget", state.forget, "delete the state of a sync: its next run sends every row"),
        ("forget-plans", state.forget_plans, "delete damaged or open plans: the next run sends their rows once more"),
        ("forget-record", state.forget_record, "delete one record from the state of a sync"),
        ("copy", state.copy, "copy the state of all syncs to another place, as a backup or to move it"),
        ("adopt", state.adopt, "move the state of a sync without an environment to this environment"),
    ):
        add_command(group, name, function, help=text, grades_errors=False)
    return group


if __name__ == "__main__":
    sys.exit(main())
