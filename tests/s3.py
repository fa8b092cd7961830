"""An S3 server in a process of its own, with dials: as much of the protocol as obstore and Delta Lake use.

In a process of its own, because Delta Lake waits for some answers without letting other threads of Python run.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ (PutObject with If-None-Match, GetObject with Range,
ListObjectsV2, multipart uploads).
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import Request, urlopen
from xml.sax.saxutils import escape

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of the server, seen from a test."""

    endpoint: str
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    @property
    def options(self) -> dict[str, str]:
        """Return storage options as a connection of type ``aws`` gives them."""
        return {
            "aws_access_key_id": "key",
            "aws_secret_access_key": "s3cret",
            "aws_region": "eu-central-1",
            "aws_endpoint_url": self.endpoint,
            "aws_allow_http": "true",
            "max_retries": "0",
        }

    def dial(self, **dials: Any) -> None:
        """Set how the server misbehaves.

        ``refuses``: HTTP status of every answer, or of those to the method ``only``, or of those ``after`` so many.
        ``ignores_conditions``: ``If-None-Match`` has no effect, as in some S3 clones. ``loses``: the connection is
        closed after a file whose name contains this text was written.
        """
        urlopen(Request(f"{self.endpoint}/-/{self.name}", json.dumps(dials).encode(), method="PUT")).close()

    def keys(self) -> list[str]:
        """Return the key of every object, sorted."""
        with urlopen(f"{self.endpoint}/-/{self.name}") as answer:
            keys: list[str] = json.load(answer)
        return keys


@contextmanager
def server() -> Iterator[str]:
    """Run a server; yields its URL. Every bucket exists, except one called ``missing``."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class _State:
    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.dials: dict[str, Any] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer
    disable_nagle_algorithm = True
    buckets: ClassVar[defaultdict[str, _State]] = defaultdict(_State)
    lock = threading.Lock()

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        with self.lock:
            status, headers, answer = self.answer(bucket, key, query, body)
        if self.command == "PUT" and self.buckets[bucket].dials.get("loses", "\n") in key:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in ({"content-length": str(len(answer))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> Answer:
        if bucket == "-":
            state = self.buckets[key]
            if body:
                state.dials = json.loads(body)
            return 200, {}, json.dumps(sorted(state.objects)).encode()
        state = self.buckets[bucket]
        if bucket == "missing":
            return 404, {}, b"<Error><Code>NoSuchBucket</Code><Message>No such bucket</Message></Error>"
        status = state.dials.get("refuses")
        state.dials["after"] = state.dials.get("after", 0) - 1
        if status and state.dials["after"] < 0 and state.dials.get("only") in (None, self.command):
            return status, {}, b"<Error><Code>Refused</Code><Message>Not now</Message></Error>"
        if self.command == "GET" and not key:
            return _list(state, query)
        if self.command in ("GET", "HEAD"):
            return _get(state, key, self.headers.get("range", ""))
        if self.command == "DELETE":
            state.objects.pop(key, None)
            return 204, {}, b""
        if "uploads" in query:
            upload = str(len(state.uploads))
            state.uploads[upload] = {}
            return 200, {}, f"<R><UploadId>{upload}</UploadId></R>".encode()
        if "partNumber" in query:
            state.uploads[query["uploadId"]][int(query["partNumber"])] = body
            return 200, {"etag": _etag(body)}, b""
        if "uploadId" in query:
            body = b"".join(part for _, part in sorted(state.uploads[query["uploadId"]].items()))
        conditional = self.headers.get("if-none-match") == "*" and not state.dials.get("ignores_conditions")
        if conditional and key in state.objects:
            return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
        state.objects[key] = body, time.time()
        return 200, {"etag": _etag(body)}, f"<R><ETag>{_etag(body)}</ETag></R>".encode()


def _get(state: _State, key: str, wanted: str) -> Answer:
    if key not in state.objects:
        return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
    data, at = state.objects[key]
    headers = {"etag": _etag(data), "last-modified": formatdate(at, usegmt=True)}
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
    if not span:
        return 200, headers, data
    first = int(span[1]) if span[1] else max(0, len(data) - int(span[2]))
    last = min(int(span[2]), len(data) - 1) if span[1] and span[2] else len(data) - 1
    headers["content-range"] = f"bytes {first}-{last}/{len(data)}"
    return 206, headers, data[first : last + 1]


def _list(state: _State, query: dict[str, str]) -> Answer:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    after = query.get("continuation-token") or query.get("start-after", "")
    keys = [key for key in sorted(state.objects) if key.startswith(prefix) and key > after]
    page = keys[:1000]
    folders = set()
    parts = []
    for key in page:
        rest = key.removeprefix(prefix)
        if delimiter and delimiter in rest:
            folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            continue
        data, at = state.objects[key]
        modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))
        parts.append(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>{_etag(data)}</ETag><Size>{len(data)}</Size></Contents>"
        )
    parts += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders)]
    if len(keys) > len(page):
        parts.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
    return 200, {}, f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode()


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


if __name__ == "__main__":
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(f"http://127.0.0.1:{http.server_port}", flush=True)
    http.serve_forever()
