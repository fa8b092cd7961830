"""Local servers with the Git hosts' APIs: only the calls of a check, with their published rules.

Sources: GitHub REST API 2022-11-28 (checks/runs, commits/statuses, issues/comments), GitLab REST API v4 (commits,
notes), Bitbucket Cloud REST API 2.0 (commit statuses, pull request comments).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterator
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
    """The requests that one API received, and the data that it holds.

    :param faults: answers to the first requests, one for each.
    :param lacks: permissions that the GitHub App does not have.
    :param foreign: ids of comments that other users wrote.
    :param valid: returns True for a valid token.
    """

    url: str = ""
    app: bool = True
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    comments: dict[int, str] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Answer] = field(default_factory=list)
    sha: str = SHA
    page_size: int = 2
    lacks: Collection[str] = ()
    foreign: Collection[int] = ()
    valid: Callable[[str], bool] = TOKEN.__eq__

    def may(self, permission: str) -> Answer | None:
        if permission not in self.lacks:
            return None
        accepted = {"X-Accepted-GitHub-Permissions": f"{permission}=write"}
        return 403, {"message": "Resource not accessible by integration"}, accepted


def github(host: Host, method: str, path: str, page: int, body: Any, headers: Any) -> Answer:
    if not host.valid(headers["Authorization"].removeprefix("Bearer ")):
        return 401, {"message": "Bad credentials"}
    if path == "/repos/acme/shop/check-runs" and method == "POST":
        if not host.app:
            return 403, {"message": "You must authenticate via a GitHub App."}
        if refused := host.may("checks"):
            return refused
        assert (body["name"], body["head_sha"]) == ("reverse-etl check", host.sha)
        assert body["conclusion"] in ("success", "failure", "neutral", "action_required")
        assert all(_is_annotation(note) for note in body["output"]["annotations"])
        assert len(body["output"]["annotations"]) <= 50
        assert len(body["output"]["summary"]) <= 65_535
        host.runs.append(body)
        return 201, {"id": len(host.runs)}
    if found := re.fullmatch(r"/repos/acme/shop/check-runs/(\d+)", path):
        more = body["output"]["annotations"]
        assert method == "PATCH"
        assert len(more) <= 50
        assert {"title", "summary"} <= body["output"].keys()
        host.runs[int(found[1]) - 1]["output"]["annotations"] += more
        return 200, {"id": int(found[1])}
    if path == f"/repos/acme/shop/statuses/{host.sha}" and method == "POST":
        if refused := host.may("statuses"):
            return refused
        assert body["state"] in ("error", "failure", "pending", "success")
        assert len(body["description"]) <= 140
        host.statuses.append(body)
        return 201, {}
    issues = "/repos/acme/shop/issues"
    if refused := host.may("pull_requests"):
        return refused
    return _comments(host, method, path, page, body, f"{issues}/7/comments", "PATCH", one=f"{issues}/comments")


def _is_annotation(note: dict[str, Any]) -> bool:
    """Return True for an annotation with a path from the repository's root, lines, level and message."""
    return (
        not note["path"].startswith(("/", "."))
        and 0 < note["start_line"] <= note["end_line"]
        and note["annotation_level"] in ("notice", "warning", "failure")
        and 0 < len(note["message"].encode()) <= 65_536
        and len(note["title"]) <= 255
    )


def gitlab(host: Host, method: str, path: str, page: int, body: Any, headers: Any) -> Answer:
    if headers["PRIVATE-TOKEN"] != TOKEN:
        return 401, {"message": "401 Unauthorized"}
    if path == f"/projects/acme%2Fshop/statuses/{host.sha}" and method == "POST":
        assert body["state"] in ("pending", "running", "success", "failed", "canceled")
        if host.statuses and host.statuses[-1]["state"] == body["state"]:
            return 400, {"message": "Cannot transition status via :enqueue from :success"}
        host.statuses.append(body)
        return 201, {"id": 1}
    return _comments(host, method, path, page, body, "/projects/acme%2Fshop/merge_requests/7/notes", "PUT")


def bitbucket(host: Host, method: str, path: str, page: int, body: Any, headers: Any) -> Answer:
    if headers["Authorization"] != f"Bearer {TOKEN}":
        return 401, {"type": "error", "error": {"message": "Token is invalid or not supported for this endpoint."}}
    if path == f"/repositories/acme/shop/commit/{host.sha}/statuses/build" and method == "POST":
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
        if int(found[1]) in host.foreign:
            return 403, {"message": "403 Forbidden"}
        host.comments[int(found[1])] = body["body"]
        return 200, {}
    return 404, {"message": "Not Found"}


def answer(api: Callable[..., Answer], host: Host, method: str, url: str, headers: Any, data: bytes) -> Answer:
    """Answer one request. A violation of the contract gets status 422."""
    parts = urlsplit(url)
    body = json.loads(data) if data else None
    host.requests.append((method, parts.path, body))
    page = re.search(r"(?:^|&)page=(\d+)", parts.query)
    if host.faults:
        return host.faults.pop(0)
    try:
        return api(host, method, parts.path, int(page[1]) if page else 1, body, headers)
    except (AssertionError, KeyError) as error:
        return 422, {"message": f"against the contract: {error!r}"}


@contextmanager
def serve(api: Callable[..., Answer], host: Host) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            found = answer(api, host, self.command, self.path, self.headers, self.rfile.read(size) if size else b"")
            text = json.dumps(found[1]).encode()
            self.send_response(found[0])
            for name, value in (found[2] if len(found) == 3 else {}).items():
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
