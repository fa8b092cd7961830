"""``reverse-etl``: what can be done without Airflow running. Imports no Airflow, and nothing heavy before it is needed.

Exit codes: 0 passed, 1 the change would break a sync, 2 the check itself could not be done, 3 something needs review.
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
    """Run a command; the exit code is in the module's docstring."""
    options = build_parser().parse_args(arguments)
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        done = options.run(options)
    except ReverseEtlError as error:
        print(f"reverse-etl: {error.with_hint()}", file=sys.stderr)
        return UNUSABLE
    if isinstance(done, str):
        print(done)
        return 0
    return int(done)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    from airflow_reverse_etl.cli import dbt_cloud

    parser = argparse.ArgumentParser(prog="reverse-etl", description="Reverse ETL for Airflow, from a shell.")
    commands = parser.add_subparsers(required=True, metavar="command")

    check = commands.add_parser("check", help="what a change to a dbt project would do to the syncs that use it")
    check.add_argument("--base", required=True, help="before: a manifest.json, a folder, or a Git ref")
    check.add_argument("--head", default=".", help="after: the same; default: the folder here")
    check.add_argument("--policy", choices=POLICIES, default=POLICIES[0])
    check.add_argument(
        "--output",
        action="append",
        metavar="FORMAT[=FILE]",
        help=f"{', '.join(FORMATS)}; may be repeated; default: text",
    )
    check.add_argument("--report", choices=HOSTS, help="tell the Git host, as the CI job's environment describes it")
    check.add_argument("--allow-review", action="store_true", help="exit with 0 when something only needs review")
    add_project_options(check)
    check.set_defaults(run=run_check)

    exposures = commands.add_parser("exposures", help="dbt exposures for syncs, as YAML")
    exposures.add_argument("--project", default=".", help="a manifest.json, a folder, or a Git ref; default: here")
    exposures.add_argument("--owner", required=True, help="name or e-mail address that dbt shows")
    add_project_options(exposures)
    exposures.set_defaults(run=run_exposures)

    schema = commands.add_parser("schema", help="the JSON Schema of a sync file, for editors")
    schema.set_defaults(run=run_schema)

    errors = commands.add_parser("errors", help="what can go wrong, and what to do about it")
    errors.add_argument("name", nargs="?", default="", help="only what is about this error, such as CredentialsError")
    errors.set_defaults(run=run_errors)
    dbt_cloud.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
