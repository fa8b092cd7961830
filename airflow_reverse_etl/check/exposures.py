"""Syncs in dbt's own files: exposures, which show in dbt's lineage where a model goes, and syncs in a model's meta."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from airflow_reverse_etl.check.project_version import ProjectVersion
from airflow_reverse_etl.check.usage import SyncSource, usage
from airflow_reverse_etl.dbt.catalog import Catalog, Model
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.model import Sync


def exposures(sources: Iterable[SyncSource], project: ProjectVersion, *, owner: str) -> str:
    """YAML for dbt: an exposure for each sync that models of this project feed. Put it into a models folder.

    dbt lets no exposure refer to a private model: a comment says which syncs read those.

    :param owner: dbt wants one: a name, or an e-mail address.
    """
    import yaml

    found: dict[str, dict[str, Any]] = {}
    text = "# Written by: reverse-etl exposures. Do not edit; run it again.\n"
    for source in sorted(sources, key=lambda source: source.sync.name):
        read = project.models_of(source.sync.model)
        models = [model for model in read if model.access != "private"]
        text += "".join(f"# {source.sync.name} reads {m.name}, which is private.\n" for m in read if m not in models)
        if models:
            name = re.sub(r"\W", "_", source.sync.name)
            if name in found:  # a.b and a-b
                name += "_" + sha256(source.sync.name.encode()).hexdigest()[:6]
            found[name] = {"name": name, **_exposure(source, models, project, owner)}
    return text + yaml.safe_dump({"version": 2, "exposures": list(found.values())}, sort_keys=False, allow_unicode=True)


def _exposure(source: SyncSource, models: Sequence[Model], project: ProjectVersion, owner: str) -> dict[str, Any]:
    sync = source.sync
    to = sync.destination
    return {
        "label": sync.name,
        "type": "application",
        "description": f"Reverse ETL: {sync.mode} to {to.type}" + (f", {to.object}" if to.object else ""),
        "depends_on": [_ref(model, project) for model in models],
        "owner": {"email" if "@" in owner else "name": owner},
        "meta": {
            "reverse_etl": {"sync": sync.name, "file": source.file, "destination": to.type, "mode": sync.mode},
            "referenced_columns": _referenced(source, models, project),
        },
    }


def _ref(model: Model, project: ProjectVersion) -> str:
    words = [f"'{model.name}'"]
    if model.package != project.catalog.project:
        words.insert(0, f"'{model.package}'")
    if model.version:
        words.append(f"v={model.version}" if model.version.isdigit() else f"v='{model.version}'")
    # A flow-style [ref('a', v=2)] splits at the comma; safe_dump writes a block list.
    return f"ref({', '.join(words)})"


def _referenced(source: SyncSource, models: Sequence[Model], project: ProjectVersion) -> list[dict[str, str]]:
    used = usage(source, dialect=project.dialect)
    key = source.sync.primary_key or (models[0].primary_key if isinstance(source.sync.model, str) else ())
    declared = {column.name.lower(): column.data_type for model in models for column in model.columns}
    return [
        {"column_name": name, **({"data_type": kind} if (kind := declared.get(name.lower())) else {})}
        for name in {**dict.fromkeys(key), **used.columns, **used.mentions}
    ]


def specs_in_meta(catalog: Catalog) -> Iterator[tuple[Model, dict[str, Any]]]:
    """What models' ``meta.reverse_etl`` say about syncs, unchecked: one mapping, or a list of them.

    ``model`` is the model itself, unless said. Other values of ``meta.reverse_etl`` (``true``), and mappings with
    neither ``destination`` nor ``mapping``, are marks for selections, not syncs.
    """
    for model in catalog.models:
        told = model.meta.get("reverse_etl")
        ref = f"{model.package}.{model.name}" + (f".v{model.version}" if model.version else "")
        for values in told if isinstance(told, list) else [told]:
            if isinstance(values, Mapping) and {"mapping", "destination"} & set(values):
                yield model, {"model": ref, **values}


def syncs_in_meta(catalog: Catalog) -> tuple[list[SyncSource], list[SpecError]]:
    """Syncs in models' ``meta.reverse_etl``, see :func:`specs_in_meta`; and what is wrong with the others."""
    sources, errors = [], []
    for model, values in specs_in_meta(catalog):
        try:
            sources.append(SyncSource(Sync.load(values), model.path))
        except SpecError as error:
            todo = "correct meta.reverse_etl of this model"
            errors.append(SpecError(error.what, problems=error.problems, todo=todo, file=model.path))
    return sources, errors
