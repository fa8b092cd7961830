"""The command ``reverse-etl check``."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_reverse_etl.cli.options import FAILED, REVIEW, no_syncs, project_loader, syncs_in_files

if TYPE_CHECKING:
    from airflow_reverse_etl.check.findings import CheckReport

# Repeated here, so that the parser of the command line is built without importing the check.
FORMATS = ("text", "json", "junit", "sarif", "github")
POLICIES = ("breaking", "any_change", "contract")
HOSTS = ("github", "gitlab", "bitbucket")


def run_check(options: argparse.Namespace) -> int:
    """Check a change and return the exit code."""
    from airflow_reverse_etl.check.check import check_project

    outputs = [_output(text) for text in options.output or ["text"]]
    loader = project_loader(options)
    today = datetime.now(UTC).date()
    with _relaxed_gc():
        base = loader.load(options.base, built=True)
        head = loader.load(options.head)
        sources, invalid = syncs_in_files(options)
        report = check_project(sources, base, head, today=today, policy=options.policy, invalid=invalid)
    if not report.syncs and not report.findings:
        raise no_syncs(options)
    _write(report, outputs)
    if options.report:
        _publish(report, options)
    if report.conclusion == "failed":
        return FAILED
    if report.conclusion == "needs review" and not options.allow_review:
        return REVIEW
    return 0


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


def _write(report: CheckReport, outputs: Sequence[tuple[str, Path | None]]) -> None:
    from airflow_reverse_etl.check.reports import formats

    for name, file in outputs:
        text = formats.FORMATS[name](report)
        if file:
            file.write_text(text, encoding="utf-8")
        else:
            print(text, end="")


def _publish(report: CheckReport, options: argparse.Namespace) -> None:
    """Report to the Git host. A failure is printed and leaves the exit code of the check as it is."""
    from airflow_reverse_etl.check.reports.hosts import from_environment
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        reporter = from_environment(options.report, os.environ)
        done = reporter.publish(report, review_blocks=not options.allow_review)
        print("\n".join(done), file=sys.stderr)
    except ReverseEtlError as error:
        print(f"reverse-etl: could not report to {options.report}: {error}", file=sys.stderr)
