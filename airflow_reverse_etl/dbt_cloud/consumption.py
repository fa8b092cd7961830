"""Which finished run of a dbt Cloud job comes next: exactly once for a sensor, at least once for a watcher. Pure.

All times are of dbt Cloud's own clock.
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
    """Where a consumer's record is kept, under compare-and-set:
    :class:`airflow_reverse_etl.stores.compare_and_set.VersionedFile`.
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
    """Take the next run for a claimant, or None when there is none to be had yet.

    Exactly once: no two claimants ever get the same successful run, and a claimant that asks again (a retry, a cleared
    task, a crash after the run was taken) gets the run that it has. A failed run makes one try of one claimant fail.

    :param finished: lists the job's runs that finished at a time or later.
    :param claimant: the same in every try of a task instance.
    :param after: only runs that finished then or later; None for those behind the last one taken.
    :param first: stands in for ``after`` when nothing was taken yet.
    :raises RunConflictError: too many others take runs at the same time.
    """
    for _ in range(_ATTEMPTS):
        version, consumed = _read(record)
        if mine := consumed.of(claimant):
            return mine
        start = after or consumed.since() or first
        claim = consumed.select(finished(start), claimant, after=start, consume=consume, on_failure=on_failure)
        if claim is None or record.replace(version, consumed.add(claim).to_json()):
            return claim
    raise RunConflictError("others keep taking runs of this dbt Cloud job", todo="try again", claimant=claimant)


def claimed(record: Record, claimant: str) -> Claim | None:
    """What the claimant has already; needs no dbt Cloud."""
    return _read(record)[1].of(claimant)


def left(
    record: Record,
    finished: Callable[[datetime], Iterable[CloudRun]],
    *,
    after: datetime | None,
    first: datetime,
    on_failure: OnFailure,
) -> CloudRun | None:
    """What the next claimant would get with ``consume="each"``; takes nothing. Parameters as of :func:`take`."""
    consumed = _read(record)[1]
    start = after or consumed.since() or first
    claim = consumed.select(finished(start), "", after=start, consume="each", on_failure=on_failure)
    return claim.run if claim else None


def _read(record: Record) -> tuple[int, Consumed]:
    version, text = record.read()
    return version, Consumed.from_json(text) if text else Consumed()


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that a consumer took.

    :param claimant: who took it; the same task instance in every try.
    :param superseded: older successful runs that were passed over with it (``consume="latest"``).
    """

    claimant: str
    run: CloudRun
    outcome: ClaimOutcome
    superseded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Consumed:
    """What one consumer has taken from one job. Every change makes a new value, stored under compare-and-set.

    :param claims: oldest first; the last :attr:`KEEP` ones.
    :param floor: what finished up to here counts as consumed; set when old claims are forgotten.
    """

    claims: tuple[Claim, ...] = ()
    floor: datetime | None = None

    KEEP = 500

    def of(self, claimant: str) -> Claim | None:
        """The run that this claimant has already. A failed one was its last try's, not this one's."""
        mine = (claim for claim in reversed(self.claims) if claim.claimant == claimant)
        return next((claim for claim in mine if claim.outcome != "failed"), None)

    @property
    def watermark(self) -> tuple[datetime, int] | None:
        """The newest run taken so far."""
        return max((claim.run.order for claim in self.claims), default=None)

    def since(self) -> datetime | None:
        """Runs that finished before this time need no listing; None when nothing was consumed yet."""
        return self.watermark[0] - OVERLAP if self.watermark else None

    def select(
        self, runs: Iterable[CloudRun], claimant: str, *, after: datetime, consume: Consume, on_failure: OnFailure
    ) -> Claim | None:
        """The claim to make now, or None when no run is to be had.

        ``each`` takes the oldest run that nobody took; ``latest`` takes the newest and passes over all before it.
        """
        free = sorted((run for run in runs if self._is_free(run, after)), key=lambda run: run.order)
        if on_failure == "wait":
            free = [run for run in free if run.succeeded]
        if consume == "latest" and self.watermark:
            free = [run for run in free if run.order > self.watermark]
        if not free:
            return None
        run = free[-1] if consume == "latest" else free[0]
        passed = tuple(older.id for older in free[:-1] if older.succeeded) if consume == "latest" else ()
        outcome: ClaimOutcome = "success" if run.succeeded else "skipped" if on_failure == "skip" else "failed"
        return Claim(claimant, run, outcome, passed)

    def _is_free(self, run: CloudRun, after: datetime) -> bool:
        if not run.ended or run.order[0] < after or (self.floor and run.order[0] <= self.floor):
            return False
        # A run that failed and was retried in place finishes a second time, under the same id.
        return not any(
            claim.run.id == run.id and (claim.run.succeeded or claim.run.finished_at == run.finished_at)
            for claim in self.claims
        )

    def add(self, claim: Claim) -> Consumed:
        """With one more claim; the oldest are forgotten behind the floor."""
        claims = (*self.claims, claim)
        forgotten = claims[: -self.KEEP]
        floor = max([*([self.floor] if self.floor else []), *(old.run.order[0] for old in forgotten)], default=None)
        return Consumed(claims[-self.KEEP :], floor)

    def to_json(self) -> str:
        claims = [
            {"by": claim.claimant, "outcome": claim.outcome, "superseded": claim.superseded, "run": claim.run.to_json()}
            for claim in self.claims
        ]
        return json.dumps({"version": 1, "floor": self.floor and self.floor.isoformat(), "claims": claims})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """:raises StateError: written by a newer version of this package, or damaged."""
        try:
            data = json.loads(text)
            if data["version"] != 1:
                raise ValueError(f"version {data['version']}")
            claims = tuple(
                Claim(item["by"], CloudRun.from_json(item["run"]), item["outcome"], tuple(item["superseded"]))
                for item in data["claims"]
            )
            return cls(claims, parse_time(data["floor"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"the record of consumed dbt Cloud runs cannot be read: {error}",
                todo="update this package, or delete the record",
            ) from error


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a watcher has read a job's finished runs. At least once: advance it only after the events are stored.

    :param watermark: the newest finish time seen.
    :param seen: run id → finish time, of runs that finished at most :data:`OVERLAP` before the watermark.
    """

    watermark: datetime
    seen: Mapping[int, str] = field(default_factory=dict)

    @property
    def since(self) -> datetime:
        """Runs that finished before this time need no listing."""
        return self.watermark - OVERLAP

    def advance(self, runs: Iterable[CloudRun]) -> tuple[list[CloudRun], Cursor]:
        """The runs not seen before, oldest first, and the cursor behind them."""
        fresh = sorted((run for run in runs if self._is_new(run)), key=lambda run: run.order)
        if not fresh:
            return [], self
        watermark = max(self.watermark, fresh[-1].order[0])
        seen = {**self.seen, **{run.id: run.order[0].isoformat() for run in fresh}}
        oldest = watermark - OVERLAP
        return fresh, Cursor(watermark, {id_: at for id_, at in seen.items() if datetime.fromisoformat(at) >= oldest})

    def _is_new(self, run: CloudRun) -> bool:
        return run.ended and run.order[0] >= self.since and self.seen.get(run.id) != run.order[0].isoformat()

    def to_json(self) -> dict[str, Any]:
        return {"watermark": self.watermark.isoformat(), "seen": {str(id_): at for id_, at in self.seen.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        seen = {int(id_): at for id_, at in data["seen"].items()}
        return cls(datetime.fromisoformat(data["watermark"]), seen)
