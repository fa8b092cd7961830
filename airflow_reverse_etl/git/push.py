"""Files from the worker back into a branch of a Git repository, and whether the credentials may do that at all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from email.utils import parseaddr
from pathlib import Path

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, RunConflictError
from airflow_reverse_etl.git.repository import Git, Repository, check_ref

AUTHOR = "Airflow <airflow@localhost>"

_TRIES = 3
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
    """Commit files on top of a branch, and push it. Nothing is checked out, no other file is touched.

    A branch that does not exist begins at ``base``, or without a history where the repository is empty. When somebody
    else pushes meanwhile, the commit is made again on top of theirs; history is never rewritten.

    :param files: path in the repository → file on this worker.
    :returns: the commit; None when the branch has exactly these files already.
    :raises CredentialsError: the credentials may not push, or the branch is protected.
    :raises RunConflictError: others pushed to the branch each time.
    """
    check_ref(branch)
    for path in files:
        if re.search(r"(^|/)(\.git|\.\.?|)(/|$)|[\x00-\x1f\\]", path, re.IGNORECASE):
            raise ConfigurationError(f"{path!r} is no path inside a repository", todo="write it as folder/file")
    for _ in range(_TRIES):
        try:
            return _push_once(repository, files, branch=branch, message=message, author=author, base=base)
        except RunConflictError as error:
            conflict = error
    raise conflict


def may_push(repository: Repository) -> bool:
    """Whether the host lets these credentials push. Sends nothing; rules for single branches are not asked for."""
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
        heads = git("ls-remote", "--quiet", "origin", f"refs/heads/{branch}", base).splitlines()
        known = {ref: commit for commit, _, ref in (line.partition("\t") for line in heads)}
        start = known.get(f"refs/heads/{branch}") or next(iter(known.values()), None)
        if start:
            git("fetch", "--quiet", "--no-tags", "--depth=1", "--filter=blob:none", "origin", start)
            git("read-tree", start)
        for path, file in files.items():
            blob = git("hash-object", "-w", "--no-filters", "--", str(file.absolute()))
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        tree = git("write-tree", "--missing-ok")  # what the branch has besides stays on the server
        if start and tree == git("rev-parse", f"{start}^{{tree}}") and f"refs/heads/{branch}" in known:
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
        raise ConfigurationError(f"{author!r} is no author", todo="write it as Name <address>")
    return ["-c", f"user.name={name}", "-c", f"user.email={address}"]
