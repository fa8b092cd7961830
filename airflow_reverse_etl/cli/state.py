"""The commands ``reverse-etl state …``: list, forget, copy and move the state of syncs, and their rejected rows.

They read Airflow's configuration and connections, so they run where Airflow is installed. It does not have to run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.cli.options import UNUSABLE
from airflow_reverse_etl.errors import ConfigurationError, RunConflictError

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.stores.state import RejectedRow, SyncState
    from airflow_reverse_etl.stores.warehouse.store import WarehouseStore


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``state`` to a program. The parsed arguments have ``run``, a function that takes them."""
    state = commands.add_parser("state", help="manage the state of syncs")
    actions = state.add_subparsers(required=True, metavar="action")

    listed = actions.add_parser("list", help="list the syncs that have state")
    listed.set_defaults(run=run_list)

    forget = actions.add_parser("forget", help="delete the state of a sync: its next run sends every row")
    forget.add_argument("sync", help="name of the sync")
    forget.add_argument("--force", action="store_true", help="stop a run of the sync that is at work")
    forget.set_defaults(run=run_forget)

    record = actions.add_parser("forget-record", help="delete one record from the state of a sync")
    _add_record(record)
    record.set_defaults(run=run_forget_record)

    rejections = actions.add_parser("rejections", help="list the rows of a sync that its destination refused")
    rejections.add_argument("sync", help="name of the sync")
    rejections.set_defaults(run=run_rejections)

    release = actions.add_parser(
        "release", help="let the next run try a given-up row again, although it did not change"
    )
    _add_record(release)
    release.set_defaults(run=run_release)

    dismiss = actions.add_parser("dismiss", help="count a rejected row as given up no more; it is sent when it changes")
    _add_record(dismiss)
    dismiss.set_defaults(run=run_dismiss)

    copy = actions.add_parser("copy", help="copy the state of all syncs to another place, as a backup or to move it")
    copy.add_argument("url", help="folder or object storage URL: all of the place, with its environment if it has one")
    copy.add_argument("--url-connection", metavar="ID", help="Airflow connection with the credentials of that storage")
    copy.set_defaults(run=run_copy)

    adopt = actions.add_parser("adopt", help="move the state of a sync without an environment to this environment")
    adopt.add_argument("sync", help="name of the sync")
    adopt.set_defaults(run=run_adopt)

    for parser in actions.choices.values():
        parser.add_argument(
            "--connection",
            metavar="ID",
            help="Airflow connection of a warehouse whose tables have the state; default: [reverse_etl] state_url",
        )


def _add_record(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name one record."""
    parser.add_argument("sync", help="name of the sync")
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument(
        "--row", metavar="KEY", help="primary key of the row; a JSON array of texts if it has several parts"
    )
    named.add_argument(
        "--identifier",
        metavar="VALUE",
        help="value of match_on; a JSON array of texts, in the order of the fields' names, if it has several",
    )


def run_list(options: argparse.Namespace) -> str:
    """Return the syncs that have state, as a table."""
    with _store(options) as store:
        found = store.syncs()
    if not found:
        return "no state found"
    head = ("sync", "records", "bytes", "format", "last run", "destination")
    return _table([head, *map(_cells, found)])


def run_forget(options: argparse.Namespace) -> str:
    """Delete the state of a sync."""
    with _store(options) as store:
        store.forget(options.sync, force=options.force)
    return f"{options.sync}: state deleted"


def run_forget_record(options: argparse.Namespace) -> str:
    """Delete one record from the state of a sync.

    :raises ConfigurationError: the state does not have the record.
    """
    key, by_identifier = _record_of(options)
    with _store(options) as store:
        erased = store.forget_record(options.sync, key, by_identifier=by_identifier)
    if not any(erased.values()):
        raise ConfigurationError(
            "the state does not have this record", todo="write the key as a run's report shows it", sync=options.sync
        )
    counts = ", ".join(f"{rows} from {table}" for table, rows in erased.items())
    return f"{options.sync}: rows deleted: {counts}"


def run_rejections(options: argparse.Namespace) -> str:
    """Return the rows that the destination refused, as a table."""
    with _store(options) as store:
        found = store.rejections(options.sync)
    if not found:
        return "no rejected rows found"
    head = ("row", "change", "outcome", "attempts", "since", "code", "message")
    return _table([head, *map(_rejection_cells, found)])


def run_release(options: argparse.Namespace) -> str:
    """Let the next run try a rejected row again.

    :raises ConfigurationError: the state does not have the row.
    """
    key, by_identifier = _record_of(options)
    with _store(options) as store:
        rows = store.release_record(options.sync, key, by_identifier=by_identifier)
    return f"{options.sync}: rejections released: {_checked(rows, options)}"


def run_dismiss(options: argparse.Namespace) -> str:
    """Take a rejected row out of the count of given-up rows.

    :raises ConfigurationError: the state does not have the row.
    """
    key, by_identifier = _record_of(options)
    with _store(options) as store:
        rows = store.dismiss_record(options.sync, key, by_identifier=by_identifier)
    return f"{options.sync}: rejections dismissed: {_checked(rows, options)}"


def _checked(rows: int, options: argparse.Namespace) -> int:
    """Return the number of rejections.

    :raises ConfigurationError: no rejection was found.
    """
    if not rows:
        raise ConfigurationError(
            "the state does not have this rejected row",
            todo=f"list the rows with `reverse-etl state rejections {options.sync}`",
            sync=options.sync,
        )
    return rows


def run_copy(options: argparse.Namespace) -> int:
    """Copy the state of all syncs, print a line for each, and return the exit code.

    :raises ConfigurationError: the state is in tables.
    """
    from airflow_reverse_etl import wiring

    if options.connection:
        raise ConfigurationError(
            "state in tables cannot be copied by this command",
            todo="copy the schema with the database's own tool, such as pg_dump, or CREATE SCHEMA … CLONE in Snowflake",
            connection=options.connection,
        )
    source = wiring.state_store()
    target = wiring.state_store_at(options.url, options.url_connection)
    code = 0
    for state in source.syncs():
        try:
            source.copy(state.sync, target)
            print(f"{state.sync}: state copied")
        except (ConfigurationError, RunConflictError) as error:
            print(f"reverse-etl: {error}", file=sys.stderr)
            code = UNUSABLE
    return code


def run_adopt(options: argparse.Namespace) -> str:
    """Move the state of a sync without an environment to the environment of the configuration.

    :raises ConfigurationError: no environment is set.
    """
    from airflow_reverse_etl import config

    environment = config.settings().environment
    if not environment:
        raise ConfigurationError(
            "no environment is set", todo="set [reverse_etl] environment, or AIRFLOW__REVERSE_ETL__ENVIRONMENT"
        )
    here: Any
    with _store(options) as here, _store(options, environment="") as source:
        here.adopt(options.sync, source)
    return f"{options.sync}: state moved to environment {environment}"


@contextlib.contextmanager
def _store(options: argparse.Namespace, *, environment: str | None = None) -> Iterator[LakeStore | WarehouseStore]:
    """Open the state that the arguments name for the block."""
    # The only commands that need Airflow.
    from airflow_reverse_etl import wiring

    if not options.connection:
        yield wiring.state_store(environment=environment)
        return
    store = wiring.warehouse_store(options.connection, environment=environment)
    if store is None:
        raise ConfigurationError(
            "a database of this type cannot keep state",
            todo="leave --connection out: the state of its syncs is under [reverse_etl] state_url",
            connection=options.connection,
        )
    with contextlib.closing(store):
        yield store


def _record_of(options: argparse.Namespace) -> tuple[str, bool]:
    """Return the key of the record that the arguments name, and whether it is its identifier."""
    if options.row is None:
        return options.identifier, True
    return options.row, False


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


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text, in columns of equal width."""
    columns = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
