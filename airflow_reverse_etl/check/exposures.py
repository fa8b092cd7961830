"""Syncs in dbt's own files: exposures, which show in dbt's lineage where a model goes, and syncs in models' meta."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.check.usage import usage
from airflow_reverse_etl.dbt.catalog import Catalog, Model
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.folders.reading import SyncSource
from airflow_reverse_etl.spec.model import Sync


def exposures(sources: Iterable[SyncSource], project: ProjectVersion, *, owner: str) -> str:
    """Return dbt YAML with an exposure for each sync that models of this project feed, for a models folder.

    dbt does not allow exposures of private models. Comments name the syncs that read such models.

    :param owner: the owner that dbt requires: a name, or an e-mail address.
    """
    import yaml

    found: dict[str, dict[str, Any]] = {}
    comments = "# Written by: reverse-etl exposures. Do not edit; run it again.\n"
    for source in sorted(sources, key=lambda source: source.sync.name):
        sync_name = source.sync.name
        models: list[Model] = []
        for model in project.models_of(source.sync.model):
            if model.access == "private":
                comments += f"# {sync_name} reads {model.name}, which is private.\n"
            else:
                models.append(model)
        if models:
            name = re.sub(r"\W", "_", sync_name)
            if name in found:  # a.b and a-b
                name += "_" + sha256(sync_name.encode()).hexdigest()[:6]
            found[name] = {"name": name, **_exposure(source, models, project, owner)}
    document = {"version": 2, "exposures": list(found.values())}
    return comments + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _exposure(source: SyncSource, models: Sequence[Model], project: ProjectVersion, owner: str) -> dict[str, Any]:
    sync = source.sync
    destination = sync.destination
    description = f"Reverse ETL: {sync.mode} to {destination.type}"
    if destination.object:
        description += f", {destination.object}"
    owner_key = "email" if "@" in owner else "name"
    return {
        "label": sync.name,
        "type": "application",
        "description": description,
        "depends_on": [_ref(model, project) for model in models],
        "owner": {owner_key: owner},
        "meta": {
            "reverse_etl": {"sync": sync.name, "file": source.file, "destination": destination.type, "mode": sync.mode},
            "referenced_columns": _referenced_columns(source, models, project),
        },
    }


def _ref(model: Model, project: ProjectVersion) -> str:
    arguments = [f"'{model.name}'"]
    if model.package != project.catalog.project:
        arguments.insert(0, f"'{model.package}'")
    if model.version:
        version = model.version if model.version.isdigit() else f"'{model.version}'"
        arguments.append(f"v={version}")
    # In a flow-style list, [ref('a', v=2)], YAML would split at the comma; safe_dump writes a block-style list.
    return f"ref({', '.join(arguments)})"


def _referenced_columns(source: SyncSource, models: Sequence[Model], project: ProjectVersion) -> list[dict[str, str]]:
    used = usage(source, dialect=project.dialect)
    key = source.sync.primary_key or ()
    if not key and isinstance(source.sync.model, str):
        key = models[0].primary_key
    declared = {column.name.lower(): column.data_type for model in models for column in model.columns}
    columns: list[dict[str, str]] = []
    for name in {**dict.fromkeys(key), **used.columns, **used.mentions}:
        column = {"column_name": name}
        data_type = declared.get(name.lower())
        if data_type:
            column["data_type"] = data_type
        columns.append(column)
    return columns


def specs_in_meta(catalog: Catalog) -> Iterator[tuple[Model, dict[str, Any]]]:
    """Yield the syncs in models' ``meta.reverse_etl``, unvalidated, each with its model.

    ``meta.reverse_etl`` is one mapping or a list of them. A mapping without ``model`` is a sync of the model itself.
    Other values (``true``), and mappings with neither ``destination`` nor ``mapping``, are marks for selections, not
    syncs.
    """
    for model in catalog.models:
        value = model.meta.get("reverse_etl")
        specs = value if isinstance(value, list) else [value]
        ref = f"{model.package}.{model.name}"
        if model.version:
            ref += f".v{model.version}"
        for spec in specs:
            if isinstance(spec, Mapping) and {"mapping", "destination"} & set(spec):
                yield model, {"model": ref, **spec}


def syncs_in_meta(catalog: Catalog, *, environment: str = "") -> tuple[list[SyncSource], list[SpecError]]:
    """Return the valid syncs in models' ``meta.reverse_etl``, and an error for each invalid one.

    See :func:`specs_in_meta`.

    :param environment: which of the syncs' ``environments`` counts; empty for none.
    """
    sources: list[SyncSource] = []
    errors: list[SpecError] = []
    for model, values in specs_in_meta(catalog):
        try:
            sources.append(SyncSource(Sync.load(values, environment=environment), model.path))
        except SpecError as error:
            todo = "correct meta.reverse_etl of this model"
            errors.append(SpecError(error.what, problems=error.problems, todo=todo, file=model.path))
    return sources, errors
