"""Local stand-ins for the Git hosts' APIs: only the calls that a check makes, with their published rules.

Sources: GitHub REST API 2022-11-28 (checks/runs, commits/statuses, issues/comments), GitLab REST API v4 (commits,
notes), Bitbucket Cloud REST API 2.0 (commit statuses, pull request comments).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "t0ken-of-a-robot"
SHA = "c" * 40

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@dataclass
class Host:
    """What one API was asked, and what it holds. ``faults``: answers given first, one for each request."""

    url: str = ""
    app: bool = True
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    comments: dict[int, str] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Answer] = field(default_factory=list)
    page_size: int = 2


def github(host: Host, method: str, path: str, page: int, body: Any, headers: Any) -> Answer:
    if headers["Authorization"] != f"Bearer {TOKEN}":
        return 401, {"message": "Bad credentials"}
    if path == "/repos/acme/shop/check-runs" and method == "POST":
        if not host.app:
            return 403, {"message": "You must authenticate via a GitHub App."}
        assert {"name", "head_sha"} <= body.keys()
        assert body["conclusion"] in ("success", "failure", "neutral", "action_required")
        assert len(body["output"]["annotations"]) <= 50
        assert len(body["output"]["summary"]) <= 65_535
        host.runs.append(body)
        return 201, {"id": len(host.runs)}
    if found := re.fullmatch(r"/repos/acme/shop/check-runs/(\d+)", path):
        more = body["output"]["annotations"]
        assert method == "PATCH"
        assert len(more) <= 50
        host.runs[int(found[1]) - 1]["output"]["annotations"] += more
        return 200, {"id": int(found[1])}
    if path == f"/repos/acme/shop/statuses/{SHA}" and method == "POST":
        assert body["state"] in ("error", "failure", "pending", "success")
        assert len(body["description"]) <= 140
        host.statuses.append(body)
        return 201, {}
    issues = "/repos/acme/shop/issues"
    return _comments(host, method, path, page, body, f"{issues}/7/comments", "PATCH", one=f"{issues}/comments")


def gitlab(host: Host, method: str, path: str, page: int, body: Any, headers: Any) -> Answer:
    if headers["PRIVATE-TOKEN"] != TOKEN:
        return 401, {"message": "401 Unauthorized"}
    if path == f"/projects/acme%2Fshop/statuses/{SHA}" and method == "POST":
        assert body["state"] in ("pending", "running", "success", "failed", "canceled")
        if host.statuses and host.statuses[-1]["state"] == body["state"]:
            return 400, {"message": "Cannot transition status via :enqueue from :success"}
        host.statuses.append(body)
        return 201, {"id": 1}
    return _comments(host, method, path, page, body, "/projects/acme%2Fshop/merge_requests/7/notes", "PUT")


def bitbucket(host: Host, method: str, path: str, page: int, body: Any, headers: Any) -> Answer:
    if headers["Authorization"] != f"Bearer {TOKEN}":
        return 401, {"type": "error", "error": {"message": "Token is invalid or not supported for this endpoint."}}
    if path == f"/repositories/acme/shop/commit/{SHA}/statuses/build" and method == "POST":
        assert body["state"] in ("INPROGRESS", "SUCCESSFUL", "FAILED", "STOPPED")
        assert len(body["key"]) <= 40
        assert body["url"]
        host.statuses = [s for s in host.statuses if s["key"] != body["key"]] + [body]
        return 201, body
    if body:
        body = {"body": body["content"]["raw"]}
    answer = _comments(host, method, path, page, body, "/repositories/acme/shop/pullrequests/7/comments", "PUT")
    if method != "GET" or answer[0] != 200:
        return answer
    values = [{"id": c["id"], "content": {"raw": c["body"]}} for c in answer[1]]
    following = {"next": f"{host.url}{path}?page={page + 1}"} if len(answer) == 3 else {}
    return 200, {"values": values, **following}


def _comments(
    host: Host, method: str, path: str, page: int, body: Any, all_of: str, update: str, *, one: str = ""
) -> Answer:
    if path == all_of and method == "GET":
        items = [{"id": n, "body": text} for n, text in host.comments.items()]
        start = (page - 1) * host.page_size
        more = start + host.page_size < len(items)
        link = {"Link": f'<{host.url}{path}?page={page + 1}>; rel="next"'} if more else None
        shown = items[start : start + host.page_size]
        return (200, shown, link) if link else (200, shown)
    if path == all_of and method == "POST":
        host.comments[len(host.comments) + 1] = body["body"]
        return 201, {"id": len(host.comments)}
    if (found := re.fullmatch(rf"{re.escape(one or all_of)}/(\d+)", path)) and method == update:
        host.comments[int(found[1])] = body["body"]
        return 200, {}
    return 404, {"message": "Not Found"}


@contextmanager
def serve(api: Callable[..., Answer], host: Host) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            parts = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            host.requests.append((self.command, parts.path, body))
            page = re.search(r"(?:^|&)page=(\d+)", parts.query)
            try:
                answer = (
                    host.faults.pop(0)
                    if host.faults
                    else api(host, self.command, parts.path, int(page[1]) if page else 1, body, self.headers)
                )
            except (AssertionError, KeyError) as error:
                answer = (422, {"message": f"against the contract: {error!r}"})
            text = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            for name, value in (answer[2] if len(answer) == 3 else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = _handle  # noqa: N815 - names that http.server looks for

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
