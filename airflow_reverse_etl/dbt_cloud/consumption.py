"""Consumption of a dbt Cloud job's finished runs: exactly once by a sensor, at least once by a watcher. Pure.

All times are those of dbt Cloud's own clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from airflow_reverse_etl.dbt_cloud.models import OVERLAP, CloudRun, parse_time
from airflow_reverse_etl.errors import RunConflictError, StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Consume = Literal["latest", "each"]
OnFailure = Literal["fail", "wait", "skip"]
ClaimOutcome = Literal["success", "failed", "skipped"]

_ATTEMPTS = 50


class Record(Protocol):
    """Storage of a consumer's record with compare-and-set.

    :class:`airflow_reverse_etl.stores.compare_and_set.VersionedFile` implements it.
    """

    def read(self) -> tuple[int, str | None]: ...

    def replace(self, version: int, text: str) -> bool: ...


def take(
    record: Record,
    finished: Callable[[datetime], Iterable[CloudRun]],
    claimant: str,
    *,
    after: datetime | None,
    first: datetime,
    consume: Consume,
    on_failure: OnFailure,
) -> Claim | None:
    """Take a claimant's next run.

    Exactly once: no two claimants ever get the same successful run. A claimant that asks again (a retry, a cleared
    task, a crash after the run was taken) gets its run again. A failed run makes one try of one claimant fail.

    :param finished: function that lists the job's runs that finished at a time or later.
    :param claimant: id of the claimant, equal in every try of a task instance.
    :param after: time from which finished runs count; default: the time of the last run taken.
    :param first: time from which finished runs count if no run was taken yet and ``after`` is not given.
    :returns: the claim; None if no run is available yet.
    :raises RunConflictError: too many other claimants take runs at the same time.
    """
    for _ in range(_ATTEMPTS):
        version, consumed = _read(record)
        if existing := consumed.claim_of(claimant):
            return existing
        start = after or consumed.since() or first
        claim = consumed.select(finished(start), claimant, after=start, consume=consume, on_failure=on_failure)
        if claim is None or record.replace(version, consumed.add(claim).to_json()):
            return claim
    raise RunConflictError(
        "other tasks keep taking runs of this dbt Cloud job", todo="run the task again", claimant=claimant
    )


def claimed(record: Record, claimant: str) -> Claim | None:
    """Return the claimant's existing claim, without asking dbt Cloud."""
    return _read(record)[1].claim_of(claimant)


def next_free_run(
    record: Record,
    finished: Callable[[datetime], Iterable[CloudRun]],
    *,
    after: datetime | None,
    first: datetime,
    on_failure: OnFailure,
) -> CloudRun | None:
    """Return the run that the next claimant would get with ``consume="each"``, without taking it.

    The parameters are those of :func:`take`.
    """
    consumed = _read(record)[1]
    start = after or consumed.since() or first
    claim = consumed.select(finished(start), "", after=start, consume="each", on_failure=on_failure)
    return claim.run if claim else None


def _read(record: Record) -> tuple[int, Consumed]:
    version, text = record.read()
    # An empty record is not a missing one: its runs would be taken again.
    return version, Consumed.from_json(text) if text is not None else Consumed()


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that a consumer took.

    :param claimant: id of the task instance that took the run, equal in every try.
    :param superseded: ids of older successful runs that the claim, or an earlier one that did not see them, passed over
        (``consume="latest"``).
    """

    claimant: str
    run: CloudRun
    outcome: ClaimOutcome
    superseded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Consumed:
    """Claims of one consumer on one job's runs. Each change makes a new value, stored under compare-and-set.

    :param claims: the last :attr:`KEEP` claims, oldest first.
    :param floor: time up to which finished runs count as consumed; set when old claims are dropped.
    """

    claims: tuple[Claim, ...] = ()
    floor: datetime | None = None

    KEEP = 500

    def claim_of(self, claimant: str) -> Claim | None:
        """Return the claimant's existing claim. A claim on a failed run belongs to an earlier try only."""
        for claim in reversed(self.claims):
            if claim.claimant == claimant and claim.outcome != "failed":
                return claim
        return None

    @property
    def watermark(self) -> tuple[datetime, int] | None:
        """Return the position of the newest run taken so far."""
        return max((claim.run.order for claim in self.claims), default=None)

    def since(self) -> datetime | None:
        """Return the time before which finished runs need no listing; None if no run was taken yet."""
        return self.watermark[0] - OVERLAP if self.watermark else None

    def select(
        self, runs: Iterable[CloudRun], claimant: str, *, after: datetime, consume: Consume, on_failure: OnFailure
    ) -> Claim | None:
        """Return the claim to make now; None if no run is available.

        ``each`` takes the oldest run that nobody took; ``latest`` takes the newest and passes over all before it.
        """
        # Runs that may be taken, in the order in which they finished.
        free = sorted((run for run in runs if self._is_free(run, after)), key=lambda run: run.order)
        if on_failure == "wait":
            free = [run for run in free if run.succeeded]
        late: list[CloudRun] = []
        if consume == "latest" and self.watermark:
            # Runs that lists show only now, although a newer one was taken.
            passed_over = {run_id for claim in self.claims for run_id in claim.superseded}
            late = [run for run in free if run.order < self.watermark and run.id not in passed_over]
            free = [run for run in free if run.order > self.watermark]
        if not free:
            return None
        run = free[0]
        superseded: tuple[int, ...] = ()
        if consume == "latest":
            run = free[-1]
            superseded = tuple(older.id for older in (*late, *free[:-1]) if older.succeeded)
        outcome: ClaimOutcome = "failed"
        if run.succeeded:
            outcome = "success"
        elif on_failure == "skip":
            outcome = "skipped"
        return Claim(claimant, run, outcome, superseded)

    def _is_free(self, run: CloudRun, after: datetime) -> bool:
        if not run.ended or run.order[0] < after or (self.floor and run.order[0] <= self.floor):
            return False
        # A failed run that is retried in place finishes a second time, with the same id.
        return not any(
            claim.run.id == run.id and (claim.run.succeeded or claim.run.finished_at == run.finished_at)
            for claim in self.claims
        )

    def add(self, claim: Claim) -> Consumed:
        """Return the claims with one more. The oldest claims are dropped, and covered by the floor."""
        claims = (*self.claims, claim)
        times = [dropped.run.order[0] for dropped in claims[: -self.KEEP]]
        if self.floor:
            times.append(self.floor)
        floor = max(times, default=None)
        return Consumed(claims[-self.KEEP :], floor)

    def to_json(self) -> str:
        claims = [
            {"by": claim.claimant, "outcome": claim.outcome, "superseded": claim.superseded, "run": claim.run.to_json()}
            for claim in self.claims
        ]
        return json.dumps({"version": 1, "floor": self.floor and self.floor.isoformat(), "claims": claims})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record that ``to_json`` wrote.

        :raises StateError: the record is damaged, or a newer version of this package wrote it.
        """
        try:
            data = json.loads(text)
            if data["version"] != 1:
                raise ValueError(f"version {data['version']}")
            claims = tuple(
                Claim(item["by"], CloudRun.from_json(item["run"]), item["outcome"], tuple(item["superseded"]))
                for item in data["claims"]
            )
            return cls(claims, parse_time(data["floor"]))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise StateError(
                f"the record of consumed dbt Cloud runs cannot be read: {error}",
                todo="update this package, or delete the record",
            ) from error


@dataclass(frozen=True, slots=True)
class Cursor:
    """Position of a watcher in a job's finished runs. At least once: advance only after the events are stored.

    :param watermark: latest finish time of the runs seen.
    :param seen: run id → finish time, for runs that finished at most :data:`OVERLAP` before the watermark.
    """

    watermark: datetime
    seen: Mapping[int, str] = field(default_factory=dict)

    @property
    def since(self) -> datetime:
        """Return the time before which finished runs need no listing."""
        return self.watermark - OVERLAP

    def advance(self, runs: Iterable[CloudRun]) -> tuple[list[CloudRun], Cursor]:
        """Return the runs not seen before, oldest first, and the cursor after them."""
        fresh = sorted((run for run in runs if self._is_new(run)), key=lambda run: run.order)
        if not fresh:
            return [], self
        watermark = max(self.watermark, fresh[-1].order[0])
        seen = {**self.seen, **{run.id: run.order[0].isoformat() for run in fresh}}
        oldest = watermark - OVERLAP
        remembered = {run_id: at for run_id, at in seen.items() if datetime.fromisoformat(at) >= oldest}
        return fresh, Cursor(watermark, remembered)

    def _is_new(self, run: CloudRun) -> bool:
        return run.ended and run.order[0] >= self.since and self.seen.get(run.id) != run.order[0].isoformat()

    def to_json(self) -> dict[str, Any]:
        seen = {str(run_id): at for run_id, at in self.seen.items()}
        return {"watermark": self.watermark.isoformat(), "seen": seen}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        seen = {int(run_id): at for run_id, at in data["seen"].items()}
        return cls(datetime.fromisoformat(data["watermark"]), seen)
