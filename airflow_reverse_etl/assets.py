"""Names under which models and destination objects appear as Airflow assets.

A name depends on the sync alone, so DAG parsing needs neither network nor database. The same thing always has the same
name: another DAG can be scheduled on ``model_asset("customers", "warehouse")``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from airflow_reverse_etl.compat import Asset
from airflow_reverse_etl.spec.model import SqlModel, Sync, TableModel

ASSET_GROUP = "reverse_etl"

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
