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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip

#: Passphrase of the key ``locked``, another one in each process: tests look for it on every command line of the
#: machine, and ssh-keygen gets it on one wherever a server is set up.
PASSPHRASE = f"open sesame {uuid4().hex}"


def _own_environment() -> dict[str, str]:
    """Return the test's environment without its Airflow connections, which servers must not see."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")}


def git(folder: Path, *arguments: str) -> str:
    environment = {**_own_environment(), **IDENTITY}
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

    :param status: status to answer every request with.
    :param redirect: location to redirect every request to.
    :param tls: PEM file with key and certificate, for https.
    :param protocol: 0 hides from git that the client speaks version 2.
    :param valid: function that judges tokens, instead of ``token``.
    :param api: function that answers requests for paths below ``/api/`` and for hosts ``api.…``.
    :param sent: bytes of content sent so far.
    """

    root: Path
    port: int = 0
    user: str = "x-access-token"
    token: str | None = None
    status: int | None = None
    redirect: str | None = None
    tls: Path | None = None
    protocol: int = 2
    valid: Callable[[str], bool] | None = None
    api: Callable[[str, str, Message, bytes], tuple[int, list[tuple[str, str]], bytes]] | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0

    def url(self, name: str = "origin.git") -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/{name}"


def _is_api(path: str, host: str) -> bool:
    return path.startswith("/api/") or host.startswith("api.")


def _accepted(state: HttpServer, authorization: str | None) -> bool:
    if not (state.token or state.valid):
        return True
    user, _, token = base64.b64decode((authorization or "").removeprefix("Basic ")).decode().partition(":")
    return user == state.user and (state.valid(token) if state.valid else token == state.token)


@contextmanager
def http_server(root: Path, **settings: object) -> Iterator[HttpServer]:  # noqa: C901 - one method for each step
    state = HttpServer(root, **settings)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            body = self._body()
            authorization = self.headers.get("Authorization")
            state.requests.append((self.path, authorization))
            if state.api and _is_api(self.path, self.headers["Host"]):
                self._answer(*state.api(self.command, self.path, self.headers, body))
            elif state.redirect:
                self._answer(301, [("Location", state.redirect + self.path)])
            elif state.status:
                self._answer(state.status, [])
            elif not _accepted(state, authorization):
                self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')])
            else:
                self._backend(body)

        do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 - http.server's names

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _backend(self, body: bytes) -> None:
            parts = urlsplit(self.path)
            environment = {
                **_own_environment(), "GIT_PROJECT_ROOT": str(state.root), "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": parts.path,
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
            state.sent += len(content)
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


@contextmanager
def connect_proxy(ports: dict[str, int], *, password: str) -> Iterator[str]:
    """Yield the URL, with user ``me``, of an HTTP proxy for https that maps these hosts alone to ports of 127.0.0.1."""
    expected = "Basic " + base64.b64encode(f"me:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_CONNECT(self) -> None:
            port = ports.get(self.path.partition(":")[0])
            right = self.headers.get("Proxy-Authorization") == expected
            if not (port and right):
                self.send_response(502 if right else 407)
                self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            with socket.create_connection(("127.0.0.1", port)) as other:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_copy, args=(other, self.connection))
                back.start()
                _copy(self.connection, other)
                back.join()
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://me:{password}@127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


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


def certificate(path: Path, *names: str) -> Path:
    """Write key and self-signed certificate for 127.0.0.1 and these names, and the certificate alone as ``.crt``."""
    alternatives = ",".join(["IP:127.0.0.1", *(f"DNS:{name}" for name in names)])
    options = ["-subj", "/CN=test", "-addext", f"subjectAltName={alternatives}", "-days", "2", "-nodes"]
    out = ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    # An empty environment, so that tests which search for leaked secrets do not find them in this process.
    subprocess.run([*new, *options, *out], check=True, capture_output=True, env={"PATH": os.environ["PATH"]})
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def keygen(folder: Path, name: str, passphrase: str = "") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(folder / name)], check=True)


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Run an sshd that accepts keys ``user`` and ``locked``, which has a passphrase, and refuses ``stranger``."""
    folder.mkdir(parents=True)
    for name, passphrase in {"host": "", "user": "", "locked": PASSPHRASE, "stranger": ""}.items():
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
    process = subprocess.Popen(
        [str(sshd), "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL, env=_own_environment()
    )
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
