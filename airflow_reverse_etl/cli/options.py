"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from airflow_reverse_etl.check.project.loader import ProjectLoader
    from airflow_reverse_etl.check.project.version import ProjectVersion
    from airflow_reverse_etl.errors import ConfigurationError, SpecError
    from airflow_reverse_etl.spec.folders.reading import SyncSource
    from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy

Syncs = Annotated[
    list[str] | None, typer.Option("--syncs", metavar="PATH", help="folder or file of syncs; may be repeated")
]
ProjectPath = Annotated[
    str, typer.Option("--project-path", metavar="FOLDER", help="folder of dbt_project.yml in the repository")
]
Dbt = Annotated[
    str, typer.Option("--dbt", metavar="PROGRAM", help="dbt executable for a project without an up-to-date manifest")
]
Target = Annotated[
    str | None, typer.Option("--target", metavar="NAME", help="dbt target for a project without an up-to-date manifest")
]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME", help="environment variable that the dbt project reads; may be repeated"),
]

SyncFile = Annotated[str, typer.Argument(metavar="SYNC", help="YAML file of the sync")]
Project = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="dbt project of the model: a manifest.json, a folder, or a Git ref; default: the current folder, if it is "
        "a dbt project",
    ),
]

SyncOrName = Annotated[
    str, typer.Argument(metavar="SYNC", help="YAML file of the sync; or its name, if its state is under the state_url")
]
StateConnection = Annotated[
    str | None,
    typer.Option(
        "--connection",
        metavar="ID",
        help="Airflow connection of the warehouse whose tables have the state of a sync that is given by name",
    ),
]
Values = Annotated[
    bool,
    typer.Option("--values", help="show values of rows although standard output is not a terminal"),
]
FullResync = Annotated[bool, typer.Option("--full-resync", help="plan as `reverse-etl full-resync` does")]


PrivacyFile = Annotated[
    str | None,
    typer.Option(
        "--privacy-policy",
        metavar="FILE",
        envvar="AIRFLOW__REVERSE_ETL__PRIVACY_POLICY",
        help="privacy policy that the syncs must meet",
    ),
]


def version_of(project: str | None) -> ProjectVersion | None:
    """Return a dbt project; None if none is named and the current folder has none.

    :raises ReverseEtlError: as :meth:`~airflow_reverse_etl.check.project.loader.ProjectLoader.load` does.
    """
    if project is None and not Path("dbt_project.yml").is_file():
        return None
    return project_loader().load(project or ".")


def policy_of(file: str | None) -> PrivacyPolicy | None:
    """Read the privacy policy; None without a file.

    :raises SpecError: the file cannot be read, or is not valid.
    """
    from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy

    return PrivacyPolicy.load(Path(file)) if file else None


def project_loader(
    project_path: str = ".", dbt: str = "dbt", target: str | None = None, env: Sequence[str] | None = None
) -> ProjectLoader:
    """Return the loader of project versions that the options describe.

    :param env: names of environment variables.
    :raises ConfigurationError: an environment variable is not set.
    """
    from airflow_reverse_etl.check.project.loader import ProjectLoader
    from airflow_reverse_etl.errors import ConfigurationError

    names = env or ()
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigurationError(
            f"environment variables not set: {', '.join(missing)}", todo="set them, or leave out their --env"
        )
    return ProjectLoader(project_path, dbt, target, {name: os.environ[name] for name in names})


def syncs_in_files(paths: Sequence[str] | None) -> tuple[list[SyncSource], list[SpecError]]:
    """Return the valid syncs of the folders and files, and an error for each invalid one.

    :raises ConfigurationError: folder or file not found.
    """
    from airflow_reverse_etl.cli.airflow import environment
    from airflow_reverse_etl.spec.folders.reading import read_syncs

    sources: list[SyncSource] = []
    errors: list[SpecError] = []
    for path in paths or ():
        found, invalid = read_syncs(Path(path), environment=environment())
        sources += found
        errors += invalid
    return sources, errors


def syncs_of(paths: Sequence[str] | None, version: ProjectVersion) -> list[SyncSource]:
    """Return the syncs of the folders and files, and those in the meta of the models.

    :raises SpecError: a sync cannot be read. :raises ConfigurationError: no syncs found.
    """
    from airflow_reverse_etl.check.exposures import syncs_in_meta
    from airflow_reverse_etl.cli.airflow import environment
    from airflow_reverse_etl.errors import SpecError

    in_meta, wrong = syncs_in_meta(version.catalog, environment=environment())
    in_files, invalid = syncs_in_files(paths)
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
        raise no_syncs(paths)
    return in_meta + in_files


def no_syncs(paths: Sequence[str] | None) -> ConfigurationError:
    """Build the error of a command that finds no syncs."""
    from airflow_reverse_etl.errors import ConfigurationError

    return ConfigurationError(
        "no syncs found", todo="pass the folder of their YAML files as --syncs", syncs=list(paths or ())
    )
