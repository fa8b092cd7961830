"""A dbt Cloud on this machine, for tests and demonstrations: runs, jobs, artifacts, webhooks with real signatures.

It follows the published OpenAPI description (v2 runs, jobs, artifacts; v3 projects, environments, webhooks) and
docs.getdbt.com, "Webhooks for your jobs", as far as this package and the official Airflow provider use them::

    with DbtCloudServer() as cloud:
        job = cloud.add_job("nightly")
        cloud.add_run(job, status=RunStatus.SUCCESS)
        ...  # a connection of type dbt_cloud with host=cloud.url, login=cloud.account_id, password=cloud.token
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from airflow_reverse_etl.dbt_cloud.models import RunStatus, parse_time
from airflow_reverse_etl.dbt_cloud.webhooks import sign

Json = dict[str, Any]
PAGE = 100
DELIVERY_ATTEMPTS = 6  # the first and five repetitions

#: The example of docs.getdbt.com, "Webhooks for your jobs", with names of our own.
BODY = {
    "accountId": 1,
    "webhooksID": "wsu_12345wxyz",
    "eventId": "wev_2L6Z3l8uPedXKPq9D2nWbPIip7Z",
    "timestamp": "2026-11-21T12:00:00.123456789Z",
    "eventType": "job.run.completed",
    "webhookName": "test",
    "data": {
        "jobId": "123",
        "jobName": "Daily Job (dbt build)",
        "runId": "12345",
        "environmentId": "1234",
        "environmentName": "Production",
        "dbtVersion": "1.0.0",
        "projectName": "Snowflake Github Demo",
        "projectId": "167194",
        "runStatus": "Success",
        "runStatusCode": 10,
        "runStatusMessage": "None",
        "runReason": "Kicked off from the UI by test@test.com",
        "runStartedAt": "2026-11-21T11:59:00Z",
        "runFinishedAt": "2026-11-21T11:59:58.5Z",
    },
}


@dataclass(slots=True)
class _Run:
    id: int
    job_id: int
    status: RunStatus
    git_sha: str
    created_at: datetime
    finished_at: datetime | None = None
    visible_at: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)


class DbtCloudServer:
    """One account. Failures are deterministic, and every request is recorded.

    :param now: the server's clock, which may differ from the caller's.
    :param read_only: the token may only read (webhooks and triggering answer 403).
    """

    def __init__(
        self,
        *,
        account_id: int = 11,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        read_only: bool = False,
    ) -> None:
        self.account_id = account_id
        self.now = now
        self.token = "dbtc_" + secrets.token_hex(8)
        self.read_only = read_only
        self.requests: list[tuple[float, str, str]] = []
        self.deliveries: list[Json] = []
        self._ids = itertools.count(1000)
        self._jobs: dict[int, Json] = {}
        self._runs: dict[int, _Run] = {}
        self._webhooks: dict[str, Json] = {}
        self._failures: list[tuple[int, Mapping[str, str]]] = []
        self._lock = threading.RLock()
        self._http: ThreadingHTTPServer | None = None

    # --- the world ---

    def add_job(self, name: str = "nightly", *, job_id: int | None = None) -> int:
        """Add a job in project 1, environment 2, and return its id."""
        id_ = job_id or next(self._ids)
        self._jobs[id_] = {
            "id": id_, "name": name, "project_id": 1, "environment_id": 2, "account_id": self.account_id,
            "state": 1, "execute_steps": ["dbt build"],
        }  # fmt: skip
        return id_

    def delete_job(self, job_id: int) -> None:
        """Delete a job. Its runs remain listed."""
        del self._jobs[job_id]

    def add_run(
        self,
        job_id: int,
        *,
        status: RunStatus = RunStatus.SUCCESS,
        finished_at: datetime | None = None,
        visible_in: float = 0.0,
        steps: list[Json] | None = None,
        deliver: bool = True,
    ) -> int:
        """Add a run, which finishes now if its status is final, deliver its webhooks, and return its id.

        :param visible_in: seconds until lists show it: they lag behind.
        :param steps: the artifacts of each step, by path.
        """
        with self._lock:
            id_ = next(self._ids)
            self._runs[id_] = _Run(id_, job_id, RunStatus.RUNNING, f"{id_:040x}", self.now(), steps=steps or [])
        if status > RunStatus.RUNNING:
            self.finish(id_, status, finished_at=finished_at, visible_in=visible_in, deliver=deliver)
        return id_

    def finish(
        self,
        run_id: int,
        status: RunStatus = RunStatus.SUCCESS,
        *,
        finished_at: datetime | None = None,
        visible_in: float = 0.0,
        deliver: bool = True,
    ) -> None:
        """End a run, for the first time, or again after a retry in place."""
        with self._lock:
            run = self._runs[run_id]
            run.status, run.finished_at = status, finished_at or self.now()
            run.visible_at = time.monotonic() + visible_in
        if deliver:
            self._notify(run)

    def subscribe(self, job_id: int, client_url: str) -> str:
        """Add a webhook for a job's completed runs, and return its secret."""
        asked = {"name": "test", "description": "", "event_types": ["job.run.completed"], "active": True}
        body = json.dumps({**asked, "job_ids": [job_id], "client_url": client_url}).encode()
        return str(self._create_webhook({}, body)[1]["data"]["hmac_secret"])

    def sha(self, run_id: int) -> str:
        """Return the commit that a run built."""
        return self._runs[run_id].git_sha

    # --- dials ---

    def fail_next(self, count: int, status: int = 503, *, retry_after: int | None = None) -> None:
        """Let the next ``count`` requests fail: 429 with ``Retry-After``, 5xx, 401 … Status 0 drops the connection."""
        headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
        self._failures += [(status, headers)] * count

    def rotate_token(self) -> str:
        """Let the token expire, and return a new token."""
        self.token = "dbtc_" + secrets.token_hex(8)
        return self.token

    # --- serving ---

    @property
    def url(self) -> str:
        assert self._http, "not started"
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, port: int = 0) -> Self:
        """Serve on loopback, on a free port or the given one."""
        self._http = _HttpServer(("127.0.0.1", port), type("Handler", (_Handler,), {"server_of": self}))
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on, as in an outage."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any, Json]:
        """Return status, content and headers of the reply to a request."""
        parts = urlsplit(target)
        self.requests.append((time.monotonic(), method, parts.path))
        with self._lock:
            if self._failures:
                status, extra = self._failures.pop(0)
                return status, _refusal(status, "as dialled"), dict(extra)
            token = headers.get("Authorization", "").removeprefix("Token ").removeprefix("Bearer ")
            if not secrets.compare_digest(token, self.token):
                return 401, _refusal(401, "Invalid token."), {}
            if self.read_only and (method != "GET" or "/webhooks/" in parts.path):
                return 403, _refusal(403, "You do not have permission to perform this action."), {}
            for verb, pattern, function in _ROUTES:
                match = re.fullmatch(pattern, parts.path)
                if verb == method and match:
                    if match["account"] != str(self.account_id):
                        break
                    keys = {name: value for name, value in match.groupdict().items() if name != "account"}
                    try:
                        status, content = function(self, dict(parse_qsl(parts.query)), body, **keys)
                    except KeyError:
                        break
                    return status, content, {}
        return 404, _refusal(404, "Not Found"), {}

    # --- the API ---

    def _list_runs(self, query: Json, _: bytes) -> tuple[int, Any]:
        since, until = map(parse_time, json.loads(query.get("finished_at__range", "[null, null]")))
        runs = [
            run
            for run in self._runs.values()
            if run.visible_at <= time.monotonic()
            and query.get("job_definition_id", str(run.job_id)) == str(run.job_id)
            and query.get("status", str(int(run.status))) == str(int(run.status))
            and (since is None or until is None or (run.finished_at and since <= run.finished_at <= until))
        ]
        order = query.get("order_by", "id")
        late = datetime.max.replace(tzinfo=UTC)
        runs.sort(key=lambda run: (getattr(run, order.lstrip("-")) or late, run.id), reverse=order.startswith("-"))
        return 200, _page([self._run_json(run) for run in runs], query)

    def _get_run(self, query: Json, _: bytes, run: str) -> tuple[int, Any]:
        found = self._runs[int(run)]
        steps = [{"index": number} for number in range(1, len(found.steps) + 1)] if "run_steps" in str(query) else None
        return 200, _data(self._run_json(found) | {"run_steps": steps})

    def _trigger(self, _: Json, body: bytes, job: str) -> tuple[int, Any]:
        json.loads(body)["cause"]
        id_ = self.add_run(self._jobs[int(job)]["id"], status=RunStatus.QUEUED)
        return 200, _data(self._run_json(self._runs[id_]))

    def _list_artifacts(self, _: Json, __: bytes, run: str) -> tuple[int, Any]:
        return 200, _data(sorted({path for step in self._runs[int(run)].steps for path in step}))

    def _get_artifact(self, query: Json, _: bytes, run: str, path: str) -> tuple[int, Any]:
        steps = self._runs[int(run)].steps
        number = int(query.get("step", len(steps)))
        return 200, dict(enumerate(steps, 1))[number][path]

    def _list_jobs(self, query: Json, _: bytes) -> tuple[int, Any]:
        return 200, _page(_named(self._jobs.values(), query), query)

    def _get_job(self, _: Json, __: bytes, job: str) -> tuple[int, Any]:
        return 200, _data(self._jobs[int(job)])

    def _list_projects(self, query: Json, _: bytes) -> tuple[int, Any]:
        return 200, _page(_named([{"id": 1, "name": "analytics"}], query), query)

    def _list_environments(self, query: Json, _: bytes, project: str) -> tuple[int, Any]:
        return 200, _page(_named([{"id": 2, "name": "production", "project_id": int(project)}], query), query)

    def _list_webhooks(self, query: Json, _: bytes) -> tuple[int, Any]:
        return 200, _page([_without_secret(hook) for hook in self._webhooks.values()], query)

    def _create_webhook(self, _: Json, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        id_ = "wsu_" + secrets.token_hex(6)
        hook = {
            "id": id_,
            "account_identifier": f"act_{self.account_id}",
            **{name: asked[name] for name in ("name", "description", "event_types", "client_url", "active")},
            "job_ids": [str(job) for job in asked["job_ids"]],
            "hmac_secret": secrets.token_hex(16),
            "http_status_code": None,
        }
        self._webhooks[id_] = hook
        return 201, _data(hook)

    def _get_webhook(self, _: Json, __: bytes, hook: str) -> tuple[int, Any]:
        return 200, _data(_without_secret(self._webhooks[hook]))

    def _delete_webhook(self, _: Json, __: bytes, hook: str) -> tuple[int, Any]:
        return 200, _data(_without_secret(self._webhooks.pop(hook)))

    def _test_webhook(self, _: Json, __: bytes, hook: str) -> tuple[int, Any]:
        sample = _Run(1, 123, RunStatus.SUCCESS, "", self.now(), self.now())
        status = self._deliver(self._webhooks[hook], "job.run.completed", sample, attempts=1)
        return 200, _data({"verification_status_code": status, "verification_error": None})

    def _run_json(self, run: _Run) -> Json:
        final = run.status in (RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED)
        return {
            "id": run.id, "account_id": self.account_id, "job_definition_id": run.job_id, "job_id": run.job_id,
            "project_id": 1, "environment_id": 2, "git_branch": "main", "git_sha": run.git_sha,
            "status": int(run.status), "status_humanized": run.status.name.title(), "status_message": None,
            "is_complete": final, "is_success": run.status == RunStatus.SUCCESS,
            "is_error": run.status == RunStatus.ERROR, "is_cancelled": run.status == RunStatus.CANCELLED,
            "created_at": _text(run.created_at), "finished_at": _text(run.finished_at),
            "href": f"{self.url}/deploy/{self.account_id}/projects/1/runs/{run.id}/", "artifacts_saved": final,
        }  # fmt: skip

    # --- deliveries ---

    def _notify(self, run: _Run) -> None:
        events = ["job.run.completed", *(["job.run.errored"] if run.status == RunStatus.ERROR else [])]
        for hook, event in itertools.product(list(self._webhooks.values()), events):
            if (
                hook["active"]
                and event in hook["event_types"]
                and str(run.job_id) in (hook["job_ids"] or [str(run.job_id)])
            ):
                self._deliver(hook, event, run)

    def _deliver(self, hook: Json, event: str, run: _Run, *, attempts: int = DELIVERY_ATTEMPTS) -> int:
        body = json.dumps(self._delivery(hook, event, run)).encode()
        status = 0
        for _ in range(attempts):
            status = post(hook["client_url"], body, signature=sign(body, hook["hmac_secret"]))
            self.deliveries.append(
                {"webhook": hook["id"], "event": event, "run": run.id, "status": status, "body": body}
            )
            if 200 <= status < 300:
                break
        hook["http_status_code"] = status
        return status

    def _delivery(self, hook: Json, event: str, run: _Run) -> Json:
        finished = "runErroredAt" if event == "job.run.errored" else "runFinishedAt"
        return {
            "accountId": self.account_id, "webhookId": hook["id"], "eventId": "wev_" + secrets.token_hex(6),
            "timestamp": self.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "eventType": event, "webhookName": hook["name"],
            "data": {
                "jobId": str(run.job_id), "jobName": self._jobs.get(run.job_id, {}).get("name", "sample"),
                "runId": str(run.id), "environmentId": "2", "environmentName": "production", "dbtVersion": "1.11.0",
                "projectName": "analytics", "projectId": "1", "runStatus": run.status.name.title(),
                "runStatusCode": int(run.status), "runStatusMessage": "None", "runReason": "scheduled",
                "runStartedAt": _text(run.created_at), finished: _text(run.finished_at),
            },
        }  # fmt: skip


def post(url: str, body: bytes, *, signature: str) -> int:
    """Deliver once, as dbt Cloud does, and return the receiver's status; 0 if it did not answer within 10 seconds."""
    headers = {"Content-Type": "application/json", "Authorization": signature}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # many clients may connect at once


class _Handler(BaseHTTPRequestHandler):
    server_of: DbtCloudServer
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content, headers = self.server_of.answer(self.command, self.path, dict(self.headers), body)
        if status == 0:
            self.close_connection = True
            return
        data = json.dumps(content).encode()
        self.send_response_only(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.send_header("Date", format_datetime(self.server_of.now(), usegmt=True))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815  http.server's names

    def log_message(self, *_: object) -> None:
        """Log nothing: tests read ``requests`` instead."""


def _refusal(status: int, message: str) -> Json:
    said = {"code": status, "is_success": False, "user_message": message, "developer_message": None}
    return {"status": said, "data": None}


def _data(data: Any) -> Json:
    return {
        "status": {"code": 200, "is_success": True, "user_message": "Success!", "developer_message": ""},
        "data": data,
    }


def _page(rows: list[Json], query: Json) -> Json:
    limit, offset = min(int(query.get("limit", PAGE)), PAGE), int(query.get("offset", 0))
    page = rows[offset : offset + limit]
    pagination = {"count": len(page), "total_count": len(rows)}
    return _data(page) | {"extra": {"filters": {"limit": limit, "offset": offset}, "pagination": pagination}}


def _named(rows: Any, query: Json) -> list[Json]:
    part = query.get("name__icontains", "").lower()
    return [row for row in rows if part in row["name"].lower()]


def _without_secret(hook: Json) -> Json:
    return {name: value for name, value in hook.items() if name != "hmac_secret"}


def _text(time_: datetime | None) -> str | None:
    return time_.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00:00") if time_ else None


_A2, _A3 = (rf"/api/{version}/accounts/(?P<account>\d+)" for version in ("v2", "v3"))
_ROUTES: tuple[tuple[str, str, Callable[..., tuple[int, Any]]], ...] = (
    ("GET", _A2 + r"/runs/", DbtCloudServer._list_runs),
    ("GET", _A2 + r"/runs/(?P<run>\d+)/", DbtCloudServer._get_run),
    ("GET", _A2 + r"/runs/(?P<run>\d+)/artifacts/", DbtCloudServer._list_artifacts),
    ("GET", _A2 + r"/runs/(?P<run>\d+)/artifacts/(?P<path>.+)", DbtCloudServer._get_artifact),
    ("GET", _A2 + r"/jobs/", DbtCloudServer._list_jobs),
    ("GET", _A2 + r"/jobs/(?P<job>\d+)/?", DbtCloudServer._get_job),
    ("POST", _A2 + r"/jobs/(?P<job>\d+)/run/", DbtCloudServer._trigger),
    ("GET", _A3 + r"/projects/", DbtCloudServer._list_projects),
    ("GET", _A3 + r"/projects/(?P<project>\d+)/environments/", DbtCloudServer._list_environments),
    ("GET", _A3 + r"/webhooks/subscriptions", DbtCloudServer._list_webhooks),
    ("POST", _A3 + r"/webhooks/subscriptions", DbtCloudServer._create_webhook),
    ("GET", _A3 + r"/webhooks/subscription/(?P<hook>\w+)", DbtCloudServer._get_webhook),
    ("DELETE", _A3 + r"/webhooks/subscription/(?P<hook>\w+)", DbtCloudServer._delete_webhook),
    ("GET", _A3 + r"/webhooks/subscription/(?P<hook>\w+)/test", DbtCloudServer._test_webhook),
)
