"""What a run needs from around the engine: the clock, the log, and the model as a query."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pendulum

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError
from airflow_reverse_etl.spec.model import SqlModel, Sync, TableModel

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.sync.ports import Warehouse

#: Seconds between two lines about progress.
PROGRESS_SECONDS = 5.0


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return pendulum.now("UTC")

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class LogObserver:
    """Writes what happens as lines, progress every few seconds. It is given counts and codes only, never rows.

    :param write: takes a line.
    :param warn: takes a line that is a warning; default: ``write``.
    """

    _TEXTS = {  # noqa: RUF012 - a constant, never written
        "planned": (
            "%(sync)s: of %(rows)s rows, %(added)s added, %(changed)s changed, %(removed)s removed, "
            "%(invalid)s invalid, %(skipped)s skipped"
        ),
        "note": "%(sync)s: %(text)s",
        "warning": "%(sync)s: %(text)s",
        "progress": "%(sync)s: %(settled)s of %(total)s rows settled, %(rejected)s rejected, %(requests)s requests",
        "batch_left": "%(sync)s: %(rows)s rows left for a later try: the destination does not take them",
        "folded": "%(sync)s: what the unfinished run %(run_id)s had delivered is now part of the snapshot",
        "given_up": "%(sync)s: the unfinished run %(run_id)s was made for a snapshot that is lost, and is given up",
        "asked_to_wait": "%(sync)s: the destination asks to wait %(seconds)s seconds; the rest is left to a retry",
        "committed": "%(sync)s: run %(run_id)s is committed",
    }

    def __init__(self, write: Callable[[str], object], warn: Callable[[str], object] | None = None) -> None:
        self._write, self._warn = write, warn or write
        self._next_progress = time.monotonic()

    def event(self, name: str, **facts: Any) -> None:
        if name == "progress":
            if time.monotonic() < self._next_progress:
                return
            self._next_progress = time.monotonic() + PROGRESS_SECONDS
        shown = {key: f"{value:,}" if isinstance(value, int) else value for key, value in facts.items()}
        text = self._TEXTS.get(name)
        if text is None:
            text = name + "".join(f" {key}=%({key})s" for key in shown)
        write = self._warn if name == "warning" else self._write
        write(text % shown if shown else text)


def run_id(dag_id: str, dag_run: str, task_id: str, map_index: int) -> str:
    """The same for every try of one task instance, different for every other; safe in file names."""
    identity = "\0".join((dag_id, dag_run, task_id, str(map_index)))
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def resolve_model(sync: Sync, catalog: Catalog | None) -> tuple[str, tuple[str, ...]]:
    """The model as a SELECT, and the primary key's columns.

    :raises ModelNotFoundError: the catalog has no such model, or it has no relation to read.
    :raises ConfigurationError: there is no catalog for a dbt model, or nobody knows the primary key.
    """
    known: tuple[str, ...] = ()
    if isinstance(sync.model, SqlModel):
        query = sync.model.sql.strip().rstrip(";")
    elif isinstance(sync.model, TableModel):
        query = f"SELECT * FROM {sync.model.table}"  # noqa: S608 - the DAG author's own words, read only
    else:
        relation, known = _from_catalog(sync, sync.model, catalog)
        query = f"SELECT * FROM {relation}"  # noqa: S608
    primary_key = sync.primary_key or known
    if not primary_key and sync.mode != "append":
        raise ConfigurationError(
            "the model's primary key is not known",
            todo="set primary_key in the sync, or give the dbt model a primary key: unique and not_null tests, or a "
            "constraint",
            sync=sync.name,
            model=sync.model if isinstance(sync.model, str) else None,
        )
    return query, tuple(primary_key)


def _from_catalog(sync: Sync, name: str, catalog: Catalog | None) -> tuple[str, tuple[str, ...]]:
    if catalog is None:
        raise ConfigurationError(
            "the sync names a dbt model, but the task has no catalog to find it in",
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


def close(warehouse: Warehouse) -> None:
    """Close a warehouse whose rows are read: nothing is lost when the driver cannot say goodbye."""
    with contextlib.suppress(Exception):
        warehouse.close()
