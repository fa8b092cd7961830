"""The state of a sync as a thing of its own, as the command ``reverse-etl state`` shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from airflow_reverse_etl.errors import ConfigurationError, RunConflictError, StateError
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.statements.erasure import record_name

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SyncState:
    """A description of one sync's state.

    :param rows: records in the snapshot.
    :param bytes: size of its files; None if a database has it.
    :param format: of :class:`airflow_reverse_etl.spec.comparison.State`; None before the first commit.
    :param destination: the place of the records, as the destination describes it; empty if it does not.
    :param last_run: when the last committed run was planned; None before the first.
    """

    sync: str
    rows: int
    bytes: int | None
    format: int | None
    destination: str
    last_run: datetime | None


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that the destination refused, as the state has it.

    :param record: name of the record, a hash that reveals no key; see :func:`record_name`.
    :param outcome: ``rejected``; ``dismissed`` by a person; ``unknown`` or ``skipped``.
    :param attempts: number of times that these values were refused.
    """

    record: str

    row_key: str
    change: str
    outcome: str
    code: str
    message: str
    attempts: int
    first_seen: datetime
    last_seen: datetime

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> RejectedRow:
        """Read a row of :data:`REJECTED_ROWS`."""
        hi, lo, *values = row
        return cls(record_name(int(hi), int(lo)), *values)


#: What to do about a damaged file of an uncommitted plan, in which rows may have been sent.
MEND_PLAN = (
    "restore it from a backup; without one, delete the plan (reverse-etl state forget-plans): the next run plans "
    "again, and sends once more what was sent of this plan"
)
#: What to do about a damaged part of the committed state.
MEND_STATE = "restore the sync's state from a backup, or forget it (reverse-etl state forget) to send everything again"


@dataclass(frozen=True, slots=True)
class PastRun:
    """A committed run, as the history has it."""

    run_id: str
    mode: str
    planned_at: datetime
    committed_at: datetime
    report: RunReport

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> PastRun:
        """Read a row of :data:`PAST_RUNS`."""
        run_id, mode, planned_at, committed_at, report = row
        return cls(run_id, mode, planned_at, committed_at, RunReport.from_json(json.loads(report)))


#: The columns of a :class:`PastRun`, the last run first.
PAST_RUNS = (
    "SELECT run_id, mode, planned_at, committed_at, report FROM {table} WHERE {where}"
    " ORDER BY committed_at DESC, plan_id DESC LIMIT {limit}"
)
#: The columns of a :class:`RejectedRow`, and their order.
REJECTED_ROWS = (
    "SELECT key_hi, key_lo, row_key, change, outcome, code, message, attempts, first_seen, last_seen FROM {table}"
    " ORDER BY row_key"
)


def read_stored(data: bytes | str, make: Callable[[Any], T], what: str, *, todo: str, **where: object) -> T:
    """Read what was stored as JSON. Empty, cut off and damaged data never counts as missing.

    :param make: makes a value of the JSON.
    :param what: begins the error's message: ``a checkpoint``.
    :raises StateError: the data is not JSON, or ``make`` cannot read it.
    """
    try:
        return make(json.loads(data))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        # The error's own text may quote what is stored.
        problem = "is damaged" if data else "is empty"
        raise StateError(f"{what} {problem}", todo=todo, **where) from None


def planned_at(plan_id: str) -> datetime | None:
    """Return the time with which the id of a plan begins; None for an empty id."""
    return datetime.strptime(plan_id.partition("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC) if plan_id else None


def no_state(sync: str) -> ConfigurationError:
    """Build the error for a sync without state."""
    return ConfigurationError(
        "no state of this sync found", todo="list the syncs with `reverse-etl state list`", sync=sync
    )


def unfinished_run(sync: str) -> RunConflictError:
    """Build the error for a sync with a plan that is not committed."""
    return RunConflictError(
        "a run of this sync is not finished, so its plan still belongs to the state",
        todo="let the next run of the sync finish it, then try again",
        sync=sync,
    )


def other_state(sync: str) -> ConfigurationError:
    """Build the error for a place that has other state of the sync, not a copy."""
    return ConfigurationError(
        "the place to move or copy the state to has other state of this sync",
        todo="delete the state that is wrong, with `reverse-etl state forget`, or choose another place",
        sync=sync,
    )
