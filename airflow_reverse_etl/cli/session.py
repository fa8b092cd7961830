"""One sync with its adapters, as a command works on it. The calls are those of the operators."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from airflow_reverse_etl.cli.airflow import environment, state_store, wiring
from airflow_reverse_etl.cli.options import version_of
from airflow_reverse_etl.cli.output import is_terminal
from airflow_reverse_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.sync.context import RunContext, RunOptions, SourceModel
    from airflow_reverse_etl.sync.ports import Destination, ObjectSchema, Observer, Plan, StateStore, Warehouse

T = TypeVar("T")

#: Exit code of a process that a signal has ended.
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Session:
    """A sync, open.

    :param sync: with the model's columns in the place of the mapping's ``"*"``.
    """

    sync: Sync
    model: SourceModel
    destination: Destination
    context: RunContext

    @property
    def warehouse(self) -> Warehouse:
        """The warehouse of the model."""
        return self.model.warehouse

    @property
    def store(self) -> StateStore:
        """The store that has the sync's state."""
        return self.context.store


def load_sync(path: str) -> Sync:
    """Read a sync, with the keys of its destination's type.

    :raises SpecError: lists all problems.
    :raises ConfigurationError: it has templates, whose values only a task of Airflow knows.
    """
    from airflow_reverse_etl.destinations.registry import check_options
    from airflow_reverse_etl.spec.model import Sync

    sync = Sync.load(Path(path), check=check_options, environment=environment())
    if sync.to_render:
        raise ConfigurationError(
            f"{' and '.join(sync.to_render)} cannot be rendered in a terminal: only a task of Airflow knows the values",
            todo="trigger the sync's DAG; for its state, pass the sync's name",
            sync=sync.name,
        )
    return sync


def model_of(sync: Sync, catalog: Catalog | None) -> tuple[str, tuple[str, ...]]:
    """Return the sync's model as a SELECT, and its primary key.

    :raises ConfigurationError: a dbt model is named without a project, or the primary key is not known.
    :raises ModelNotFoundError: the model is not in the project.
    """
    from airflow_reverse_etl.dbt.model_query import resolve_model

    if catalog is None and isinstance(sync.model, str):
        raise ConfigurationError(
            "the sync names a dbt model, and no dbt project is named",
            todo="pass the project as --project: a manifest.json, a folder, or a Git ref",
            sync=sync.name,
            model=sync.model,
        )
    return resolve_model(sync, catalog)


@contextlib.contextmanager
def open_sync(path: str, project: str | None, *, observer: Observer | None = None) -> Iterator[Session]:
    """Open the sync in a file for the block, under a run id of its own.

    :param project: of the sync's dbt model.
    :param observer: receives the run's events; default: they become lines on standard error.
    :raises ReverseEtlError: the sync, its model, its connections or its state cannot be used.
    """
    from airflow_reverse_etl.check.privacy.marking import marks_of
    from airflow_reverse_etl.check.privacy.rule import check_privacy
    from airflow_reverse_etl.sync.context import SourceModel
    from airflow_reverse_etl.sync.planning import with_model_columns

    sync = load_sync(path)
    version = version_of(project)
    query, primary_key = model_of(sync, version.catalog if version else None)
    wired = wiring()
    warehouse = wired.open_warehouse(sync.source)
    try:
        sync = with_model_columns(sync, query, warehouse)
        policy = wired.privacy_policy()
        if policy:
            check_privacy(policy, sync, marks_of(sync, version))
        destination = wired.destination_of(sync)
        context = run_context(sync, query=query, observer=observer)
        from airflow_reverse_etl.stores.choose import closing_store

        with closing_store(context.store):
            yield Session(sync, SourceModel(query, primary_key, warehouse), destination, context)
    finally:
        with contextlib.suppress(Exception):  # nothing can be lost any more
            warehouse.close()


def run_context(sync: Sync, *, query: str | None, observer: Observer | None = None) -> RunContext:
    """Build the surroundings of a run from a terminal.

    :param query: the model as a SELECT; None for a command that does not plan.
    """
    from airflow_reverse_etl.sync.log_observer import LogObserver

    context: RunContext = wiring().run_context(
        sync,
        secrets.token_hex(12),
        query=query,
        label=_label(),
        log=log,
        observer=observer or LogObserver(log),
    )
    return context


@contextlib.contextmanager
def open_state(sync: str, connection: str | None) -> Iterator[tuple[str, Any]]:
    """Open the state of a sync for the block, as its name and the store that has it.

    :param sync: YAML file of the sync, whose own store is opened; or its name.
    :param connection: warehouse whose tables have the state of a sync that is given by name; None: the ``state_url``.
    :raises ReverseEtlError: as :func:`open_sync`.
    """
    if Path(sync).suffix not in (".yaml", ".yml"):
        with state_store(connection) as store:
            yield sync, store
        return
    found = load_sync(sync)
    context = run_context(found, query=None)
    from airflow_reverse_etl.stores.choose import closing_store

    with closing_store(context.store):
        yield found.name, context.store


async def preview(session: Session, options: RunOptions, look: Callable[[Plan], Awaitable[T]]) -> T:
    """Make a plan that is only looked at, as the operators' previews do; nothing is sent."""
    from airflow_reverse_etl.sync.run import Run

    steps = Run(session.sync, session.context)
    request = steps.request(session.model, options)
    async with steps.lease():
        plan = await steps.preview(request, session.warehouse, session.destination)
        try:
            return await look(plan)
        finally:
            session.store.discard(plan)


@contextlib.asynccontextmanager
async def open_destination(session: Session) -> AsyncIterator[ObjectSchema | None]:
    """Open the destination for the block, and ask for the fields of its object.

    :returns: the fields; None if the destination does not describe them.
    """
    from airflow_reverse_etl.sync.load.rate_limit import pace_of
    from airflow_reverse_etl.sync.ports import DescribesFields

    destination = session.destination
    pace = pace_of(session.sync, destination, session.context)
    await destination.open(pace)
    try:
        described = isinstance(destination, DescribesFields) and destination.describes_fields
        yield await destination.describe() if described else None  # type: ignore[attr-defined]
    finally:
        await destination.close()
        await pace.close()


def check_values(*, allowed: bool) -> None:
    """Make sure that values of rows are shown to a person, or are asked for.

    :param allowed: the person asks for them with ``--values``.
    :raises ConfigurationError: standard output is not a terminal, and they are not asked for.
    """
    if not allowed and not is_terminal():
        raise ConfigurationError(
            "standard output is not a terminal, so values of rows are not shown",
            todo="pass --values to write them into a file or a pipe",
        )


def log(line: str) -> None:
    """Write a line of a run's log."""
    print(line, file=sys.stderr, flush=True)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. Ctrl-C and SIGTERM let it wait for the answers to requests in flight, and end it."""
    signalled = 0

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            nonlocal signalled
            if not signalled:  # a second cancellation would not wait for the answers
                signalled = number
                log("stops: waits for the answers to requests in flight")
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        log("stopped: delivered rows are recorded, and the next run sends the remaining ones")
        raise typer.Exit(_SIGNALLED + signalled) from None


def _label() -> str:
    """Describe this process to other runs of the sync."""
    return f"reverse-etl, {getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"
