"""The command ``reverse-etl check``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from airflow_reverse_etl.cli.frame import FAILED, PASSED, REVIEW, Answer
from airflow_reverse_etl.cli.options import (
    Dbt,
    Env,
    PrivacyFile,
    ProjectPath,
    Syncs,
    Target,
    no_syncs,
    policy_of,
    project_loader,
    syncs_in_files,
)
from airflow_reverse_etl.cli.output import print_error

if TYPE_CHECKING:
    from airflow_reverse_etl.check.findings import CheckReport

# Repeated here, so that the commands are known without importing the check.
FORMATS = ("text", "json", "junit", "sarif", "github")
Policy = Literal["breaking", "any_change", "contract"]
Host = Literal["github", "gitlab", "bitbucket"]


def check(
    base: Annotated[str, typer.Option(help="project before the change: a manifest.json, a folder, or a Git ref")],
    head: Annotated[
        str,
        typer.Option(
            help="project after the change: a manifest.json, a folder, or a Git ref; default: the current folder"
        ),
    ] = ".",
    policy: Annotated[
        Policy, typer.Option(help="changes that fail the check: breaking, any_change, contract; default: breaking")
    ] = "breaking",
    output: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT[=FILE]",
            help=f"format of the report, and a file for it: {', '.join(FORMATS)}; may be repeated; default: text",
        ),
    ] = None,
    report: Annotated[
        Host | None, typer.Option(help="Git host to report to, found in the CI job's environment")
    ] = None,
    allow_review: Annotated[
        bool, typer.Option("--allow-review", help="exit code 0 for a change that only needs review")
    ] = False,
    privacy: PrivacyFile = None,
    syncs: Syncs = None,
    project_path: ProjectPath = ".",
    dbt: Dbt = "dbt",
    target: Target = None,
    env: Env = None,
) -> Answer:
    """Check a change."""
    import json

    from airflow_reverse_etl.check.check import check_project
    from airflow_reverse_etl.check.reports import formats
    from airflow_reverse_etl.cli.airflow import environment

    outputs = [_output(text) for text in output or ["text"]]
    loader = project_loader(project_path, dbt, target, env)
    today = datetime.now(UTC).date()
    with _relaxed_gc():
        before = loader.load(base, built=True)
        after = loader.load(head)
        sources, invalid = syncs_in_files(syncs)
        rules = policy_of(privacy)
        found = check_project(
            sources,
            before,
            after,
            today=today,
            policy=policy,
            invalid=invalid,
            privacy=rules,
            environment=environment(),
        )
    if not found.syncs and not found.findings:
        raise no_syncs(syncs)
    printed = _write(found, outputs)
    if report:
        _publish(found, report, review_blocks=not allow_review)
    code = PASSED
    if found.conclusion == "failed":
        code = FAILED
    elif found.conclusion == "needs review" and not allow_review:
        code = REVIEW
    return Answer(json.loads(formats.FORMATS["json"](found)), printed, code)


@contextmanager
def _relaxed_gc() -> Iterator[None]:
    """Collect garbage rarely while manifests are read.

    Two large manifests are millions of objects that all stay alive; collecting took a third of the time of a check.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _output(text: str) -> tuple[str, Path | None]:
    """Split ``FORMAT[=FILE]`` into the format and the file, with None for standard output."""
    from airflow_reverse_etl.errors import ConfigurationError

    name, _, file = text.partition("=")
    if name not in FORMATS:
        raise ConfigurationError(f"output format {name!r} not found", todo=f"use one of {', '.join(FORMATS)}")
    return name, Path(file) if file else None


def _write(report: CheckReport, outputs: Sequence[tuple[str, Path | None]]) -> list[str]:
    """Write the report into the files, and return the texts for standard output."""
    from airflow_reverse_etl.check.reports import formats

    printed = []
    for name, file in outputs:
        text = formats.FORMATS[name](report)
        if file:
            file.write_text(text, encoding="utf-8")
        else:
            printed.append(text)
    return printed


def _publish(report: CheckReport, host: str, *, review_blocks: bool) -> None:
    """Report to the Git host. A failure is printed and leaves the exit code of the check as it is."""
    from airflow_reverse_etl.check.reports.hosts import from_environment
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        reporter = from_environment(host, os.environ)
        done = reporter.publish(report, review_blocks=review_blocks)
        print("\n".join(done), file=sys.stderr)
    except ReverseEtlError as error:
        print_error(f"could not report to {host}: {error}")
