"""Git: refs, the content of checkouts, and secrets that stay where they belong. Servers are real."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    ProjectError,
    RepositoryNotFoundError,
    TryLaterError,
    UnreachableError,
)
from airflow_reverse_etl.git.credentials import Credentials
from airflow_reverse_etl.git.repository import Repository, check_ref, check_url, project_folder
from tests.git.servers import PASSPHRASE, HttpServer, Origin, SshServer, certificate, git, http_server
from tests.property import examples


def local(origin: Origin) -> Repository:
    return Repository(str(origin.bare), allow_protocols=("file",))


def over_http(server: HttpServer, *, token: str | None = None, **settings: object) -> Repository:
    credentials = Credentials(token=token or server.token, **settings)  # type: ignore[arg-type]
    return Repository(server.url(), credentials=credentials, allow_protocols=("http",), connection="git_dbt")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


# -- refs ------------------------------------------------------------------------------------------------------------


def test_ref_is_a_branch_a_tag_a_full_ref_or_head(origin: Origin) -> None:
    first = git(origin.work, "rev-parse", "HEAD")
    git(origin.work, "tag", "-a", "v1", "-m", "annotated")
    git(origin.work, "tag", "light")
    origin.push("v1", "light")
    second = origin.commit({"new.txt": ""})
    repository = local(origin)
    for ref in ("v1", "light", "refs/tags/v1", "refs/tags/light", "develop", "release/1.0", "refs/heads/develop"):
        assert repository.head(ref) == first, ref
    assert {repository.head(ref) for ref in ("main", "HEAD", "refs/heads/main")} == {second}


def test_branch_wins_over_tag_and_over_refs_that_only_end_like_it(origin: Origin) -> None:
    old = git(origin.work, "rev-parse", "HEAD")
    new = origin.commit({"new.txt": ""})
    origin.push(f"{old}:refs/tags/main", f"{old}:refs/heads/feature/refs/heads/main")
    assert local(origin).head("main") == new


def test_full_commit_needs_no_server() -> None:
    assert Repository("https://192.0.2.1/nowhere.git").head("a" * 40) == "a" * 40


def test_missing_ref_names_the_nearest(origin: Origin) -> None:
    with pytest.raises(RepositoryNotFoundError, match=r"release/1\.0"):
        local(origin).head("release-1.0")
    with pytest.raises(RepositoryNotFoundError, match="the repository does not exist"):
        Repository(str(origin.bare) + "-not", allow_protocols=("file",)).head()


REFS = (
    st.text("ab/.-~^:?*[\\@{} \x7f\tlock", max_size=12)
    | st.text(max_size=8)
    | st.from_regex(r"[a-z./@-]{1,9}(\.lock)?")
)


@given(REFS)
@settings(max_examples=examples(60), deadline=None)
def test_refs_are_judged_as_git_judges_them(ref: str) -> None:
    """Accepted refs are valid branch names to git, never options. Of git's names, only a leading dash is refused."""
    try:
        check_ref(ref)
        taken = True
    except ConfigurationError:
        taken = False
    if "\0" in ref:  # it cannot be an argument
        assert not taken
        return
    command = ["git", "check-ref-format", f"refs/heads/{ref}"]
    valid = subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert taken == (valid and not re.search(r"(^|/)-", ref) and ref != "@")


# -- URLs and paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/org/repo.git", "ssh://git@host:2222/org/repo", "git@github.com:org/repo.git",
        "HTTPS://host/x", "host:repo.git",
    ],
)  # fmt: skip
def test_https_and_ssh_are_allowed(url: str) -> None:
    assert check_url(url) in ("https", "ssh")


@pytest.mark.parametrize(
    "url",
    [
        "", "--upload-pack=touch /tmp/x", "-oProxyCommand=x:y", "ssh://-oProxyCommand=x/y", "ssh://u@-oProxyCommand=x/y",
        "-x@host:y", "u@-oProxyCommand=x:y", "ext::sh -c touch% /tmp/x", "fd::17", "file:///srv/repo", "/srv/repo",
        "../repo", "http://host/x", "git://host/x", "ftp://host/x", "https://host/a\nb", "https://host/ x",
        "https://user:hunter2@host/x",
    ],
)  # fmt: skip
def test_everything_else_is_refused_before_git_sees_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Repository(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        (".", "."), ("", "."), ("analytics", "analytics"), ("analytics/", "analytics"), ("./a//b/", "a/b"),
        ("project/dbt_project.yml", "project"), ("dbt_project.yml", "."),
    ],
)  # fmt: skip
def test_project_path_has_one_spelling(path: str, folder: str) -> None:
    assert project_folder(path) == folder


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../../b", "--stdin", "a\nb", "a*"])
def test_project_path_stays_inside_the_repository(path: str) -> None:
    with pytest.raises(ConfigurationError):
        project_folder(path)


# -- checkouts -------------------------------------------------------------------------------------------------------


def test_checkout_holds_the_project_of_that_commit_and_little_else(
    origin: Origin, http: HttpServer, tmp_path: Path
) -> None:
    """Partial and shallow: other folders' files are not even transferred, and no ``.git`` remains."""
    commit = git(origin.work, "rev-parse", "HEAD")
    origin.commit({"analytics/models/customers.sql": "select 2"})
    folder = over_http(http).checkout(commit, path="analytics", under=tmp_path / "checkouts", ref="main")
    assert folder.name == "analytics"
    assert files(folder.parent) == {"README.md", "analytics/dbt_project.yml", "analytics/models/customers.sql"}
    assert (folder / "models/customers.sql").read_text() == "select 1 as customer_id"


def test_whole_repository_when_the_project_is_its_root(origin: Origin, tmp_path: Path) -> None:
    commit = origin.commit({"dbt_project.yml": "name: root"})
    folder = local(origin).checkout(commit, under=tmp_path / "checkouts")
    assert {"dbt_project.yml", "big/data.csv", "other/dbt/dbt_project.yml"} <= files(folder)


def test_repository_with_sha256_names(tmp_path: Path) -> None:
    bare = tmp_path / "new.git"
    git(tmp_path, "init", "--quiet", "--object-format=sha256", "-b", "main", "new.git")
    (bare / "dbt_project.yml").write_text("name: new")
    git(bare, "add", "-A")
    git(bare, "commit", "--quiet", "-m", "first")
    repository = Repository(str(bare), allow_protocols=("file",))
    assert (repository.checkout(repository.head(), under=tmp_path / "c") / "dbt_project.yml").is_file()


def test_server_that_cannot_leave_anything_out(origin: Origin, http: HttpServer, tmp_path: Path) -> None:
    """No partial clone, protocol 0, and a commit that no ref points at any more change nothing in the result."""
    git(origin.bare, "config", "uploadpack.allowFilter", "false")
    commit = git(origin.work, "rev-parse", "HEAD")
    origin.commit({"later.txt": ""})
    slim = over_http(http).checkout(commit, path="analytics", under=tmp_path / "v2", ref="main")
    http.protocol = 0
    git(origin.bare, "config", "uploadpack.allowFilter", "true")
    whole = over_http(http).checkout(commit, path="analytics", under=tmp_path / "v0", ref="main")
    assert files(slim.parent) == files(whole.parent) >= {"analytics/dbt_project.yml"}


def test_commit_that_is_gone(origin: Origin, http: HttpServer, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError, match="force-pushed"):
        over_http(http).checkout("1" * 40, path="analytics", under=tmp_path / "c", ref="main")


def test_second_checkout_asks_nobody(origin: Origin, http: HttpServer, tmp_path: Path) -> None:
    commit = git(origin.work, "rev-parse", "HEAD")
    first = over_http(http).checkout(commit, path="analytics", under=tmp_path / "c")
    http.requests.clear()
    assert over_http(http).checkout(commit, path="analytics/dbt_project.yml", under=tmp_path / "c") == first
    assert http.requests == []


def test_wrong_project_path_names_what_exists(origin: Origin, tmp_path: Path) -> None:
    """The error recognises the most common mistake, the branch's name in the path. Nothing is placed."""
    commit = git(origin.work, "rev-parse", "HEAD")
    with pytest.raises(ProjectError, match="without the branch's name: 'analytics'"):
        local(origin).checkout(commit, path="main/analytics", under=tmp_path / "c", ref="main")
    with pytest.raises(ProjectError, match=r"analytics/dbt_project\.yml, other/dbt/dbt_project\.yml"):
        local(origin).checkout(commit, path="dbt", under=tmp_path / "c", ref="main")
    assert files(tmp_path / "c") == set()


def test_local_packages_of_the_project_come_along(origin: Origin, tmp_path: Path) -> None:
    commit = origin.commit(
        {
            "analytics/packages.yml": "packages:\n  - local: ../shared/macros\n  - local: '../../outside'\n",
            "shared/macros/dbt_project.yml": "name: macros",
        }
    )
    folder = local(origin).checkout(commit, path="analytics", under=tmp_path / "c")
    assert (folder / "../shared/macros/dbt_project.yml").is_file()
    assert not (folder.parent / "other").exists()


def test_local_packages_of_packages_and_in_flow_style_come_along(origin: Origin, tmp_path: Path) -> None:
    """dbt reads the paths in a package's own file from the project's folder."""
    commit = origin.commit(
        {
            "analytics/dependencies.yml": "packages: [{local: ../shared/macros}]",
            "shared/macros/packages.yml": "packages:\n  - {local: '../shared/more'}",
            "shared/more/packages.yml": "packages:\n  - local: {{ env_var('PLACE') }}\n  - local: ../deep",
            "deep/dbt_project.yml": "name: deep",
        }
    )
    folder = local(origin).checkout(commit, path="analytics", under=tmp_path / "c")
    assert (folder / "../shared/more/packages.yml").is_file()
    assert (folder / "../deep/dbt_project.yml").is_file()
    assert not (folder.parent / "other").exists()


def test_a_package_above_the_project_comes_along(origin: Origin, tmp_path: Path) -> None:
    commit = origin.commit({"analytics/packages.yml": "packages:\n  - local: ../\n"})
    folder = local(origin).checkout(commit, path="analytics", under=tmp_path / "c")
    assert (folder / "../other/dbt/dbt_project.yml").is_file()


def test_two_tasks_at_once_share_one_checkout(origin: Origin, tmp_path: Path) -> None:
    """Both tasks fetch, one checkout is placed, and no temporary folder remains."""
    commit = git(origin.work, "rev-parse", "HEAD")
    together = threading.Barrier(4)

    def task(_: int) -> Path:
        return local(origin).checkout(
            commit, path="analytics", under=tmp_path / "c", prepare=("wait", lambda _: together.wait() and None)
        )

    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(task, range(4)))
    assert [entry.name for entry in folder.parents[1].iterdir()] == [commit]


def test_failure_leaves_nothing_behind(origin: Origin, tmp_path: Path) -> None:
    """The next task does not find a checkout that could not be completed."""
    commit = git(origin.work, "rev-parse", "HEAD")

    def fail(_: Path) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        local(origin).checkout(commit, path="analytics", under=tmp_path / "c", prepare=("fail", fail))
    assert files(tmp_path / "c") == set()
    assert local(origin).checkout(commit, path="analytics", under=tmp_path / "c", prepare=("fail", print)).is_dir()


def test_a_full_disk_is_named_with_its_folder(origin: Origin, tmp_path: Path) -> None:
    commit = git(origin.work, "rev-parse", "HEAD")

    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(TryLaterError, match="the worker's disk is full") as error:
        local(origin).checkout(commit, path="analytics", under=tmp_path / "c", prepare=("fail", fail))
    assert str(tmp_path / "c") in str(error.value)


def test_killed_while_fetching_leaves_nothing_that_looks_whole(origin: Origin, tmp_path: Path) -> None:
    """After a SIGKILL during the fetch, the next task fetches again."""
    commit = git(origin.work, "rev-parse", "HEAD")
    script = (
        "import os, signal; from pathlib import Path; from airflow_reverse_etl.git.repository import Repository\n"
        f"Repository({str(origin.bare)!r}, allow_protocols=('file',)).checkout({commit!r}, path='analytics', "
        f"under=Path({str(tmp_path / 'c')!r}), prepare=('x', lambda _: os.kill(os.getpid(), signal.SIGKILL)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    (shelf,) = (tmp_path / "c").iterdir()
    assert [entry.name[:9] for entry in shelf.iterdir()] == [".fetching"]
    assert local(origin).checkout(commit, path="analytics", under=tmp_path / "c", prepare=("x", print)).is_dir()


def test_unused_checkouts_are_removed(origin: Origin, tmp_path: Path) -> None:
    old = git(origin.work, "rev-parse", "HEAD")
    kept = origin.commit({"a": ""})
    new = origin.commit({"b": ""})
    repository = local(origin)
    for commit in (old, kept):
        repository.checkout(commit, path="analytics", under=tmp_path / "c")
    (shelf,) = (tmp_path / "c").iterdir()
    for commit in (old, kept):
        os.utime(shelf / commit, (time.time() - 8 * 24 * 3600,) * 2)
    repository.checkout(kept, path="analytics", under=tmp_path / "c")  # used again
    repository.checkout(new, path="analytics", under=tmp_path / "c")
    assert {entry.name for entry in shelf.iterdir()} == {kept, new}


def test_checkout_folder_of_others_is_not_trusted(origin: Origin, tmp_path: Path) -> None:
    """The folder's content decides what dbt runs."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod go-w"):
        local(origin).checkout("a" * 40, under=shared)


def test_hostile_repository_gets_nothing_run_and_no_link_out(origin: Origin, tmp_path: Path) -> None:
    """Symlinks become text files; the repository's hooks, filters, submodules and fsmonitor do not run."""
    (origin.work / "analytics/leak.sql").symlink_to("/etc/passwd")
    marker = tmp_path / "ran"
    commit = origin.commit(
        {
            "analytics/.gitattributes": "*.sql filter=evil\n",
            ".gitmodules": f'[submodule "x"]\n path = analytics/x\n url = ext::touch {marker}\n',
            ".git-hooks/post-checkout": f"#!/bin/sh\ntouch {marker}\n",
        }
    )
    folder = local(origin).checkout(commit, path="analytics", under=tmp_path / "c")
    assert not (folder / "leak.sql").is_symlink()
    assert (folder / "leak.sql").read_text() == "/etc/passwd"
    assert not marker.exists()


def test_workers_git_settings_do_not_matter(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``GIT_DIR`` and similar variables of the task's environment, and a broken ~/.gitconfig, change nothing."""
    (tmp_path / ".gitconfig").write_text('[url "https://elsewhere/"]\n insteadOf = /\n[broken')
    commit = git(origin.work, "rev-parse", "HEAD")
    for name, value in {
        "GIT_DIR": "/nowhere",
        "GIT_WORK_TREE": "/",
        "GIT_CONFIG_COUNT": "x",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert local(origin).checkout(local(origin).head("main"), path="analytics", under=tmp_path / "c").is_dir()
    assert local(origin).head() == commit
    assert dict(os.environ) == before


# -- https -----------------------------------------------------------------------------------------------------------


def test_wrong_and_missing_tokens(http: HttpServer) -> None:
    for repository in (over_http(http, token="wrong"), Repository(http.url(), allow_protocols=("http",))):
        with pytest.raises(CredentialsError, match="unexpired token"):
            repository.head()


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (403, CredentialsError, "read access"),
        (404, RepositoryNotFoundError, "check the repository's URL"),
        (429, UnreachableError, "try again later"),
        (503, UnreachableError, "try again later"),
    ],
)
def test_the_hosts_answers_become_errors(http: HttpServer, status: int, error: type[Exception], words: str) -> None:
    http.status = status
    with pytest.raises(error, match=words) as raised:
        over_http(http).head()
    assert "git_dbt" in str(raised.value)


def test_host_that_is_not_there() -> None:
    for host in ("no-such-host.invalid", "127.0.0.1:9"):
        with pytest.raises(UnreachableError):
            Repository(f"https://{host}/x.git").head()


def test_git_that_hangs_is_ended(http: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.git"
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="did not end within 1 seconds"):
            Repository(url, allow_protocols=("http",), timeout=1).head()
        assert time.monotonic() - started < 10


def test_redirect_to_another_host_does_not_get_the_token(origin: Origin, http: HttpServer) -> None:
    """git follows the redirect, but the token is bound to the host that the connection names."""
    with http_server(origin.bare.parent, token="another") as thief:
        http.redirect = f"http://localhost:{thief.port}"
        with pytest.raises(CredentialsError):
            over_http(http).head()
        assert thief.requests
        assert {authorization for _, authorization in thief.requests} == {None}


def test_token_is_in_no_file_no_argument_no_log_no_error(
    origin: Origin, http: HttpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Observed while git runs: all command lines on this machine, git's files, and its message when it fails."""
    token = str(http.token)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("GIT_TRACE", "1")
    commit = git(origin.work, "rev-parse", "HEAD")
    seen: list[str] = []

    remove = shutil.rmtree

    def look_first(folder: Any, **options: Any) -> None:
        if Path(folder).name == ".git":
            seen.append((folder / "config").read_text())
            seen.extend(p.read_text(errors="replace") for p in folder.parent.rglob("*") if p.is_file())
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", look_first)
    with watched_command_lines(origin, http) as lines:
        over_http(http).checkout(commit, path="analytics", under=tmp_path / "c")
    assert '[remote "origin"]' in seen[0]
    assert any("remote-http" in line for line in lines)
    http.status = 403
    errors = []
    for action in (lambda: over_http(http).head(), lambda: over_http(http).checkout("2" * 40, under=tmp_path / "c")):
        with pytest.raises(CredentialsError) as raised:
            action()
        errors += [str(raised.value), repr(raised.value), repr(over_http(http))]
    for text in ("\n".join(lines), *seen, caplog.text, *errors):
        assert token not in text
        assert "s3cr3t" not in text


@contextmanager
def watched_command_lines(origin: Origin, http: HttpServer) -> Iterator[set[str]]:
    """Yield the command lines of this machine's processes that mention git, sampled while the block runs."""
    lines: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if "git" in line:
                    lines.add(line)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lines
    finally:
        done.set()
        thread.join()


def test_url_with_credentials_in_errors_of_git(http: HttpServer) -> None:
    """A user name in a URL is allowed, and no message repeats it."""
    repository = Repository(http.url().replace("http://", "http://someone@"), allow_protocols=("http",))
    with pytest.raises(CredentialsError) as raised:
        repository.head()
    assert "someone@" not in raised.value.what


def test_host_with_a_certificate_of_its_own_authority(origin: Origin, tmp_path: Path) -> None:
    """The certificate is trusted when its authority is given, as text or as a file, and refused otherwise."""
    pem = certificate(tmp_path / "own.pem")
    text = pem.read_text().partition("-----END PRIVATE KEY-----")[2]
    (tmp_path / "ca.pem").write_text(text)
    with http_server(origin.bare.parent, tls=pem) as server:
        for ca in (text, text.replace("\n", "\\n"), str(tmp_path / "ca.pem")):
            assert Repository(server.url(), Credentials(ca_certificates=ca)).head()
        with pytest.raises(UnreachableError, match="certificate is not trusted"):
            Repository(server.url()).head()
    with pytest.raises(CredentialsError, match="was not found on this worker"):
        Repository(server.url(), Credentials(ca_certificates="/no/such.pem")).head()


def test_proxy_of_the_connection(origin: Origin, http: HttpServer) -> None:
    """The host is reached through the proxy only, and no message shows the proxy's password."""
    proxy = http.url("").replace("//", "//me:pa55word@").rstrip("/")
    credentials = Credentials(token=http.token, proxy=proxy)
    repository = Repository("http://git.example.invalid/origin.git", credentials, allow_protocols=("http",))
    assert repository.head() == git(origin.work, "rev-parse", "HEAD")
    assert http.requests[-1][0].startswith("http://git.example.invalid/")
    http.status = 403
    with pytest.raises(CredentialsError) as raised:
        repository.head()
    assert "pa55word" not in f"{raised.value}{repository!r}"


def test_submodules_only_where_asked_for(origin: Origin, http: HttpServer, tmp_path: Path) -> None:
    """Submodules of the same host get the token, those of other hosts do not; no ``.git`` remains in the checkout."""
    library = Origin.create(tmp_path / "library")
    library.commit({"macros/m.sql": "select 1"})
    shutil.copytree(library.bare, origin.bare.parent / "library.git")
    git(origin.bare.parent / "library.git", "config", "uploadpack.allowAnySHA1InWant", "true")
    commit = git(library.work, "rev-parse", "HEAD")
    (origin.work / ".gitmodules").write_text('[submodule "lib"]\n\tpath = analytics/lib\n\turl = ../library.git\n')
    git(origin.work, "update-index", "--add", "--cacheinfo", f"160000,{commit},analytics/lib")
    (origin.work / "analytics/lib").mkdir()
    head = origin.commit({}, "with a submodule")
    plain = over_http(http).checkout(head, path="analytics", under=tmp_path / "c")
    assert not (plain / "lib" / "macros").exists()
    whole = replace(over_http(http), submodules=True).checkout(head, path="analytics", under=tmp_path / "c")
    assert (whole / "lib" / "macros" / "m.sql").read_text() == "select 1"
    assert not list(whole.rglob(".git"))


# -- ssh -------------------------------------------------------------------------------------------------------------


def over_ssh(sshd: SshServer, path: Path, *, key: str = "user", **settings: object) -> Repository:
    settings = {"known_hosts": sshd.known_hosts, "private_key": sshd.key(key), **settings}
    return Repository(sshd.url(path), credentials=Credentials(**settings), connection="git_ssh")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mangle",
    [
        lambda key: key,
        lambda key: key.strip(),
        lambda key: key.replace("\n", "\r\n"),
        lambda key: key.replace("\n", "\\n"),
    ],
    ids=["as it is", "no last line end", "CRLF", "literal \\n"],
)
def test_key_as_connection_forms_mangle_it(sshd: SshServer, origin: Origin, mangle: object) -> None:
    key = mangle(sshd.key("user"))  # type: ignore[operator]
    assert over_ssh(sshd, origin.bare, private_key=key).head() == git(origin.work, "rev-parse", "HEAD")


def test_key_with_passphrase_and_key_in_a_file(sshd: SshServer, origin: Origin, tmp_path: Path) -> None:
    commit = git(origin.work, "rev-parse", "HEAD")
    locked = over_ssh(sshd, origin.bare, key="locked", passphrase=PASSPHRASE)
    assert locked.checkout(commit, path="analytics", under=tmp_path / "c").is_dir()
    known_hosts = tmp_path / "known hosts"
    known_hosts.write_text(sshd.known_hosts)
    by_file = {"private_key": None, "key_file": str(sshd.folder / "user"), "known_hosts": None}
    assert over_ssh(sshd, origin.bare, **by_file, known_hosts_file=f'"{known_hosts}"').head() == commit


def test_port_apart_from_the_url(sshd: SshServer, origin: Origin) -> None:
    url = sshd.url(origin.bare).replace(f":{sshd.port}", "")
    credentials = Credentials(private_key=sshd.key("user"), known_hosts=sshd.known_hosts, ssh_port=sshd.port)
    assert Repository(url, credentials=credentials).head()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"key": "locked", "passphrase": "wrong"}, "the passphrase does not unlock"),
        ({"key": "locked"}, "the passphrase does not unlock"),
        ({"key": "stranger"}, "the host refused the SSH key"),
        ({"known_hosts": "example.com ssh-ed25519 AAAA"}, "ssh-keyscan"),
        ({"private_key": None, "key_file": "/no/such/key"}, "was not found on this worker"),
        ({"private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"}, "paste the whole private key again"),
    ],
)
def test_errors_of_ssh_say_what_to_do(
    sshd: SshServer, origin: Origin, settings: dict[str, str | None], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CredentialsError, match=words) as raised:
        over_ssh(sshd, origin.bare, **settings).head()  # type: ignore[arg-type]
    assert "git_ssh" in str(raised.value)


def test_changed_host_key_is_a_warning_not_a_question(sshd: SshServer, origin: Origin) -> None:
    forged = sshd.known_hosts.replace(sshd.key("host.pub"), sshd.key("stranger.pub"))
    with pytest.raises(CredentialsError, match="intercepted connection"):
        over_ssh(sshd, origin.bare, known_hosts=forged, host_key_checking="accept-new").head()


def test_host_keys_may_be_taken_on_trust_if_asked_for(sshd: SshServer, origin: Origin) -> None:
    repository = over_ssh(sshd, origin.bare, known_hosts="# nobody", host_key_checking="accept-new")
    assert repository.head()


def test_missing_repository_over_ssh(sshd: SshServer, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        over_ssh(sshd, tmp_path / "nope.git").head()


def test_key_and_passphrase_are_in_no_argument_and_gone_afterwards(
    sshd: SshServer, origin: Origin, http: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key's file has mode 0600 in a folder of mode 0700, for as long as git runs."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    credentials = Credentials(private_key=sshd.key("locked"), passphrase=PASSPHRASE, known_hosts=sshd.known_hosts)
    with credentials.environment("ssh://host/x") as environment:
        (folder,) = (tmp_path / "tmp").iterdir()
        modes = {p.name: p.stat().st_mode & 0o777 for p in [folder, *folder.iterdir()]}
        assert modes == {folder.name: 0o700, "key": 0o600, "known_hosts": 0o600, "askpass": 0o700}
        assert PASSPHRASE not in (folder / "askpass").read_text() + environment["GIT_SSH_COMMAND"]
    assert list((tmp_path / "tmp").iterdir()) == []
    with watched_command_lines(origin, http) as lines:
        assert Repository(sshd.url(origin.bare), credentials=credentials).head()
    assert any("ssh" in line for line in lines)
    assert not [line for line in lines if PASSPHRASE in line or "PRIVATE KEY" in line]
    assert "sesame" not in repr(credentials)
    assert "PRIVATE" not in repr(credentials)
