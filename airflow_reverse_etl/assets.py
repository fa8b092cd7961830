"""Names under which models and destination objects appear as Airflow assets.

A name depends on the sync alone, so DAG parsing needs neither network nor database. The same thing always has the same
name: another DAG can be scheduled on ``model_asset("customers", "warehouse")``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from airflow_reverse_etl.compat import Asset
from airflow_reverse_etl.spec.model import EveryColumn, SqlField, SqlModel, Sync, TableModel, TemplateField

ASSET_GROUP = "reverse_etl"
#: Group of the assets that stand for syncs themselves.
SYNC_GROUP = "reverse_etl_sync"

_VERSION = re.compile(r"v\d+")


def model_asset(model: str, source: str) -> Asset:
    """Return the asset of a dbt model in a warehouse.

    :param model: ``name``, ``package.name``, ``name.v2`` or ``package.name.v2``. The package is left out of the name:
        a sync that says it and one that does not mean the same asset.
    :param source: Airflow connection id of the warehouse.
    """
    parts = model.split(".")
    keep = 2 if len(parts) > 1 and _VERSION.fullmatch(parts[-1]) else 1
    return _asset("dbt", source, ".".join(parts[-keep:]))


def table_asset(table: str, source: str) -> Asset:
    """Return the asset of a table that dbt does not manage: ``schema.table``, spelled like in the sync."""
    return _asset("table", source, table)


def catalog_asset(git_conn_id: str, project_path: str = ".", repository: str | None = None) -> Asset:
    """Return the asset of a dbt project's models. A model sync adds an event, with the changes, for each new commit.

    :param git_conn_id: ``git_conn_id`` of the ``DbtModelSyncOperator``; if that reads a manifest, its
        ``source_conn_id`` or ``local``.
    :param project_path: ``project_path`` of the operator; if that reads a manifest, the manifest's path or URL.
    :param repository: ``repository`` of the operator.
    """
    path = [project_path] if project_path not in ("", ".") else []
    return _asset("project", git_conn_id, *([repository] if repository else []), *path)


def destination_asset(sync: Sync) -> Asset:
    """Return the asset that a sync writes, named after destination type, connection and object."""
    to = sync.destination
    return _asset(to.type, to.connection or "local", to.object or sync.name)


def sync_asset(sync: Sync) -> Asset:
    """Return the asset of a sync itself. Its events are the sync's commits, with their counts.

    Its ``extra`` has the definition: what the page in Airflow shows before the first run. It has no value of a row, and
    no constant of the mapping.
    """
    to = sync.destination
    definition: dict[str, Any] = {
        "sync": sync.name,
        "model": sync.model if isinstance(sync.model, str) else getattr(sync.model, "table", "a query"),
        "source": sync.source,
        "destination": {"type": to.type, "connection": to.connection, "object": to.object},
        "mode": sync.mode,
        "match_on": list(to.match_on),
        "fields": {name: _source_text(field) for name, field in sync.mapping.items()},
        "guards": sync.guards.model_dump(mode="json", exclude_none=True),
        "failure": sync.failure.model_dump(mode="json", exclude_none=True),
        "retry": {
            "max_attempts": sync.retry.max_attempts,
            "max_age_days": round(sync.retry.max_age.total_seconds() / 86_400, 2),
        },
    }
    asset = _asset("sync", sync.name)
    return Asset(name=asset.name, uri=asset.uri, group=SYNC_GROUP, extra=definition)


def _source_text(field: object) -> str:
    """Return where a field's value comes from, for people."""
    match field:
        case str():
            return field
        case SqlField():
            return field.sql
        case TemplateField():
            return "a template"
        case EveryColumn():
            return "every column"
    return "a constant"


def inlets(sync: Sync) -> Sequence[Asset]:
    """Return the assets that a sync reads; none for a query, which has no name."""
    if isinstance(sync.model, str):
        return [model_asset(sync.model, sync.source)]
    if isinstance(sync.model, TableModel):
        return [table_asset(sync.model.table, sync.source)]
    assert isinstance(sync.model, SqlModel)
    return []


def _asset(*parts: str) -> Asset:
    path = "/".join(quote(part, safe=".-_") for part in parts)
    return Asset(name=path, uri=f"reverse-etl://{path}", group=ASSET_GROUP)
