"""The commands ``reverse-etl state …``: list, forget, copy and move the state of syncs, and their rejected rows.

They read Airflow's configuration and connections, so they run where Airflow is installed. It does not have to run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from airflow_reverse_etl.cli.airflow import settings, state_store, wiring
from airflow_reverse_etl.cli.frame import PASSED, UNUSABLE, Answer
from airflow_reverse_etl.cli.output import Table, print_error
from airflow_reverse_etl.errors import ConfigurationError, RunConflictError

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.state import RejectedRow, SyncState

Connection = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Airflow connection of a warehouse whose tables have the state; default: the setting state_url",
    ),
]
SyncName = Annotated[str, typer.Argument(metavar="SYNC", help="name of the sync")]
Row = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="primary key of the row; a JSON array of texts if it has several parts"),
]
Identifier = Annotated[
    str | None,
    typer.Option(
        metavar="VALUE",
        help="value of match_on; a JSON array of texts, in the order of the fields' names, if it has several",
    ),
]

Record = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="name of the record, as --json of the list and the page in Airflow show it"),
]


def list_all(connection: Connection = None) -> Answer:
    """List the syncs that have state."""
    with state_store(connection) as store:
        found = store.syncs()
    data = [dataclasses.asdict(state) for state in found]
    if not found:
        return Answer(data, ["no state found"])
    head = ("sync", "records", "bytes", "format", "last run", "destination")
    return Answer(data, [Table(head, [_cells(state) for state in found])])


def forget(
    sync: SyncName,
    force: Annotated[bool, typer.Option("--force", help="stop a run of the sync that is at work")] = False,
    connection: Connection = None,
) -> Answer:
    """Delete the state of a sync."""
    with state_store(connection) as store:
        store.forget(sync, force=force)
    return Answer({"sync": sync}, [f"{sync}: state deleted"])


def forget_plans(
    sync: SyncName,
    force: Annotated[bool, typer.Option("--force", help="stop a run of the sync that is at work")] = False,
    connection: Connection = None,
) -> Answer:
    """Delete the plans of a sync that are not committed."""
    with state_store(connection) as store:
        plans = store.forget_plans(sync, force=force)
    return Answer({"sync": sync, "plans": plans}, [f"{sync}: plans deleted: {plans}"])


def forget_record(
    sync: SyncName, row: Row = None, identifier: Identifier = None, connection: Connection = None
) -> Answer:
    """Delete one record from the state of a sync.

    :raises ConfigurationError: the state does not have the record.
    """
    key, by_identifier = record_of(row, identifier)
    with state_store(connection) as store:
        erased = store.forget_record(sync, key, by_identifier=by_identifier)
    if not any(erased.values()):
        raise ConfigurationError(
            "the state does not have this record", todo="write the key as a run's report shows it", sync=sync
        )
    counts = ", ".join(f"{rows} from {table}" for table, rows in erased.items())
    return Answer({"sync": sync, "deleted": erased}, [f"{sync}: rows deleted: {counts}"])


def rejection_list(found: Sequence[RejectedRow]) -> Answer:
    """Return rejected rows as a table."""
    data = [dataclasses.asdict(row) for row in found]
    if not found:
        return Answer(data, ["no rejected rows found"])
    head = ("row", "change", "outcome", "attempts", "since", "code", "message")
    return Answer(data, [Table(head, [_rejection_cells(row) for row in found])])


def change_rejections(
    store: Any,
    action: Literal["release", "dismiss"],
    sync: str,
    row: str | None,
    identifier: str | None,
    record: str | None,
) -> Answer:
    """Change the rejections of one record.

    :raises ConfigurationError: the options do not name one record, or no rejection was found.
    """
    if record is None:
        key, by_identifier = record_of(row, identifier)
        change = {"release": store.release_record, "dismiss": store.dismiss_record}[action]
        rows = change(sync, key, by_identifier=by_identifier)
    else:
        _check_name(record, row, identifier)
        change = {"release": store.release_records, "dismiss": store.dismiss_records}[action]
        rows = change(sync, [record])
    if not rows:
        raise ConfigurationError(
            "the state does not have this rejected row",
            todo=f"list the rows with `reverse-etl rejected list {sync}`",
            sync=sync,
        )
    done = {"release": "released", "dismiss": "dismissed"}[action]
    return Answer({"sync": sync, done: rows}, [f"{sync}: rejections {done}: {rows}"])


def _check_name(record: str, row: str | None, identifier: str | None) -> None:
    from airflow_reverse_etl.sql.statements.erasure import RECORD

    if row is not None or identifier is not None:
        raise ConfigurationError("--record excludes --row and --identifier", todo="name the record by one of them")
    if not RECORD.fullmatch(record):
        raise ConfigurationError("--record is not the name of a record", todo="copy it from --json of the list")


def copy(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="folder or object storage URL: all of the place, with its environment if it has one"
        ),
    ],
    url_connection: Annotated[
        str | None, typer.Option(metavar="ID", help="Airflow connection with the credentials of that storage")
    ] = None,
    connection: Connection = None,
) -> Answer:
    """Copy the state of all syncs.

    :raises ConfigurationError: the state is in tables.
    """
    if connection:
        raise ConfigurationError(
            "state in tables cannot be copied by this command",
            todo="copy the schema with the database's own tool, such as pg_dump, or CREATE SCHEMA … CLONE in Snowflake",
            connection=connection,
        )
    source = wiring().state_store()
    target = wiring().state_store_at(url, url_connection)
    code = PASSED
    copied: list[str] = []
    failed: list[str] = []
    for state in source.syncs():
        try:
            source.copy(state.sync, target)
            copied.append(state.sync)
        except (ConfigurationError, RunConflictError) as error:
            print_error(str(error))
            failed.append(state.sync)
            code = UNUSABLE
    return Answer({"copied": copied, "failed": failed}, [f"{name}: state copied" for name in copied], code)


def adopt(sync: SyncName, connection: Connection = None) -> Answer:
    """Move the state of a sync without an environment to the environment of the configuration.

    :raises ConfigurationError: no environment is set.
    """
    environment = settings().environment
    if not environment:
        raise ConfigurationError(
            "no environment is set", todo="set [reverse_etl] environment, or AIRFLOW__REVERSE_ETL__ENVIRONMENT"
        )
    here: Any
    with state_store(connection) as here, state_store(connection, environment="") as source:
        here.adopt(sync, source)
    data = {"sync": sync, "environment": environment}
    return Answer(data, [f"{sync}: state moved to environment {environment}"])


def record_of(row: str | None, identifier: str | None) -> tuple[str, bool]:
    """Return the key of the record that the options name, and whether it is its identifier.

    :raises ConfigurationError: they name none, or both.
    """
    if row is not None and identifier is None:
        return row, False
    if identifier is not None and row is None:
        return identifier, True
    raise ConfigurationError("one of --row and --identifier is needed", todo="name the record by one of them")


def _rejection_cells(row: RejectedRow) -> tuple[str, ...]:
    since = f"{row.first_seen:%Y-%m-%d %H:%M:%S}Z"
    return (row.row_key, row.change, row.outcome, str(row.attempts), since, row.code or "-", row.message or "-")


def _cells(state: SyncState) -> tuple[str, ...]:
    return (
        state.sync,
        f"{state.rows:,}",
        "-" if state.bytes is None else f"{state.bytes:,}",
        "-" if state.format is None else str(state.format),
        f"{state.last_run:%Y-%m-%d %H:%M:%S}Z" if state.last_run else "never",
        state.destination or "-",
    )
