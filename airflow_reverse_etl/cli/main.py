"""The ``reverse-etl`` program. It loads Airflow and other heavy modules only in the commands that need them.

Exit codes: 0 passed, 1 the change would break a sync, 2 the command could not be carried out, 3 the change needs
review.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from airflow_reverse_etl.cli.check import FORMATS, HOSTS, POLICIES, run_check
from airflow_reverse_etl.cli.errors import run_errors
from airflow_reverse_etl.cli.exposures import run_exposures
from airflow_reverse_etl.cli.options import UNUSABLE, add_project_options
from airflow_reverse_etl.cli.schema import run_schema


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; see the module's docstring."""
    options = build_parser().parse_args(arguments)
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        result = options.run(options)
    except ReverseEtlError as error:
        print(f"reverse-etl: {error.with_hint()}", file=sys.stderr)
        return UNUSABLE
    # A command returns either the text to print or an exit code.
    if isinstance(result, str):
        print(result)
        return 0
    return int(result)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    from airflow_reverse_etl.cli import dbt_cloud, state

    parser = argparse.ArgumentParser(prog="reverse-etl", description="Reverse ETL for Airflow, from a shell")
    commands = parser.add_subparsers(required=True, metavar="command")

    check = commands.add_parser("check", help="check what a change to a dbt project does to the syncs that use it")
    check.add_argument(
        "--base", required=True, help="project before the change: a manifest.json, a folder, or a Git ref"
    )
    check.add_argument(
        "--head",
        default=".",
        help="project after the change: a manifest.json, a folder, or a Git ref; default: the current folder",
    )
    check.add_argument(
        "--policy",
        choices=POLICIES,
        default=POLICIES[0],
        help=f"changes that fail the check: {', '.join(POLICIES)}; default: {POLICIES[0]}",
    )
    check.add_argument(
        "--output",
        action="append",
        metavar="FORMAT[=FILE]",
        help=f"format of the report, and a file for it: {', '.join(FORMATS)}; may be repeated; default: text",
    )
    check.add_argument("--report", choices=HOSTS, help="Git host to report to, found in the CI job's environment")
    check.add_argument("--allow-review", action="store_true", help="exit code 0 for a change that only needs review")
    add_project_options(check)
    check.set_defaults(run=run_check)

    exposures = commands.add_parser("exposures", help="print dbt exposures for syncs, as YAML")
    exposures.add_argument(
        "--project", default=".", help="a manifest.json, a folder, or a Git ref; default: the current folder"
    )
    exposures.add_argument("--owner", required=True, help="owner that dbt shows: a name or an e-mail address")
    add_project_options(exposures)
    exposures.set_defaults(run=run_exposures)

    schema = commands.add_parser("schema", help="print the JSON Schema of a sync file, for editors")
    schema.set_defaults(run=run_schema)

    errors = commands.add_parser("errors", help="explain errors and how to resolve them")
    errors.add_argument("name", nargs="?", default="", help="name of one error, such as CredentialsError; default: all")
    errors.set_defaults(run=run_errors)

    dbt_cloud.add_commands(commands)
    state.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
