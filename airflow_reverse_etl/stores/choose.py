"""Where a sync's state is kept, and so where its plans are made: in the warehouse, or with the worker's own planner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.stores.warehouse.store import WarehouseStore

#: From this many rows on, ``planner: auto`` leaves a model in the warehouse.
LARGE = 1_000_000


def choose_store(
    sync: Sync,
    query: str | None,
    *,
    lake: LakeStore,
    open_warehouse_store: Callable[[], WarehouseStore | None],
    say: Callable[[str], object],
) -> LakeStore | WarehouseStore:
    """The state store of a sync: the one that has its state, and for a new sync the one that ``planner`` asks for.

    A sync never starts from nothing because it was told to plan elsewhere: it stays, and a line says so.

    :param query: the model; None in a task that does not plan.
    :param open_warehouse_store: opens the store in the sync's source; None where there can be none.
    :param say: told why, once.
    :raises ConfigurationError: ``planner: warehouse`` is asked of a warehouse that cannot.
    :raises CredentialsError: the same, for want of a right.
    """
    if lake.has_state(sync.name):
        if sync.planner == "warehouse":
            say(f"{sync.name}: planned locally although planner is 'warehouse': its state is under the state URL")
        return lake
    warehouse = open_warehouse_store()
    if warehouse is None:
        if sync.planner == "warehouse":
            raise ConfigurationError(
                "the sync's source cannot plan",
                todo="set `planner: local`; BigQuery, Databricks, DuckDB, Postgres, Redshift and Snowflake can",
                sync=sync.name,
                connection=sync.source,
            )
        return lake
    if warehouse.has_state(sync.name):
        if sync.planner == "local":
            say(f"{sync.name}: planned in the warehouse although planner is 'local': its state is there")
        return warehouse
    if sync.planner == "local" or query is None:
        return lake
    if sync.planner == "warehouse":
        warehouse.make_tables()
        return warehouse
    return _chosen(sync, query, lake, warehouse, say)


def _chosen(
    sync: Sync, query: str, lake: LakeStore, warehouse: WarehouseStore, say: Callable[[str], object]
) -> LakeStore | WarehouseStore:
    rows = warehouse.model_rows(query, sync, at_most=LARGE)
    if rows < LARGE:
        say(f"{sync.name}: planned locally, as the model has only {rows:,} rows")
        return lake
    try:
        warehouse.make_tables()
    except CredentialsError as error:
        say(f"{sync.name}: planned locally although the model has {LARGE:,} rows or more: {error}")
        return lake
    say(f"{sync.name}: planned in the warehouse, as the model has {LARGE:,} rows or more")
    return warehouse
