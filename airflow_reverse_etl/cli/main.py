"""``reverse-etl``: what can be done without Airflow running. Imports no Airflow, and nothing heavy before it is needed.

Exit codes: 0 passed, 1 the change would break a sync, 2 the check itself could not be done, 3 something needs review.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_reverse_etl.check.findings import Report
    from airflow_reverse_etl.check.load_project import Versions
    from airflow_reverse_etl.check.project_version import Side
    from airflow_reverse_etl.check.usage import SyncSource

FORMATS = ("text", "json", "junit", "sarif", "github")
POLICIES = ("breaking", "any_change", "contract")
HOSTS = ("github", "gitlab", "bitbucket")
FAILED, UNUSABLE, REVIEW = 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is in the module's docstring."""
    options = _parser().parse_args(arguments)
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        done = options.run(options)
    except ReverseEtlError as error:
        print(f"reverse-etl: {error.told()}", file=sys.stderr)
        return UNUSABLE
    if isinstance(done, str):
        print(done)
        return 0
    return int(done)


def _parser() -> argparse.ArgumentParser:
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
    _project_options(check)
    check.set_defaults(run=_check)

    exposures = commands.add_parser("exposures", help="dbt exposures for syncs, as YAML")
    exposures.add_argument("--project", default=".", help="a manifest.json, a folder, or a Git ref; default: here")
    exposures.add_argument("--owner", required=True, help="name or e-mail address that dbt shows")
    _project_options(exposures)
    exposures.set_defaults(run=_exposures)

    schema = commands.add_parser("schema", help="the JSON Schema of a sync file, for editors")
    schema.set_defaults(run=_schema)

    errors = commands.add_parser("errors", help="what can go wrong, and what to do about it")
    errors.add_argument("name", nargs="?", default="", help="only what is about this error, such as CredentialsError")
    errors.set_defaults(run=_errors)
    dbt_cloud.add_commands(commands)
    return parser


def _project_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--syncs", action="append", default=[], help="folder or file of syncs; may be repeated")
    parser.add_argument("--project-path", default=".", help="folder of dbt_project.yml in the repository")
    parser.add_argument("--dbt", default="dbt", help="dbt executable, where there is no manifest yet")
    parser.add_argument("--target", help="dbt target, where there is no manifest yet")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="environment variable that the dbt project needs"
    )


def _check(options: argparse.Namespace) -> int:
    from airflow_reverse_etl.check.check import check

    outputs = [_output(text) for text in options.output or ["text"]]
    versions = _versions(options)
    with _little_garbage():
        base, head = versions.side(options.base, built=True), versions.side(options.head)
        report = check(_syncs(options, base), base, head, today=datetime.now(UTC).date(), policy=options.policy)
    _write(report, outputs)
    if options.report:
        _tell(report, options)
    codes = {"failed": FAILED, "needs review": 0 if options.allow_review else REVIEW, "passed": 0}
    return codes[report.conclusion]


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Manifests are millions of objects that all stay: looking for garbage among them took a third of the time."""
    usual = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _exposures(options: argparse.Namespace) -> str:
    from airflow_reverse_etl.check.exposures import exposures

    side = _versions(options).side(options.project)
    return exposures(_syncs(options, side), side, owner=options.owner).rstrip()


def _schema(_: argparse.Namespace) -> str:
    import json

    from airflow_reverse_etl.spec.model import Sync

    return json.dumps(Sync.json_schema(), indent=2)


def _errors(options: argparse.Namespace) -> str:
    """The page of the documentation, of which the package has a copy."""
    from airflow_reverse_etl.errors import ConfigurationError

    page = Path(__file__).parents[1].joinpath("errors.md").read_text(encoding="utf-8")
    name = options.name
    sections = [section for section in re.split(r"(?m)^(?=## )", page) if not name or f"`{name}`" in section]
    if not sections:
        raise ConfigurationError(f"there is no error {name!r}", todo="leave the name out to see them all")
    return "".join(sections).rstrip()


def _versions(options: argparse.Namespace) -> Versions:
    from airflow_reverse_etl.check.load_project import Versions
    from airflow_reverse_etl.errors import ConfigurationError

    missing = [name for name in options.env if name not in os.environ]
    if missing:
        raise ConfigurationError(f"environment variables are not set: {', '.join(missing)}", todo="set them")
    return Versions(options.project_path, options.dbt, options.target, {name: os.environ[name] for name in options.env})


def _syncs(options: argparse.Namespace, side: Side) -> list[SyncSource]:
    """From the folders given, and from the models' own meta. One that cannot be read stops everything."""
    from airflow_reverse_etl.check.exposures import syncs_in_meta
    from airflow_reverse_etl.check.usage import read_syncs
    from airflow_reverse_etl.errors import ConfigurationError, SpecError

    sources, errors = syncs_in_meta(side.catalog)
    for folder in options.syncs:
        found, wrong = read_syncs(Path(folder))
        sources, errors = sources + found, errors + wrong
    if errors:
        problems = tuple(line for error in errors for line in (error.problems or (str(error),)))
        raise SpecError(f"{len(errors)} syncs cannot be read", problems=problems, todo="correct them first")
    if not sources:
        raise ConfigurationError(
            "there are no syncs to check", todo="give the folder of their YAML files as --syncs", syncs=options.syncs
        )
    return sources


def _output(text: str) -> tuple[str, Path | None]:
    from airflow_reverse_etl.errors import ConfigurationError

    name, _, file = text.partition("=")
    if name not in FORMATS:
        raise ConfigurationError(f"there is no output format {name!r}", todo=f"use one of {', '.join(FORMATS)}")
    return name, Path(file) if file else None


def _write(report: Report, outputs: Sequence[tuple[str, Path | None]]) -> None:
    from airflow_reverse_etl.check.reports import formats

    for name, file in outputs:
        text = formats.FORMATS[name](report)
        if file:
            file.write_text(text, encoding="utf-8")
        else:
            print(text, end="")


def _tell(report: Report, options: argparse.Namespace) -> None:
    """Not being able to tell is said, and changes nothing about the check's outcome."""
    from airflow_reverse_etl.check.reports.hosts import from_environment
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        reporter = from_environment(options.report, os.environ)
        print("\n".join(reporter.publish(report, review_blocks=not options.allow_review)), file=sys.stderr)
    except ReverseEtlError as error:
        print(f"reverse-etl: could not report to {options.report}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
