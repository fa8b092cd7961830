"""Hosts and runs of dbt Cloud. Pure: no I/O, no clock.

Times are aware datetimes of dbt Cloud's own clock. Sources: dbt-labs/dbt-cloud-openapi-spec (v2 runs, v3 webhooks) and
docs.getdbt.com, "Webhooks for your jobs" and "Access, regions & IP addresses".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from airflow_reverse_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Time that covers differences of clocks and lags of lists: a run is listed again for this long after it finished.
OVERLAP = timedelta(minutes=5)

PERMISSIONS = {
    "runs": "a service token with 'Read-Only' or 'Job Viewer' on the project, or a user's personal token",
    "webhooks": (
        "a token of 'Account Admin', 'Admin' or 'Developer' (Enterprise plans), or 'Account Admin' or 'Member' "
        "(Starter and Team plans)"
    ),
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
    """Return the URL of a dbt Cloud host, given as nothing, a bare subdomain, a domain, or a URL.

    Plain HTTP is allowed for a server on this machine only, because it would send the token unencrypted.

    :raises ConfigurationError: the host is not valid.

    >>> base_url(None), base_url("emea"), base_url("ab123.us1.dbt.com")
    ('https://cloud.getdbt.com', 'https://emea.getdbt.com', 'https://ab123.us1.dbt.com')
    """
    text = (host or "cloud").strip().rstrip("/")
    parts = urlsplit(text if "://" in text else f"https://{text}")
    name = parts.hostname or ""
    problem = ""
    if parts.scheme not in ("http", "https") or not name or parts.username or parts.path or parts.query:
        problem = "is not a valid host name"
    elif parts.scheme == "http" and name not in _LOOPBACK:
        problem = "uses plain HTTP, which would send the token unencrypted"
    if problem:
        raise ConfigurationError(
            f"the dbt Cloud host {problem}",
            todo="use the access URL of your account, such as ab123.us1.dbt.com",
            host=name,
        )
    if "." not in name and name not in _LOOPBACK:
        name += ".getdbt.com"
    if ":" in name:
        name = f"[{name}]"  # an IPv6 address
    port = port or parts.port
    if port:
        name += f":{port}"
    return f"{parts.scheme}://{name}"


def parse_time(value: str | None) -> datetime | None:
    """Parse a time as dbt Cloud writes it. A time without an offset is in UTC."""
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
        """Read the API's run object. ``job_definition_id`` is the id of the job; ``job_id`` is its older name."""
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
        """Return the position among finished runs."""
        assert self.finished_at is not None
        return self.finished_at, self.id

    @property
    def ended(self) -> bool:
        """Return whether the run has finished. A run with a time but no final status is still being closed."""
        return self.finished_at is not None and self.status in (RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED)

    def to_json(self) -> dict[str, Any]:
        """Return the run for events, XCom and records of consumption, without dbt Cloud's message."""
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


def number(value: Any) -> int | None:
    """Read a whole number from JSON, where it may be a text; None if the value is not a number."""
    return int(value) if str(value or "").isdigit() else None


def model_results(steps: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the status of each node by its unique id, from the ``run_results.json`` of every step of a run, in order.

    dbt Cloud serves the last step's file by default, which may be a ``dbt test`` or ``docs`` step without any model.
    A node that runs in several steps has the status of its last step.
    """
    statuses = {}
    for step in steps:
        for result in step.get("results", []):
            statuses[result["unique_id"]] = result["status"]
    return statuses
