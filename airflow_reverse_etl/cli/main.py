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

from airflow_reverse_etl.cli import dbt_cloud, state
from airflow_reverse_etl.cli.airflow import prepare_environment
from airflow_reverse_etl.cli.check import check
from airflow_reverse_etl.cli.errors import errors
from airflow_reverse_etl.cli.exposures import exposures
from airflow_reverse_etl.cli.frame import add_command
from airflow_reverse_etl.cli.schema import schema
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

    add_command(app, "validate", validate, help="check syncs: files, model, columns and fields")
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


def _state() -> typer.Typer:
    group = _group("manage the state of syncs")
    for name, function, text in (
        ("list", state.list_all, "list the syncs that have state"),
        ("forget", state.forget, "delete the state of a sync: its next run sends every row"),
        ("forget-record", state.forget_record, "delete one record from the state of a sync"),
        ("rejections", state.rejections, "list the rows of a sync that its destination refused"),
        ("release", state.release, "let the next run try a given-up row again, although it did not change"),
        ("dismiss", state.dismiss, "count a rejected row as given up no more; it is sent when it changes"),
        ("copy", state.copy, "copy the state of all syncs to another place, as a backup or to move it"),
        ("adopt", state.adopt, "move the state of a sync without an environment to this environment"),
    ):
        add_command(group, name, function, help=text, grades_errors=False)
    return group


if __name__ == "__main__":
    sys.exit(main())
