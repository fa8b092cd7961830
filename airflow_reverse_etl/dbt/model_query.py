"""Resolution of a sync's model to a query and a primary key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError
from airflow_reverse_etl.spec.model import SqlModel, Sync, TableModel

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt.catalog import Catalog


def resolve_model(sync: Sync, catalog: Catalog | None) -> tuple[str, tuple[str, ...]]:
    """Return the sync's model as a SELECT, and the columns of its primary key.

    :raises ModelNotFoundError: the model is not in the catalog, or has no relation to read.
    :raises ConfigurationError: a dbt model is named without a catalog, or the primary key is not known.
    """
    known: tuple[str, ...] = ()
    if isinstance(sync.model, SqlModel):
        query = sync.model.sql.strip().rstrip(";")
    elif isinstance(sync.model, TableModel):
        query = f"SELECT * FROM {sync.model.table}"  # noqa: S608 - the DAG author's own text, read only
    else:
        relation, known = _from_catalog(sync, sync.model, catalog)
        query = f"SELECT * FROM {relation}"  # noqa: S608
    primary_key = sync.primary_key or known
    if not primary_key and sync.mode != "append":
        raise ConfigurationError(
            "the model's primary key is not known",
            todo="set primary_key in the sync, or give the dbt model unique and not_null tests or a primary key "
            "constraint",
            sync=sync.name,
            model=sync.model if isinstance(sync.model, str) else None,
        )
    return query, tuple(primary_key)


def _from_catalog(sync: Sync, name: str, catalog: Catalog | None) -> tuple[str, tuple[str, ...]]:
    if catalog is None:
        raise ConfigurationError(
            "the sync names a dbt model, but the task has no catalog",
            todo="pass catalog=<DbtModelSyncOperator>.output, or write the model as {table: schema.name}",
            sync=sync.name,
            model=name,
        )
    model = catalog.find(name)
    if model.relation is None:
        raise ModelNotFoundError(
            "the model is ephemeral: it has no table or view to read",
            todo="materialize it as a table or a view, or sync a model that selects from it",
            sync=sync.name,
            model=name,
        )
    return model.relation, tuple(model.primary_key)
