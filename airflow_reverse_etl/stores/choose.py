"""The choice of a sync's state store, and with it of its planner: in the warehouse, or local on the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.spec.receipts import rows_text
from airflow_reverse_etl.sql.dialects.registry import PLANNERS

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.stores.warehouse.store import WarehouseStore


def choose_store(
    sync: Sync,
    query: str | None,
    *,
    lake: LakeStore,
    open_warehouse_store: Callable[[], WarehouseStore | None],
    has_state_to_adopt: Callable[[], bool],
    log: Callable[[str], object],
    large: int = 1_000_000,
) -> LakeStore | WarehouseStore:
    """Return the store that has the sync's state, or for a new sync the store that ``planner`` asks for.

    A changed ``planner`` never loses state: the sync keeps the store that it has, and a log line reports it.

    :param query: the model; None in a task that does not plan.
    :param open_warehouse_store: opens the store in the sync's source; returns None if the source cannot hold one.
    :param has_state_to_adopt: returns whether a sync that is new in this environment has state without an environment.
    :param log: receives one line on why the store was chosen; called at most once.
    :param large: number of rows from which ``planner: auto`` leaves a model in the warehouse.
    :raises ConfigurationError: ``planner: warehouse`` is set, and the sync's source cannot plan; or the sync has state
        to adopt.
    :raises CredentialsError: ``planner: warehouse`` is set, and a privilege in the warehouse is missing.
    """
    # State decides first: the lake's, then the warehouse's.
    if lake.has_state(sync.name):
        if sync.planner == "warehouse":
            log(f"{sync.name}: planned locally although planner is 'warehouse': its state is under the state URL")
        return lake
    warehouse = open_warehouse_store()
    if warehouse and warehouse.has_state(sync.name):
        if sync.planner == "local":
            log(f"{sync.name}: planned in the warehouse although planner is 'local': its state is there")
        return warehouse
    # A new sync: it would send every row again if its state is only in another place.
    if has_state_to_adopt():
        raise ConfigurationError(
            "the sync has no state in this environment, but state without an environment",
            todo=f"move that state here with `reverse-etl state adopt {sync.name}`, or let syncs start from scratch in "
            "this environment: [reverse_etl] environment_is_new = True",
            sync=sync.name,
        )
    # ``planner`` decides, and with ``auto`` the size of the model.
    if warehouse is None:
        if sync.planner == "warehouse":
            raise ConfigurationError(
                "the sync's source cannot plan",
                todo=f"set `planner: local`; only these databases can: {', '.join(sorted(PLANNERS))}",
                sync=sync.name,
                connection=sync.source,
            )
        return lake
    if sync.planner == "local" or query is None:
        return lake
    if sync.planner == "warehouse":
        warehouse.make_tables()
        return warehouse
    return _choose_by_size(sync, query, lake, warehouse, log, large)


def _choose_by_size(
    sync: Sync, query: str, lake: LakeStore, warehouse: WarehouseStore, log: Callable[[str], object], large: int
) -> LakeStore | WarehouseStore:
    rows = warehouse.model_rows(query, sync, at_most=large)
    if rows < large:
        log(f"{sync.name}: planned locally, as the model has only {rows_text(rows)}")
        return lake
    try:
        warehouse.make_tables()
    except CredentialsError as error:
        log(f"{sync.name}: planned locally although the model has {rows_text(large)} or more: {error}")
        return lake
    log(f"{sync.name}: planned in the warehouse, as the model has {rows_text(large)} or more")
    return warehouse


@contextmanager
def closing_store(store: Any) -> Iterator[None]:
    """Close the store after the block, if it has connections."""
    try:
        yield
    finally:
        if hasattr(store, "close"):
            store.close()
