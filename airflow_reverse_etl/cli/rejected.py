"""The commands ``reverse-etl rejected list``, ``release`` and ``dismiss``: the rows that a destination refused."""

from __future__ import annotations

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.options import StateConnection, SyncOrName
from airflow_reverse_etl.cli.state import Identifier, Record, Row, change_rejections, rejection_list


def list_rejected(sync: SyncOrName, connection: StateConnection = None) -> Answer:
    """List the rows that the destination refused, with their keys and the reasons."""
    from airflow_reverse_etl.cli.session import open_state

    with open_state(sync, connection) as (name, store):
        return rejection_list(store.rejections(name))


def release(
    sync: SyncOrName,
    row: Row = None,
    identifier: Identifier = None,
    record: Record = None,
    connection: StateConnection = None,
) -> Answer:
    """Let the next run try a row again, although it did not change.

    :raises ConfigurationError: the state does not have the row.
    """
    from airflow_reverse_etl.cli.session import open_state

    with open_state(sync, connection) as (name, store):
        return change_rejections(store, "release", name, row, identifier, record)


def dismiss(
    sync: SyncOrName,
    row: Row = None,
    identifier: Identifier = None,
    record: Record = None,
    connection: StateConnection = None,
) -> Answer:
    """Do not count a row as given up any more, and send it when it changes.

    :raises ConfigurationError: the state does not have the row.
    """
    from airflow_reverse_etl.cli.session import open_state

    with open_state(sync, connection) as (name, store):
        return change_rejections(store, "dismiss", name, row, identifier, record)
