"""Real Git servers on 127.0.0.1 for tests: smart HTTP (git http-backend) with Basic auth, and OpenSSH."""

from __future__ import annotations

import base64
import getpass
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, **IDENTITY}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@dataclass
class Origin:
    """A bare repository and a working copy to commit from."""

    bare: Path
    work: Path

    @classmethod
    def create(cls, folder: Path) -> Origin:
        origin = cls(folder / "origin.git", folder / "work")
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet", "--bare", "-b", "main", "origin.git")
        git(folder, "init", "--quiet", "-b", "main", "work")
        for name in ("uploadpack.allowFilter", "http.receivepack"):
            git(origin.bare, "config", name, "true")
        return origin

    def commit(self, files: dict[str, str], message: str = "change") -> str:
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(self.work, "add", "-A")
        git(self.work, "commit", "--quiet", "--allow-empty", "-m", message)
        self.push("HEAD:refs/heads/main")
        return git(self.work, "rev-parse", "HEAD")

    def push(self, *refspecs: str) -> None:
        git(self.work, "push", "--quiet", "--force", str(self.bare), *refspecs)


@dataclass
class HttpServer:
    """``git http-backend`` behind Basic auth.

    ``status``: answer everything with this instead. ``protocol``: 0 hides that the client speaks version 2.
    ``redirect``: answer with this location. ``tls``: PEM file with key and certificate, for https.
    """

    root: Path
    port: int = 0
    user: str = "x-access-token"
    token: str | None = None
    status: int | None = None
    redirect: str | None = None
    tls: Path | None = None
    protocol: int = 2
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def url(self, name: str = "origin.git") -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/{name}"


@contextmanager
def http_server(root: Path, **settings: object) -> Iterator[HttpServer]:
    state = HttpServer(root, **settings)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
            authorization = self.headers.get("Authorization")
            state.requests.append((self.path, authorization))
            expected = base64.b64encode(f"{state.user}:{state.token}".encode()).decode()
            if state.redirect:
                self._answer(301, [("Location", state.redirect + self.path)])
            elif state.status:
                self._answer(state.status, [])
            elif state.token and authorization != f"Basic {expected}":
                self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')])
            else:
                self._backend(body)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _backend(self, body: bytes) -> None:
            parts = urlsplit(self.path)
            environment = {
                **os.environ, "GIT_PROJECT_ROOT": str(state.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": parts.path,
                "QUERY_STRING": parts.query, "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", "") if state.protocol else "",
            }  # fmt: skip
            done = subprocess.run(
                ["git", "http-backend"], input=body, env=environment, capture_output=True, check=False
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n") if line]
            status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
            self._answer(status, [(n, v) for n, v in headers if n != "Status"], content)

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes = b"") -> None:
            self.send_response(status)
            for name, value in [*headers, ("Content-Length", str(len(content)))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    if state.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(state.tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class SshServer:
    port: int
    folder: Path

    def url(self, path: Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    def key(self, name: str) -> str:
        return (self.folder / name).read_text()

    @property
    def known_hosts(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.key('host.pub')}"


def keygen(folder: Path, name: str, passphrase: str = "") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(folder / name)], check=True)


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """An sshd of our own: keys ``user`` and ``locked`` (passphrase "open sesame") may enter, ``stranger`` may not."""
    folder.mkdir(parents=True)
    for name, passphrase in {"host": "", "user": "", "locked": "open sesame", "stranger": ""}.items():
        keygen(folder, name, passphrase)
    (folder / "authorized").write_text(f"{(folder / 'user.pub').read_text()}{(folder / 'locked.pub').read_text()}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    process = subprocess.Popen([str(sshd), "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield SshServer(port, folder)
    finally:
        process.terminate()
        process.wait(10)
