"""Pushes of files to a branch, over real Git servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, RunConflictError
from airflow_reverse_etl.git import push as pushing
from airflow_reverse_etl.git.credentials import Credentials
from airflow_reverse_etl.git.push import may_push, push
from airflow_reverse_etl.git.repository import Repository
from tests.git.servers import HttpServer, Origin, SshServer, git

pytestmark = pytest.mark.long


def over_http(server: HttpServer) -> Repository:
    return Repository(server.url(), Credentials(token=server.token), allow_protocols=("http",))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.json"
    path.write_text('{"nodes": {}}\n')
    return path


def test_new_branch_then_nothing_new_then_a_change(origin: Origin, http: HttpServer, manifest: Path) -> None:
    """A branch begins at HEAD, keeps what it has, and gets a commit only when a file differs."""
    repository = over_http(http)
    settings: dict[str, Any] = {"branch": "artifacts", "message": "dbt run", "author": "Ada <ada@example.com>"}
    first = push(repository, {"target/manifest.json": manifest}, **settings)
    assert (
        git(origin.bare, "log", "-1", "--format=%H %an %ae %s", "artifacts") == f"{first} Ada ada@example.com dbt run"
    )
    assert git(origin.bare, "rev-parse", "artifacts^") == git(origin.bare, "rev-parse", "main")
    assert git(origin.bare, "show", "artifacts:target/manifest.json") == '{"nodes": {}}'
    assert "README.md" in git(origin.bare, "ls-tree", "--name-only", "artifacts")

    assert push(repository, {"target/manifest.json": manifest}, **settings) is None
    manifest.write_text("{}\n")
    second = push(repository, {"target/manifest.json": manifest}, **settings)
    assert git(origin.bare, "rev-parse", "artifacts", "artifacts^").split() == [second, first]


def test_into_an_empty_repository(tmp_path: Path, manifest: Path) -> None:
    empty = Origin.create(tmp_path / "empty")
    commit = push(Repository(str(empty.bare), allow_protocols=("file",)), {"a": manifest}, branch="main", message="m")
    assert git(empty.bare, "rev-list", "main") == commit


def test_others_pushed_meanwhile(
    origin: Origin, http: HttpServer, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other commit stays and ours comes on top. If it happens in each attempt, a retry of the task may help."""
    once, again = [True], pushing._identity

    def push_first(author: str) -> list[str]:
        if once and once.pop():
            origin.commit({"theirs.txt": "x"})
        return again(author)

    monkeypatch.setattr(pushing, "_identity", push_first)
    assert push(over_http(http), {"ours.txt": manifest}, branch="main", message="m")
    assert {"ours.txt", "theirs.txt"} <= set(git(origin.bare, "ls-tree", "--name-only", "main").split())
    git(origin.work, "fetch", "-q", str(origin.bare), "main")
    git(origin.work, "reset", "-q", "--hard", "FETCH_HEAD")
    once.extend([True] * 9)
    manifest.write_text("other")
    with pytest.raises(RunConflictError, match="the branch received another push"):
        push(over_http(http), {"ours.txt": manifest}, branch="main", message="m")


def test_rights(origin: Origin, http: HttpServer, manifest: Path) -> None:
    """The right to read does not imply the right to push; the check leaves nothing on the server."""
    assert may_push(over_http(http))
    assert git(origin.bare, "branch", "--list", "reverse-etl*") == ""
    git(origin.bare, "config", "http.receivepack", "false")
    assert over_http(http).head()
    assert not may_push(over_http(http))
    with pytest.raises(CredentialsError, match="write role"):
        push(over_http(http), {"a": manifest}, branch="b", message="m")


def test_protected_branch(origin: Origin, http: HttpServer, manifest: Path) -> None:
    hook = origin.bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(CredentialsError, match="does not allow pushes to this branch"):
        push(over_http(http), {"a": manifest}, branch="main", message="m")


def test_over_ssh(sshd: SshServer, origin: Origin, manifest: Path) -> None:
    credentials = Credentials(private_key=sshd.key("user"), known_hosts=sshd.known_hosts)
    assert push(Repository(sshd.url(origin.bare), credentials), {"a": manifest}, branch="b", message="m")


@pytest.mark.parametrize("path", ["../a", "a/../b", ".git/config", "a/.GIT/hooks/x", "/etc/x", "", "a//b", "a\nb"])
def test_paths_stay_inside(origin: Origin, manifest: Path, path: str) -> None:
    with pytest.raises(ConfigurationError):
        push(Repository(str(origin.bare), allow_protocols=("file",)), {path: manifest}, branch="b", message="m")
