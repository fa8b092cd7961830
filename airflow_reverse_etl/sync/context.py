"""Input of a run: its surroundings, the model that it reads, and its options; and the wait that interrupts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from airflow_reverse_etl.spec.receipts import JobRef
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING, RunTiming
from airflow_reverse_etl.sync.ports import Clock, LoadsInJobs, Observer, RateBudget, RecordIds, StateStore, Warehouse

#: Longest wait, in seconds, in the middle of a step. Before a longer one, the step ends and gives the lease back.
LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait of a run that is too long for the middle of a step. The same step, repeated later, resumes the run.

    :param until: time of the next attempt, in UTC.
    :param reason: what the run waits for, as the end of a sentence.
    :param planned: the run has a plan already.
    :param jobs: jobs for which the run waits. It may end before ``until``, once none of them is at work any more.
    :param finished: see :attr:`RunContext.finished`, for the next attempt.
    """

    until: datetime
    reason: str
    planned: bool = False
    jobs: tuple[JobRef, ...] = ()
    finished: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"until {self.until:%Y-%m-%d %H:%M:%S} UTC: {self.reason}"


@dataclass(frozen=True, slots=True)
class RunContext:
    """Surroundings of one run, shared by all its steps and tries.

    :param run_id: id of the run, stable over the retries of one task.
    :param store: state store of the sync.
    :param observer: receiver of the run's events.
    :param clock: source of time.
    :param label: description of this task, shown to another run that waits for the sync's lease. Default: ``run_id``.
    :param deferrable: the caller can wait without a worker. If another run holds the lease for more than
        ``LONGEST_WAIT``, taking it fails at once; otherwise it waits until that run ends.
    :param budget: budget that shares the sync's ``requests_per_second`` between all users of the destination's
        connection. Default: the rate applies to this load alone.
    :param timing: intervals and limits of the run.
    :param finished: ids of jobs of other runs that this run has found finished, and has left to their owner for a
        while. It collects them now.
    :param asks_for: makes the destination of a job whose sync has another one by now. Without it, such a job stops the
        run.
    :param record_ids: receiver of the records' ids, of a sync with ``write_ids``.
    """

    run_id: str
    store: StateStore
    observer: Observer
    clock: Clock
    label: str = ""
    deferrable: bool = False
    budget: RateBudget | None = None
    timing: RunTiming = DEFAULT_TIMING
    finished: frozenset[str] = frozenset()
    asks_for: Callable[[JobRef], LoadsInJobs] | None = None
    record_ids: RecordIds | None = None


@dataclass(frozen=True, slots=True)
class SourceModel:
    """The model of a sync in the warehouse that holds it.

    :param query: the model as a SELECT in the warehouse's dialect.
    :param primary_key: column names; may be empty in mode ``append`` only.
    :param warehouse: open warehouse that runs the query.
    """

    query: str
    primary_key: tuple[str, ...]
    warehouse: Warehouse


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Exceptions that a person asks for in a single run.

    :param reset: record every valid row as delivered, and send nothing.
    :param full_resync: send every valid row again.
    :param on_destination_change: answer for this run, instead of the sync's ``on_destination_change``.
    :param lift_guards: names of guards that do not stop this run.
    :param records: names of records: send only their rows. They are those that the lists of rejected rows show. Empty
        for all rows.
    """

    reset: bool = False
    full_resync: bool = False
    on_destination_change: str = ""
    lift_guards: frozenset[str] = frozenset()
    records: frozenset[str] = frozenset()
