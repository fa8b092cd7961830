"""``reverse-etl check``."""

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

from airflow_reverse_etl.cli.options import FAILED, REVIEW, project_loader, syncs_of

if TYPE_CHECKING:
    from airflow_reverse_etl.check.findings import CheckReport


FORMATS = ("text", "json", "junit", "sarif", "github")
POLICIES = ("breaking", "any_change", "contract")
HOSTS = ("github", "gitlab", "bitbucket")


def run_check(options: argparse.Namespace) -> int:
    """Check a change; returns the exit code."""
    from airflow_reverse_etl.check.check import check_project

    outputs = [_output(text) for text in options.output or ["text"]]
    versions = project_loader(options)
    with _relaxed_gc():
        base, head = versions.load(options.base, built=True), versions.load(options.head)
        report = check_project(
            syncs_of(options, base), base, head, today=datetime.now(UTC).date(), policy=options.policy
        )
    _write(report, outputs)
    if options.report:
        _report(report, options)
    codes = {"failed": FAILED, "needs review": 0 if options.allow_review else REVIEW, "passed": 0}
    return codes[report.conclusion]


@contextmanager
def _relaxed_gc() -> Iterator[None]:
    """Manifests are millions of objects that all stay: looking for garbage among them took a third of the time."""
    usual = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _output(text: str) -> tuple[str, Path | None]:
    from airflow_reverse_etl.errors import ConfigurationError

    name, _, file = text.partition("=")
    if name not in FORMATS:
        raise ConfigurationError(f"there is no output format {name!r}", todo=f"use one of {', '.join(FORMATS)}")
    return name, Path(file) if file else None


def _write(report: CheckReport, outputs: Sequence[tuple[str, Path | None]]) -> None:
    from airflow_reverse_etl.check.reports import formats

    for name, file in outputs:
        text = formats.FORMATS[name](report)
        if file:
            file.write_text(text, encoding="utf-8")
        else:
            print(text, end="")


def _report(report: CheckReport, options: argparse.Namespace) -> None:
    """Not being able to tell is said, and changes nothing about the check's outcome."""
    from airflow_reverse_etl.check.reports.hosts import from_environment
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        reporter = from_environment(options.report, os.environ)
        print("\n".join(reporter.publish(report, review_blocks=not options.allow_review)), file=sys.stderr)
    except ReverseEtlError as error:
        print(f"reverse-etl: could not report to {options.report}: {error}", file=sys.stderr)
