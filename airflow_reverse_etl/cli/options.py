"""Options that several commands share, and the exit codes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_reverse_etl.check.project.loader import ProjectLoader
    from airflow_reverse_etl.check.project.version import ProjectVersion
    from airflow_reverse_etl.check.usage import SyncSource
    from airflow_reverse_etl.errors import ConfigurationError, SpecError

# Exit codes; see airflow_reverse_etl.cli.main.
FAILED = 1
UNUSABLE = 2
REVIEW = 3


def add_project_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that locate the project and the syncs."""
    parser.add_argument("--syncs", action="append", default=[], help="folder or file of syncs; may be repeated")
    parser.add_argument("--project-path", default=".", help="folder of dbt_project.yml in the repository")
    parser.add_argument("--dbt", default="dbt", help="dbt executable for a project without an up-to-date manifest")
    parser.add_argument("--target", help="dbt target for a project without an up-to-date manifest")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="environment variable that the dbt project reads; may be repeated",
    )


def project_loader(options: argparse.Namespace) -> ProjectLoader:
    """Return the loader of project versions that the options describe.

    :raises ConfigurationError: an environment variable named by ``--env`` is not set.
    """
    from airflow_reverse_etl.check.project.loader import ProjectLoader
    from airflow_reverse_etl.errors import ConfigurationError

    missing = [name for name in options.env if name not in os.environ]
    if missing:
        raise ConfigurationError(
            f"environment variables not set: {', '.join(missing)}", todo="set them, or leave out their --env"
        )
    env = {name: os.environ[name] for name in options.env}
    return ProjectLoader(options.project_path, options.dbt, options.target, env)


def syncs_in_files(options: argparse.Namespace) -> tuple[list[SyncSource], list[SpecError]]:
    """Return the valid syncs of the folders and files given by ``--syncs``, and an error for each invalid one."""
    from airflow_reverse_etl.check.usage import read_syncs

    sources: list[SyncSource] = []
    errors: list[SpecError] = []
    for folder in options.syncs:
        found, invalid = read_syncs(Path(folder))
        sources += found
        errors += invalid
    return sources, errors


def syncs_of(options: argparse.Namespace, version: ProjectVersion) -> list[SyncSource]:
    """Return the syncs of the folders given by ``--syncs`` and those in the meta of the models.

    :raises SpecError: a sync cannot be read. :raises ConfigurationError: no syncs found.
    """
    from airflow_reverse_etl.check.exposures import syncs_in_meta
    from airflow_reverse_etl.errors import SpecError

    in_meta, wrong = syncs_in_meta(version.catalog)
    in_files, invalid = syncs_in_files(options)
    problems: list[str] = []
    for error in (*wrong, *invalid):
        problems += error.problems or (str(error),)
    if problems:
        raise SpecError(
            f"{len(wrong) + len(invalid)} syncs cannot be read",
            problems=tuple(problems),
            todo="correct the problems listed above",
        )
    if not in_meta and not in_files:
        raise no_syncs(options)
    return in_meta + in_files


def no_syncs(options: argparse.Namespace) -> ConfigurationError:
    """Build the error of a command that finds no syncs."""
    from airflow_reverse_etl.errors import ConfigurationError

    return ConfigurationError(
        "no syncs found", todo="pass the folder of their YAML files as --syncs", syncs=options.syncs
    )
