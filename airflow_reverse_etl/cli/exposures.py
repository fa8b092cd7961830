"""The command ``reverse-etl exposures``."""

from __future__ import annotations

from typing import Annotated

import typer

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.options import Dbt, Env, ProjectPath, Syncs, Target, project_loader, syncs_of


def exposures(
    owner: Annotated[str, typer.Option(help="owner that dbt shows: a name or an e-mail address")],
    project: Annotated[
        str, typer.Option(help="a manifest.json, a folder, or a Git ref; default: the current folder")
    ] = ".",
    syncs: Syncs = None,
    project_path: ProjectPath = ".",
    dbt: Dbt = "dbt",
    target: Target = None,
    env: Env = None,
) -> Answer:
    """Return dbt exposures for the syncs, as YAML."""
    import yaml

    from airflow_reverse_etl.check.exposures import exposures as exposures_of

    version = project_loader(project_path, dbt, target, env).load(project)
    text = exposures_of(syncs_of(syncs, version), version, owner=owner)
    return Answer(yaml.safe_load(text), [text])
