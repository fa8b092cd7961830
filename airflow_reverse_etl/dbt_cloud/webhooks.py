"""Webhook deliveries of dbt Cloud, and their signatures. Pure."""

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
        """Read a delivery.

        :raises ValueError: the body is not a delivery.
        """
        try:
            data = json.loads(body)
            details = data["data"]
            finished = details.get("runFinishedAt") or details.get("runErroredAt")
            run = CloudRun(
                id=int(details["runId"]),
                job_id=int(details["jobId"]),
                status=int(details["runStatusCode"]),
                finished_at=parse_time(finished),
                project_id=number(details.get("projectId")),
                environment_id=number(details.get("environmentId")),
            )
            timestamp = parse_time(data["timestamp"])
            assert timestamp
            return cls(str(data["eventId"]), str(data["eventType"]), timestamp, int(data["accountId"]), run)
        except (KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            raise ValueError("not a dbt Cloud webhook delivery") from error

    @property
    def is_success(self) -> bool:
        """Return whether a run completed with success. ``job.run.errored`` only repeats a failed ``completed``."""
        return self.event_type == "job.run.completed" and self.run.succeeded

    def is_fresh(self, now: datetime, *, age: timedelta = timedelta(hours=1)) -> bool:
        """Return whether a delivery is recent. dbt Cloud repeats deliveries for minutes, an attacker at any time."""
        return -OVERLAP <= now - self.timestamp <= age


def sign(body: bytes, secret: str) -> str:
    """Return the ``Authorization`` header that dbt Cloud sends with a delivery."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def is_signed(body: bytes, signature: str | None, secrets: Iterable[str]) -> bool:
    """Return whether one of the secrets signed the body. The duration reveals neither the result nor the secret."""
    given = (signature or "").strip().encode()
    matches = [hmac.compare_digest(sign(body, secret).encode(), given) for secret in secrets]
    return any(matches)
