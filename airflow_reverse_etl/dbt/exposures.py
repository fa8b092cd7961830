"""Syncs in dbt's own files: exposures, which show in dbt's lineage where a model goes, and syncs in a model's meta."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_reverse_etl.dbt.catalog import Catalog, Model
from airflow_reverse_etl.dbt.side import Side
from airflow_reverse_etl.dbt.usage import SyncSource, usage
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.sync.spec import Sync


def exposures(sources: Iterable[SyncSource], side: Side, *, owner: str) -> str:
    """YAML for dbt: an exposure for each sync that a model of this project feeds. Put it into a models folder.

    :param owner: dbt wants one: a name, or an e-mail address.
    """
    import yaml

    found = [
        _exposure(source, model, side, owner)
        for source in sorted(sources, key=lambda source: source.sync.name)
        if (model := _model(source.sync, side))
    ]
    head = "# Written by: reverse-etl exposures. Do not edit; run it again.\n"
    return head + yaml.safe_dump({"version": 2, "exposures": found}, sort_keys=False, allow_unicode=True)


def _model(sync: Sync, side: Side) -> Model | None:
    if isinstance(sync.model, str):
        return side.find(sync.model)
    table = getattr(sync.model, "table", None)
    return side.find_relation(table) if table else None


def _exposure(source: SyncSource, model: Model, side: Side, owner: str) -> dict[str, Any]:
    sync = source.sync
    to = sync.destination
    declared = {column.name.lower(): column.data_type for column in model.columns}
    columns = {**dict.fromkeys(sync.primary_key or model.primary_key), **usage(source, dialect=side.dialect).columns}
    # A flow-style [ref('a', v=2)] splits at the comma; safe_dump writes a block list.
    ref = f"ref('{model.name}', v={model.version})" if model.version else f"ref('{model.name}')"
    return {
        "name": re.sub(r"\W", "_", sync.name),
        "label": sync.name,
        "type": "application",
        "description": f"Reverse ETL: {sync.mode} to {to.type}" + (f", {to.object}" if to.object else ""),
        "depends_on": [ref],
        "owner": {"email" if "@" in owner else "name": owner},
        "meta": {
            "reverse_etl": {"sync": sync.name, "file": source.file, "destination": to.type, "mode": sync.mode},
            "referenced_columns": [
                {"column_name": name, **({"data_type": kind} if (kind := declared.get(name.lower())) else {})}
                for name in columns
            ],
        },
    }


def syncs_in_meta(catalog: Catalog) -> tuple[list[SyncSource], list[SpecError]]:
    """Syncs in models' ``meta.reverse_etl``: one mapping, or a list of them; and what is wrong with the others.

    ``model`` is the model itself, unless said. Other values of ``meta.reverse_etl`` (``true``) are marks for
    selections, not syncs.
    """
    sources, errors = [], []
    for model in catalog.models:
        told = model.meta.get("reverse_etl")
        ref = f"{model.package}.{model.name}" + (f".v{model.version}" if model.version else "")
        for values in told if isinstance(told, list) else [told]:
            if isinstance(values, Mapping) and "mapping" in values:
                try:
                    sources.append(SyncSource(Sync.load({"model": ref, **values}), model.path))
                except SpecError as error:
                    todo = "correct meta.reverse_etl of this model"
                    errors.append(SpecError(error.what, problems=error.problems, todo=todo, file=model.path))
    return sources, errors
