"""Many random projects as one dbt project on disk: the models of each have names of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.check.edits.trees import LAST, SOURCES, Project, text

_PROJECT = "name: shop\nversion: '1.0'\nprofile: shop\nmodels: {+materialized: table}\n"


def write_projects(folder: Path, projects: Mapping[int, Project]) -> None:
    """Write the projects into a folder. Sources are shared, and documented with their types."""
    models = folder / "models"
    models.mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(_PROJECT)
    tables = [{"name": name, "columns": _columns(columns)} for name, columns in SOURCES.items()]
    described = []
    for seed, project in projects.items():
        _write(models / f"p{seed}", project, f"p{seed}_")
        if LAST in project.models:
            tested = {"name": project.sync.key, "data_tests": ["unique", "not_null"]}
            described.append({"name": f"p{seed}_{LAST}", "columns": [tested]})
    # JSON is YAML.
    (models / "schema.yml").write_text(
        json.dumps({"sources": [{"name": "raw", "tables": tables}], "models": described})
    )


def _columns(columns: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "data_type": kind} for name, kind in columns.items()]


def _write(folder: Path, project: Project, prefix: str) -> None:
    for model in project.models.values():
        path = folder / model.folder / f"{prefix}{model.name}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        config = "" if model.schema == "main" else f"{{{{ config(schema='{model.schema}') }}}}\n"
        path.write_text(config + text(model, project, "duckdb", compiled=False, prefix=prefix))
