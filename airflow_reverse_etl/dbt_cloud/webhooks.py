"""dbt Cloud's webhook deliveries, and their signatures. Pure."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from airflow_reverse_etl.dbt_cloud.models import OVERLAP, CloudRun, number, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable


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
                project_id=number(about.get("projectId")),
                environment_id=number(about.get("environmentId")),
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


def sign(body: bytes, secret: str) -> str:
    """The ``Authorization`` header that dbt Cloud sends with a delivery."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def is_signed(body: bytes, signature: str | None, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets signed the body. Takes the same time whether or not, and whichever."""
    given = (signature or "").strip().encode()
    matches = [hmac.compare_digest(sign(body, secret).encode(), given) for secret in secrets]
    return any(matches)
