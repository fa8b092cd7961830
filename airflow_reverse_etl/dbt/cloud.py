"""dbt Cloud: what a run or a webhook delivery says, and which finished run comes next. Pure: no I/O, no clock.

Times are aware datetimes of dbt Cloud's own clock. Facts: dbt-labs/dbt-cloud-openapi-spec (v2 runs, v3 webhooks) and
docs.getdbt.com, "Webhooks for your jobs" and "Access, regions & IP addresses".
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from airflow_reverse_etl.errors import ConfigurationError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Consume = Literal["latest", "each"]
OnFailure = Literal["fail", "wait", "skip"]
Outcome = Literal["success", "failed", "skipped"]

#: A run is listed again for this long after it finished: lists are not updated in the order of ``finished_at``.
OVERLAP = timedelta(minutes=5)

PERMISSIONS = {
    "runs": "a service token with 'Read-Only' or 'Job Viewer' on the project, or a user's personal token",
    "webhooks": (
        "a token of 'Account Admin', 'Admin' or 'Developer' (Enterprise plans), or 'Account Admin' or 'Member' "
        "(Starter and Team plans)"
    ),
    "jobs": "a service token with 'Job Admin' on the project",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RunStatus(IntEnum):
    """Status codes of a run."""

    QUEUED = 1
    STARTING = 2
    RUNNING = 3
    SUCCESS = 10
    ERROR = 20
    CANCELLED = 30


def base_url(host: str | None, port: int | None = None) -> str:
    """The URL of a dbt Cloud host as people write it: nothing, a bare subdomain, a domain, or a URL.

    Plain HTTP is for a server on this machine only: a token would travel readable.

    :raises ConfigurationError: the host cannot be one.

    >>> base_url(None), base_url("emea"), base_url("ab123.us1.dbt.com")
    ('https://cloud.getdbt.com', 'https://emea.getdbt.com', 'https://ab123.us1.dbt.com')
    """
    text = (host or "cloud").strip().rstrip("/")
    parts = urlsplit(text if "://" in text else f"https://{text}")
    name = parts.hostname or ""
    problem = ""
    if parts.scheme not in ("http", "https") or not name or parts.username or parts.path or parts.query:
        problem = "is no host name"
    elif parts.scheme == "http" and name not in _LOOPBACK:
        problem = "asks for plain HTTP, and the token would travel readable"
    if problem:
        raise ConfigurationError(
            f"the dbt Cloud host {problem}",
            todo="write the access URL of your account, such as ab123.us1.dbt.com",
            host=name,
        )
    if "." not in name and name not in _LOOPBACK:
        name += ".getdbt.com"
    port = port or parts.port
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}{f':{port}' if port else ''}"


def parse_time(value: str | None) -> datetime | None:
    """A time as dbt Cloud writes it; without an offset it is UTC."""
    if not value:
        return None
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CloudRun:
    """One run of a dbt Cloud job, as listed."""

    id: int
    job_id: int
    status: int
    finished_at: datetime | None = None
    git_sha: str | None = None
    git_branch: str | None = None
    project_id: int | None = None
    environment_id: int | None = None
    href: str | None = None
    message: str | None = None

    @classmethod
    def from_api(cls, data: Mapping[str, Any]) -> Self:
        """From the API's run object. ``job_definition_id`` is the job; ``job_id`` is its older name."""
        return cls(
            id=int(data["id"]),
            job_id=int(data.get("job_definition_id") or data["job_id"]),
            status=int(data["status"]),
            finished_at=parse_time(data.get("finished_at")),
            git_sha=data.get("git_sha"),
            git_branch=data.get("git_branch"),
            project_id=data.get("project_id"),
            environment_id=data.get("environment_id"),
            href=data.get("href"),
            message=data.get("status_message"),
        )

    @property
    def succeeded(self) -> bool:
        return self.status == RunStatus.SUCCESS

    @property
    def order(self) -> tuple[datetime, int]:
        """Position among finished runs."""
        assert self.finished_at is not None
        return self.finished_at, self.id

    @property
    def ended(self) -> bool:
        """Finished for good: a time without a final status is a run still being closed."""
        return self.finished_at is not None and self.status in (RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED)

    def to_json(self) -> dict[str, Any]:
        """Small and plain: goes into events, XCom and the record of what was consumed."""
        return {
            "run_id": self.id,
            "job_id": self.job_id,
            "status": self.status,
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "git_sha": self.git_sha,
            "git_branch": self.git_branch,
            "project_id": self.project_id,
            "environment_id": self.environment_id,
            "href": self.href,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls.from_api({**data, "id": data["run_id"]})


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that a consumer took.

    :param claimant: who took it; the same task instance in every try.
    :param superseded: older successful runs that were passed over with it (``consume="latest"``).
    """

    claimant: str
    run: CloudRun
    outcome: Outcome
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
        outcome: Outcome = "success" if run.succeeded else "skipped" if on_failure == "skip" else "failed"
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


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook delivery, read from a body whose signature was verified."""

    event_id: str
    event_type: str
    timestamp: datetime
    account_id: int
    run: CloudRun

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """:raises ValueError: the body is no delivery."""
        try:
            data = json.loads(body)
            about = data["data"]
            finished = about.get("runFinishedAt") or about.get("runErroredAt")
            run = CloudRun(
                id=int(about["runId"]),
                job_id=int(about["jobId"]),
                status=int(about["runStatusCode"]),
                finished_at=parse_time(finished),
                project_id=_number(about.get("projectId")),
                environment_id=_number(about.get("environmentId")),
            )
            timestamp = parse_time(data["timestamp"])
            assert timestamp
            return cls(str(data["eventId"]), str(data["eventType"]), timestamp, int(data["accountId"]), run)
        except (KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            raise ValueError("no dbt Cloud webhook delivery") from error

    @property
    def is_success(self) -> bool:
        """A completed and successful run. ``job.run.errored`` repeats a failed ``completed`` and is never needed."""
        return self.event_type == "job.run.completed" and self.run.succeeded

    def is_fresh(self, now: datetime, *, age: timedelta = timedelta(hours=1)) -> bool:
        """Old deliveries are refused: dbt Cloud repeats a failed one for minutes, an attacker whenever they like."""
        return -OVERLAP <= now - self.timestamp <= age


def _number(value: Any) -> int | None:
    return int(value) if str(value or "").isdigit() else None


def sign(body: bytes, secret: str) -> str:
    """The ``Authorization`` header that dbt Cloud sends with a delivery."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def is_signed(body: bytes, signature: str | None, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets signed the body. Takes the same time whether or not, and whichever."""
    given = (signature or "").strip().encode()
    matches = [hmac.compare_digest(sign(body, secret).encode(), given) for secret in secrets]
    return any(matches)


def model_results(steps: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """unique id → status, from the ``run_results.json`` of every step of a run, in order.

    dbt Cloud serves the last step's file by default, which may be a ``dbt test`` or ``docs`` step without any model.
    A node that runs in several steps has the status of its last one.
    """
    return {result["unique_id"]: result["status"] for step in steps for result in step.get("results", [])}
