"""Every secret that Git is used with, looked for everywhere at once: command lines and environments of all processes,
files, logs, errors, XCom and what a task is stored as. Servers, git, ssh and Airflow are real; dbt is a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from airflow_reverse_etl.hooks.git import GitRepositoryHook
from airflow_reverse_etl.operators.dbt_task import DbtTask
from tests.check import hosts
from tests.check.hosts import Host
from tests.git.github import PEM, GitHub
from tests.git.servers import PASSPHRASE, Origin, SshServer, connect_proxy
from tests.operators.check_hosts import Check, Logged, app_fields, serving

pytestmark = pytest.mark.airflow

TOKEN = f"t0ken/{uuid4().hex}:signs"
PASSWORD = f"pr0xy {uuid4().hex}"


class Seen:
    """Command lines, and environments by program, of the processes that were started while the block ran.

    Apart from what this process becomes in the moment before another program is started.
    """

    def __init__(self) -> None:
        self.own = Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode()
        self.before = set(Path("/proc").glob("[0-9]*"))
        self.command_lines: set[str] = set()
        self.environments: dict[str, set[str]] = {}

    def look(self) -> None:
        for process in set(Path("/proc").glob("[0-9]*")) - self.before:
            try:
                words = (process / "cmdline").read_bytes()
                environment = (process / "environ").read_bytes().decode(errors="replace")
                same = words == (process / "cmdline").read_bytes()  # or the two are of different programs
            except OSError:
                continue
            line = words.replace(b"\0", b" ").decode(errors="replace")
            if same and line not in ("", self.own) and not line.startswith("env -u "):
                self.command_lines.add(line)
                self.environments.setdefault(line.split(" ")[0].rpartition("/")[2], set()).add(environment)


@contextmanager
def watched() -> Iterator[Seen]:
    seen, done = Seen(), threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            seen.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def files(*folders: Path) -> str:
    """Names and contents of everything below."""
    found = (path for folder in folders for path in folder.rglob("*"))
    return "".join(f"{p}\n{p.read_bytes().decode(errors='replace') if p.is_file() else ''}\n" for p in found)


@pytest.mark.long
def test_no_secret_is_anywhere(
    acme_shop: Origin,
    check: Check,
    logged: Logged,
    sshd: SshServer,
    tmp_path: Path,
    add_connection: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import git.cmd  # noqa: F401 - its import asks git for its version, in the worker's own environment

    monkeypatch.setattr(DbtTask, "_manifest", dbt_script(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in ("GIT_TRACE", "GIT_TRACE_CURL", "GIT_CURL_VERBOSE", "GIT_TRACE_SETUP"):
        monkeypatch.setenv(name, "1")
    url, proxied = "https://bitbucket.org/acme/shop.git", {"host": "https://bitbucket.org/acme/shop.git"}
    key = sshd.key("locked")
    ssh = {"private_key": key, "private_key_passphrase": PASSPHRASE, "known_hosts": sshd.known_hosts}
    told: list[str] = []

    def tell(conn_id: str, **fields: Any) -> None:
        add_connection(conn_id, conn_type="git", **fields)
        hook = GitRepositoryHook(conn_id)
        told.extend([str(hook.test_connection()), repr(hook.get_conn())])

    app = GitHub()
    with watched() as seen:
        with serving(acme_shop, hosts.github, Host(), app) as server:
            told.append(json.dumps(check(hosts.github, **app_fields(server))))
            tell("git_app", host=server.url("acme/other.git"), extra=own(tmp_path, **app_fields(server)["extra"]))
        with serving(acme_shop, hosts.bitbucket, Host(valid=TOKEN.__eq__)) as server:
            ports = dict.fromkeys(["bitbucket.org", "api.bitbucket.org"], server.port)
            with connect_proxy(ports, password=PASSWORD) as proxy:
                right = {**proxied, "password": TOKEN, "extra": {"proxy": proxy}}
                told.append(json.dumps(check(hosts.bitbucket, **right)))
                tell("git_refused", **proxied, password=TOKEN + "x", extra=own(tmp_path, proxy=proxy))
                tell("git_lost", host=url.replace("shop", "nowhere"), password=TOKEN, extra=own(tmp_path, proxy=proxy))
                tell(
                    "git_unproxied", **proxied, password=TOKEN, extra=own(tmp_path, proxy=proxy.replace("me:", "you:"))
                )
        tell("git_ssh", host=sshd.url(acme_shop.bare), extra=ssh)
        tell("git_locked", host=sshd.url(acme_shop.bare), extra={**ssh, "private_key_passphrase": PASSPHRASE + "x"})

    said = "\n".join(told)
    assert [words for words in EXPECTED if words not in said] == []
    log = logged()
    assert "wrote the check run" in log
    assert {"git", "ssh"} <= set(seen.environments)
    places = {
        "command lines": "\n".join(seen.command_lines),
        **{
            f"environment of {name}": "\n".join(text for text in texts if name not in GIT or FOREIGN in text)
            for name, texts in seen.environments.items()
        },
        "files": files(tmp_path / "checkouts", tmp_path / "temporary", Path(os.environ["AIRFLOW_HOME"]) / "logs"),
        "what dbt saw": (tmp_path / "dbt.log").read_text(),
        "log": log,
        "errors and XCom": said,
    }
    secrets = [TOKEN, PASSWORD, PASSPHRASE, "ghs_s3cret", *PEM.splitlines()[2:5], *key.splitlines()[3:5]]
    found = {
        (place, secret[:12])
        for place, text in places.items()
        for secret in secrets
        for form in (secret, quote(secret, safe=""))
        if form in text
    }
    assert found == set()


#: What the connections say: otherwise nothing was tried.
EXPECTED = (
    "the GitHub App is not installed",
    "the host requires a valid token",
    "the repository does not exist",
    "the proxy requires a valid user name and password",
    "may read",
    "the passphrase does not unlock the SSH key",
)
#: Who is given them, by their environments, while they run. ``sh`` runs git's credential helper and ssh's askpass.
GIT = {"git", "git-remote-http", "git-remote-https", "ssh", "sh", "askpass", "ssh-keygen"}
#: What they are not given.
FOREIGN = "AIRFLOW_CONN_"


def own(tmp_path: Path, **extra: Any) -> dict[str, Any]:
    return {"ca_certificates": str(tmp_path / "git" / "own.crt"), **extra}


def dbt_script(tmp_path: Path) -> Callable[..., Any]:
    """A dbt that writes down its environment and arguments, and gives the manifest that is in the repository."""
    script = tmp_path / "dbt"
    log = tmp_path / "dbt.log"
    script.write_text(
        f'#!/bin/sh\nenv >> {log}; echo "$@" >> {log}\ncp manifest.json "$DBT_TARGET_PATH/manifest.json"\n'
    )
    script.chmod(0o755)

    def manifest(task: DbtTask, folder: Path, context: Any, **_: Any) -> Any:
        task.dbt_executable = str(script)
        return task._project(folder, context).parse()

    return manifest


def test_a_check_of_the_check() -> None:
    """The watcher sees a secret that is on a command line or in an environment: otherwise these loops do not end."""
    with watched() as seen:
        with subprocess.Popen(["sleep", "60"], env={"GIVEN": TOKEN}) as process:
            while not any(TOKEN in text for text in list(seen.environments.get("sleep", ()))):
                time.sleep(0.01)
            process.kill()
        with subprocess.Popen(["sh", "-c", "sleep 60", TOKEN], start_new_session=True) as process:
            while not any(TOKEN in line for line in list(seen.command_lines)):
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
