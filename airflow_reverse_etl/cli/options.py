"""Options that several commands share, and the exit codes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_reverse_etl.check.load_project import ProjectLoader
    from airflow_reverse_etl.check.project_version import ProjectVersion
    from airflow_reverse_etl.check.usage import SyncSource


FAILED, UNUSABLE, REVIEW = 1, 2, 3


def add_project_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where project and syncs are."""
    parser.add_argument("--syncs", action="append", default=[], help="folder or file of syncs; may be repeated")
    parser.add_argument("--project-path", default=".", help="folder of dbt_project.yml in the repository")
    parser.add_argument("--dbt", default="dbt", help="dbt executable, where there is no manifest yet")
    parser.add_argument("--target", help="dbt target, where there is no manifest yet")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="environment variable that the dbt project needs"
    )


def project_loader(options: argparse.Namespace) -> ProjectLoader:
    """Load versions of the project as the options say."""
    from airflow_reverse_etl.check.load_project import ProjectLoader
    from airflow_reverse_etl.errors import ConfigurationError

    missing = [name for name in options.env if name not in os.environ]
    if missing:
        raise ConfigurationError(f"environment variables are not set: {', '.join(missing)}", todo="set them")
    return ProjectLoader(
        options.project_path, options.dbt, options.target, {name: os.environ[name] for name in options.env}
    )


def syncs_of(options: argparse.Namespace, version: ProjectVersion) -> list[SyncSource]:
    """From the folders given, and from the models' own meta. One that cannot be read stops everything."""
    from airflow_reverse_etl.check.exposures import syncs_in_meta
    from airflow_reverse_etl.check.usage import read_syncs
    from airflow_reverse_etl.errors import ConfigurationError, SpecError

    sources, errors = syncs_in_meta(version.catalog)
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
