"""Client of the dbt Cloud Admin API: runs, jobs and artifacts, which it only reads, and webhook subscriptions.

Reading needs a read-only token. Sources: dbt-labs/dbt-cloud-openapi-spec, ``openapi-v2.yaml`` and ``openapi-v3.yaml``.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from airflow_reverse_etl.dbt_cloud.models import PERMISSIONS, CloudRun, base_url
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ReverseEtlError, UnreachableError
from airflow_reverse_etl.http.auth.keys import ApiKey
from airflow_reverse_etl.http.client import Client
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request, value_at
from airflow_reverse_etl.http.rate_headers import server_time
from airflow_reverse_etl.http.retries import Retries
from airflow_reverse_etl.http.server import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from airflow_reverse_etl.sync.ports import ConnectionInfo

PAGE = 100
_FOREVER = "2100-01-01T00:00:00+00:00"
_DELETED = 2  # state of a job
#: A manifest of thousands of models has more than a hundred megabytes.
_MAX_ARTIFACT_BYTES = 1 << 30


class DbtCloudApi:
    """Client of one account with one token: an async context manager with one session and few requests in flight.

    Reads are repeated after 429, 5xx, timeouts and connection errors, and obey ``Retry-After``. Writes are repeated
    only if dbt Cloud cannot have acted on them: after 429 and 503, and when no connection was made.

    :param url: base URL of the host, see :func:`airflow_reverse_etl.dbt_cloud.models.base_url`.
    :param account_id: id of the account.
    :param conn_id: connection id, for error messages.
    :raises CredentialsError: from every method, at 401 and 403; names the missing permission.
    :raises ConfigurationError: from every method, if the resource does not exist or the token cannot see it.
    :raises UnreachableError: from every method, if dbt Cloud does not answer.
    """

    def __init__(
        self,
        url: str,
        account_id: int,
        *,
        token: str,
        conn_id: str = "",
        proxy: str | None = None,
        retries: Retries | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.url = url
        self.account_id = account_id
        self.conn_id = conn_id
        self.server_time: datetime | None = None
        self._retries = retries or Retries()
        # The official provider sends "Token" too, for service and personal tokens alike.
        auth = ApiKey("Authorization", f"Token {token}")
        self._client = Client(
            Server(url, auth=auth, proxy_url=proxy),
            where={"connection": conn_id},
            max_reply_bytes=_MAX_ARTIFACT_BYTES,
            sleep=sleep,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)

    async def finished_runs(self, since: datetime, *, job_id: int | None = None) -> list[CloudRun]:
        """List the runs of one job, or of the whole account, that finished at ``since`` or later, oldest first."""
        params = {"finished_at__range": _range(since), "order_by": "finished_at"}
        if job_id is not None:
            params["job_definition_id"] = str(job_id)
        # In ascending order, a run that finishes meanwhile appears on a later page.
        return [CloudRun.from_api(run) for run in await self._pages("runs/", params)]

    async def pages_of_finished_runs(self, since: datetime) -> int:
        """Count the requests that :meth:`finished_runs` would make for the whole account."""
        reply = await self._call("GET", "runs/", {"finished_at__range": _range(since), "limit": 1})
        return int(reply["extra"]["pagination"]["total_count"]) // PAGE + 1

    async def run(self, run_id: int) -> CloudRun:
        """Return one run."""
        reply = await self._call("GET", f"runs/{run_id}/")
        return CloudRun.from_api(reply["data"])

    async def job(self, job_id: int) -> dict[str, Any]:
        """Return a job's definition.

        :raises ConfigurationError: the job does not exist or was deleted, or the token cannot see it.
        """
        reply = await self._call("GET", f"jobs/{job_id}/")
        job: dict[str, Any] = reply["data"]
        if job.get("state") == _DELETED:
            raise self._not_found(f"jobs/{job_id}/")
        return job

    async def job_ids(self) -> set[int]:
        """Return the ids of all jobs that the token sees."""
        jobs = await self._pages("jobs/", {})
        return {int(job["id"]) for job in jobs if job.get("state") != _DELETED}

    async def artifacts(self, run_id: int) -> list[str]:
        """List the paths of a run's artifacts, over all its steps."""
        reply = await self._call("GET", f"runs/{run_id}/artifacts/", optional=True)
        return list(reply["data"]) if reply else []

    async def artifact(self, run_id: int, path: str, *, step: int | None = None) -> Any:
        """Return a JSON artifact of a step, counted from 1, or of the last step; None if it does not exist."""
        params = {"step": step} if step else None
        return await self._call("GET", f"runs/{run_id}/artifacts/{path}", params, optional=True)

    async def any_artifact(self, run_id: int, path: str) -> Any:
        """Return a JSON artifact of the last step that has it; None if no step has it."""
        for step in reversed(await self._steps(run_id)):
            if found := await self.artifact(run_id, path, step=step):
                return found
        return await self.artifact(run_id, path)

    async def step_results(self, run_id: int) -> list[dict[str, Any]]:
        """Return the ``run_results.json`` of every step that has one, in the order of the steps."""
        steps = await self._steps(run_id)
        results = [await self.artifact(run_id, "run_results.json", step=step) for step in steps]
        return [result for result in results if result]  # cloning and `dbt deps` write no results

    async def _steps(self, run_id: int) -> list[int]:
        reply = await self._call("GET", f"runs/{run_id}/", {"include_related": '["run_steps"]'})
        steps = reply["data"].get("run_steps") or []
        return sorted(step["index"] for step in steps)

    async def webhooks(self) -> list[dict[str, Any]]:
        """List the account's webhook subscriptions, without their secrets."""
        return await self._pages("webhooks/subscriptions", {}, version="v3")

    async def create_webhook(self, name: str, *, job_id: int, client_url: str) -> dict[str, Any]:
        """Subscribe a URL to a job's completed runs. dbt Cloud returns the ``hmac_secret`` this once only."""
        body = {
            "name": name,
            "description": "Starts an Airflow DAG when the job has finished",
            "event_types": ["job.run.completed"],
            "job_ids": [job_id],
            "client_url": client_url,
            "active": True,
        }
        reply = await self._call("POST", "webhooks/subscriptions", version="v3", body=body)
        return dict(reply["data"])

    async def test_webhook(self, webhook_id: str) -> dict[str, Any]:
        """Let dbt Cloud send a test delivery, and return the receiver's answer."""
        reply = await self._call("GET", f"webhooks/subscription/{webhook_id}/test", version="v3")
        return dict(reply["data"])

    async def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook subscription."""
        await self._call("DELETE", f"webhooks/subscription/{webhook_id}", version="v3")

    async def _pages(self, path: str, params: Mapping[str, Any], *, version: str = "v2") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            position = {"limit": PAGE, "offset": len(found)}
            page = await self._call("GET", path, {**params, **position}, version=version)
            found += page["data"]
            # A page may be shorter than asked although more follow.
            pagination = (page.get("extra") or {}).get("pagination") or {}
            total = pagination.get("total_count")
            is_last = len(page["data"]) < PAGE if total is None else len(found) >= int(total)
            if is_last or not page["data"]:
                return found

    async def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        version: str = "v2",
        body: Mapping[str, Any] | None = None,
        optional: bool = False,
    ) -> Any:
        query = f"?{urlencode(params)}" if params else ""
        content = json.dumps(body).encode() if body is not None else None
        request = Request(method, f"/api/{version}/accounts/{self.account_id}/{path}{query}", content)
        try:
            reply = await self._client.call(request, self._retries)
        except NotAnsweredError as lost:
            raise self._unreachable(f"dbt Cloud did not answer: {lost}") from None
        self.server_time = server_time(reply) or self.server_time
        if reply.status < 400:
            return json.loads(reply.body) if reply.body else {}
        if optional and reply.status == 404:
            return None
        raise self._error(reply, path)

    def _error(self, reply: Reply, path: str) -> ReverseEtlError:
        """Build the error for a refused request, with dbt Cloud's own message."""
        status = reply.status
        message = _message(reply)
        if status in (401, 403):
            problem = "the dbt Cloud token lacks the permission"
            if status == 401:
                problem = "the dbt Cloud token is unknown or has expired"
            permission = PERMISSIONS["webhooks" if path.startswith("webhooks") else "runs"]
            return CredentialsError(
                f"{problem} ({status}: {message})",
                todo=f"put into the connection's password {permission}; check that its login is the account id",
                connection=self.conn_id,
                account=self.account_id,
                request=path,
            )
        if status == 404:
            return self._not_found(path)
        if status == 429 or status >= 500:
            return self._unreachable(f"dbt Cloud answered {status}: {message}")
        return ConfigurationError(f"dbt Cloud answered {status}: {message}", connection=self.conn_id, request=path)

    def _not_found(self, path: str) -> ConfigurationError:
        return ConfigurationError(
            "not found in dbt Cloud, or not visible to the token",
            todo="check the id, the connection's account id (login) and host, and the token's projects",
            connection=self.conn_id,
            account=self.account_id,
            request=path,
        )

    def _unreachable(self, what: str) -> UnreachableError:
        return UnreachableError(
            what, todo="check the connection's host and status.getdbt.com", connection=self.conn_id, host=self.url
        )


def client(connection: ConnectionInfo) -> DbtCloudApi:
    """Return the client for a connection of type ``dbt_cloud``.

    :raises CredentialsError: the connection is incomplete.
    :raises ConfigurationError: the connection's host is not valid.
    """
    login = str(connection.login or "")
    token = connection.password
    if not login.isdigit() or not token:
        raise CredentialsError(
            "the dbt Cloud connection is incomplete",
            todo="put the account id (a number) into the login, and a service or personal token into the password",
            connection=connection.conn_id,
        )
    url = base_url(connection.host, connection.port)
    proxy = (connection.extra.get("proxies") or {}).get(url.split(":", 1)[0])
    return DbtCloudApi(url, int(login), token=token, conn_id=connection.conn_id, proxy=proxy)


def _range(since: datetime) -> str:
    return json.dumps([since.astimezone(UTC).isoformat(), _FOREVER])


def _message(reply: Reply) -> str:
    """Return the message of a reply, without the rest of the body."""
    status = value_at(reply.json(), ("status",))
    message = value_at(status, ("user_message",)) or value_at(status, ("developer_message",))
    return str(message or "no message")[:200]
