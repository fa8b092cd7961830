"""The operations of a plan whose rows go in jobs, and the wait for jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.spec.receipts import JobRef, job_names
from airflow_reverse_etl.sync.context import Wait
from airflow_reverse_etl.sync.ports import Destination, JobTerms, LoadsInJobs, Plan


def job_terms(sync: Sync, plan: Plan, destination: Destination) -> dict[Operation, JobTerms]:
    """Return the operations of a plan whose rows are sent in jobs.

    :raises ConfigurationError: the results of an insert could not be matched with its rows.
    """
    if plan.whole or not isinstance(destination, LoadsInJobs):
        return {}
    rows: Counter[Operation] = Counter()
    for change, numbers in plan.ranges().items():
        if numbers and (operation := OPERATIONS[sync.mode].get(change)):
            rows[operation] += len(numbers)
    found = {}
    for operation, count in rows.items():
        if terms := destination.job_terms(operation, count):
            found[operation] = terms
    if Operation.INSERT in found and not sync.destination.match_on:
        raise ConfigurationError(
            "an insert by jobs has results that cannot be matched with its rows",
            todo="set destination.match_on to a field with different values in all rows",
            sync=sync.name,
        )
    return found


def wait_for_jobs(refs: Iterable[JobRef], until: datetime, *, planned: bool) -> Wait:
    """Return a wait for jobs that are at work."""
    jobs = tuple(refs)
    return Wait(until, f"{job_names(jobs)} is at work at the destination", planned=planned, jobs=jobs)
