"""Pushes of files from the worker to a branch of a Git repository, and a check of the permission to push."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from email.utils import parseaddr
from pathlib import Path

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, RunConflictError
from airflow_reverse_etl.git.repository import Git, Repository, check_ref

AUTHOR = "Airflow <airflow@localhost>"

_ATTEMPTS = 3
_PROBE = "refs/heads/reverse-etl-probe"


def push(
    repository: Repository,
    files: Mapping[str, Path],
    *,
    branch: str,
    message: str,
    author: str = AUTHOR,
    base: str = "HEAD",
) -> str | None:
    """Commit files on top of a branch, and push it. Nothing is checked out, and no other file is touched.

    A new branch begins at ``base``, or without a history if the repository is empty. When another push comes first, the
    commit is repeated on top of that push. History is never rewritten.

    :param files: path in the repository → file on this worker.
    :returns: the commit; None when the branch already has exactly these files.
    :raises CredentialsError: the credentials may not push, or the branch is protected.
    :raises RunConflictError: another push came first in each of the attempts.
    """
    check_ref(branch)
    for path in files:
        if re.search(r"(^|/)(\.git|\.\.?|)(/|$)|[\x00-\x1f\\]", path, re.IGNORECASE):
            raise ConfigurationError(
                f"{path!r} is not a path inside a repository", todo="write the path as folder/file"
            )
    for _ in range(_ATTEMPTS):
        try:
            return _push_once(repository, files, branch=branch, message=message, author=author, base=base)
        except RunConflictError as error:
            conflict = error
    raise conflict


def may_push(repository: Repository) -> bool:
    """Return whether the host lets these credentials push. Sends nothing; rules of single branches are not checked."""
    with tempfile.TemporaryDirectory(prefix="reverse_etl-push-") as name, repository.commands(Path(name)) as git:
        _begin(git, repository)
        tree = git("write-tree")
        commit = git(*_identity(AUTHOR), "commit-tree", tree, "-m", "probe")
        try:
            git("push", "--quiet", "--dry-run", "origin", f"{commit}:{_PROBE}")
        except CredentialsError:
            return False
    return True


def _push_once(
    repository: Repository, files: Mapping[str, Path], *, branch: str, message: str, author: str, base: str
) -> str | None:
    with tempfile.TemporaryDirectory(prefix="reverse_etl-push-") as name, repository.commands(Path(name)) as git:
        _begin(git, repository)
        heads: dict[str, str] = {}
        for line in git("ls-remote", "--quiet", "origin", f"refs/heads/{branch}", base).splitlines():
            head, _, ref = line.partition("\t")
            heads[ref] = head
        # An existing branch wins over its base; in an empty repository there is neither.
        start = heads.get(f"refs/heads/{branch}") or next(iter(heads.values()), None)
        if start:
            git("fetch", "--quiet", "--no-tags", "--depth=1", "--filter=blob:none", "origin", start)
            git("read-tree", start)
        for path, file in files.items():
            blob = git("hash-object", "-w", "--no-filters", "--", str(file.absolute()))
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        tree = git("write-tree", "--missing-ok")  # the content of the branch's other files stays on the server
        if start and tree == git("rev-parse", f"{start}^{{tree}}") and f"refs/heads/{branch}" in heads:
            return None
        parents = ["-p", start] if start else []
        commit = git(*_identity(author), "commit-tree", tree, *parents, "-m", message)
        git("push", "--quiet", "origin", f"{commit}:refs/heads/{branch}")
    return commit


def _begin(git: Git, repository: Repository) -> None:
    git("init", "--quiet", "--template=")
    git("config", "remote.origin.url", repository.url)


def _identity(author: str) -> list[str]:
    name, address = parseaddr(author)
    if not name or not address:
        raise ConfigurationError(f"invalid author {author!r}", todo="write the author as Name <address>")
    return ["-c", f"user.name={name}", "-c", f"user.email={address}"]
