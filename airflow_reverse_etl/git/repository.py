"""A Git repository: what a ref points at, and the files of one commit, placed on this worker whole or not at all.

git runs through GitPython with an environment of its own for every call; ``os.environ`` is never changed.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from airflow_reverse_etl.errors import ConfigurationError, ProjectError, RepositoryNotFoundError, ReverseEtlError
from airflow_reverse_etl.git.credentials import Credentials, scrub
from airflow_reverse_etl.git.errors import git_error

PROTOCOLS = ("https", "ssh")
PROJECT_FILE = "dbt_project.yml"
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

# Servers that speak protocol 0 hand out what refs point at, and nothing by its id.
_BY_REF_ONLY = re.compile(r"unadvertised object|not our ref")
_KEEP_SECONDS = 7 * 24 * 3600
# All that git needs from the worker's own environment; the rest (Airflow's secrets, GIT_DIR, GIT_TRACE) stays away.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_ALL|TZ|TMPDIR|SSH_AUTH_SOCK|SSL_CERT_(FILE|DIR)|GIT_SSL_CA(INFO|PATH)|GIT_EXEC_PATH"
    r"|(?i:https?|all|no)_(?i:proxy)"
)

Git = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository as one connection sees it.

    :param url: https, ssh (also ``git@host:path``), or what ``allow_protocols`` adds: ``file`` also means a local path.
    :param submodules: fetch those below the project's path too. The token is given to the same host only.
    :param timeout: seconds that one git command may take.
    :param connection: connection id, for error messages.
    :raises ConfigurationError: the URL is malformed, holds a password, or uses another protocol.
    """

    url: str
    credentials: Credentials = field(default_factory=Credentials)
    allow_protocols: tuple[str, ...] = PROTOCOLS
    submodules: bool = False
    timeout: float = 300.0
    connection: str | None = None

    def __post_init__(self) -> None:
        check_url(self.url, allow_protocols=self.allow_protocols, connection=self.connection)

    def head(self, ref: str = "main") -> str:
        """The commit that a branch, a tag, ``HEAD`` or a full ``refs/…`` points at: one ``git ls-remote``.

        A full commit id is its own answer, without asking the server. A branch wins over a tag of the same name.

        :raises RepositoryNotFoundError: no such ref; names the nearest ones.
        """
        if COMMIT.fullmatch(ref):
            return ref
        check_ref(ref)
        if ref == "HEAD" or ref.startswith("refs/"):
            wanted = [f"{ref}^{{}}", ref]  # ^{}: the commit behind an annotated tag
        else:
            wanted = [f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}"]
        found = self._ls_remote(wanted)
        for name in wanted:
            if name in found:
                return found[name]
        raise self._no_such_ref(ref)

    def content_id(self, commit: str, *, path: str = ".", ref: str | None = None) -> str | None:
        """A hash of everything under a path at a commit; None when there is nothing. Fetches no file's content."""
        with tempfile.TemporaryDirectory(prefix="reverse_etl-git-") as name, self.commands(Path(name)) as git:
            git("init", "--quiet", "--template=", f"--object-format={'sha1' if len(commit) == 40 else 'sha256'}")
            git("config", "remote.origin.url", self.url)
            try:
                git("fetch", "--quiet", "--no-tags", "--depth=1", "--filter=blob:none", "origin", commit)
            except ReverseEtlError as error:
                if not ref or not _BY_REF_ONLY.search(error.what):
                    raise
                git("fetch", "--quiet", "--no-tags", "--filter=blob:none", "origin", ref)
            folder = project_folder(path)
            if folder == ".":
                return git("rev-parse", f"{commit}^{{tree}}")
            found = git("ls-tree", "-d", "--object-only", commit, "--", folder)
        return found or None

    def checkout(
        self,
        commit: str,
        *,
        path: str = ".",
        under: Path,
        ref: str | None = None,
        prepare: tuple[str, Callable[[Path], None]] | None = None,
    ) -> Path:
        """The dbt project's folder at one commit, fetched unless this worker has it already. Treat it as read-only.

        Only the commit, without history, and only the project's path where the server can leave the rest out. No
        ``.git`` stays behind. Placed by a rename, so that another task sees all of it or nothing.

        :param path: folder of ``dbt_project.yml``, relative to the repository's root; the file itself will do too.
        :param under: folder for checkouts, private to the worker's user; those unused for a week are removed.
        :param ref: the branch or tag that ``commit`` came from, for servers that hand out refs only.
        :param prepare: name, and a function to complete the project's folder with before it is placed.
        :raises ProjectError: no ``dbt_project.yml`` there; names those that exist.
        """
        if not COMMIT.fullmatch(commit):
            raise ConfigurationError(f"{commit!r} is not a full commit id", todo="give all 40 (or 64) digits")
        if ref and not COMMIT.fullmatch(ref):
            check_ref(ref)
        folder = project_folder(path)
        identity = "\n".join([self.url, folder, prepare[0] if prepare else "", "submodules" * self.submodules])
        shelf = private_folder(under) / hashlib.sha256(identity.encode()).hexdigest()[:16]
        final = shelf / commit
        if not final.is_dir():
            shelf.mkdir(exist_ok=True)
            _remove_unused(shelf)
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=shelf) as temporary:
                tree = self._fetch(commit, Path(temporary), folder=folder, ref=ref)
                if prepare:
                    prepare[1](tree / folder)
                try:
                    tree.rename(final)
                except OSError:
                    if not final.is_dir():  # otherwise another task was quicker, and its copy is the same
                        raise
        os.utime(final)
        return final / folder

    def _fetch(self, commit: str, temporary: Path, *, folder: str, ref: str | None) -> Path:
        lazily = ["--filter=blob:none"] if folder != "." else []
        try:
            return self._export(
                commit, temporary / "slim", ["--depth=1", *lazily, "origin", commit], folder=folder, ref=ref
            )
        except ReverseEtlError as error:
            if not _BY_REF_ONLY.search(error.what):
                raise
        named = ref if ref and not COMMIT.fullmatch(ref) else "HEAD"
        return self._export(commit, temporary / "whole", ["origin", named], folder=folder, ref=ref)

    def _export(self, commit: str, tree: Path, fetch: list[str], *, folder: str, ref: str | None) -> Path:
        """The commit's files in a new folder ``tree``, without ``.git``."""
        tree.mkdir()
        with self.commands(tree) as git:
            git("init", "--quiet", "--template=", f"--object-format={'sha1' if len(commit) == 40 else 'sha256'}")
            git("config", "remote.origin.url", self.url)
            git("fetch", "--quiet", "--no-tags", *fetch)
            if commit not in git("rev-list", "FETCH_HEAD").split():
                raise RepositoryNotFoundError(
                    f"commit {commit} is not on the server any more",
                    todo="run the model sync again: the branch was probably force-pushed",
                    connection=self.connection,
                    repository=self.url,
                    ref=ref,
                )
            files = git("ls-tree", "-r", "-z", "--name-only", commit).split("\0")
            require_project(files, folder=folder, ref=ref, repository=self.url, commit=commit)
            if folder != ".":
                git("sparse-checkout", "set", "--cone", folder)
            git("checkout", "--quiet", "--detach", commit)
            if beside := _local_packages(tree, folder):
                git("sparse-checkout", "add", *beside)
            if self.submodules:
                git("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1", "--", *[folder, *beside])
        for marker in tree.rglob(".git") if self.submodules else ():
            marker.unlink() if marker.is_file() else None
        shutil.rmtree(tree / ".git")
        return tree

    def _ls_remote(self, patterns: Iterable[str]) -> dict[str, str]:
        with self.commands(Path("/")) as git:  # in no repository, whose configuration could have a say
            lines = git("ls-remote", "--quiet", "--", self.url, *patterns).splitlines()
        return {name: commit for commit, _, name in (line.partition("\t") for line in lines)}

    def _no_such_ref(self, ref: str) -> RepositoryNotFoundError:
        known = {name.split("/", 2)[2] for name in self._ls_remote(["refs/heads/*", "refs/tags/*"]) if "^" not in name}
        near = difflib.get_close_matches(ref.removeprefix("refs/heads/"), known, n=5) or sorted(known)[:10]
        return RepositoryNotFoundError(
            f"the repository has no branch or tag {ref!r}",
            todo=f"use one of: {', '.join(near)}" if near else "the repository is empty: push a first commit",
            connection=self.connection,
            repository=self.url,
        )

    @contextlib.contextmanager
    def commands(self, folder: Path) -> Iterator[Git]:
        """git in a folder, with this connection's credentials for as long as the context lasts."""
        if not shutil.which("git"):
            raise ConfigurationError("the program git is not on this worker", todo="install git 2.31 or newer")
        from git.cmd import Git as GitPython

        credentials = self.credentials.for_url(self.url)
        with credentials.environment(self.url) as environment:
            environment["GIT_ALLOW_PROTOCOL"] = ":".join(self.allow_protocols)
            unset = [name for name in os.environ if not _PASSED_ON.fullmatch(name) and name not in environment]
            # GitPython adds to os.environ and cannot take away from it; env(1) can.
            command = ["env", *(part for name in unset for part in ("-u", name)), "git"]

            def git(*arguments: str) -> str:
                status, out, err = GitPython(folder).execute(
                    [*command, *arguments],
                    env=environment,
                    with_extended_output=True,
                    with_exceptions=False,
                    kill_after_timeout=self.timeout,
                )
                if status < 0:  # GitPython's own words would quote the whole command
                    err = f"git did not end within {self.timeout:g} seconds"
                elif "publickey" in err:
                    err += "\n" + credentials.key_trouble(environment)
                if status:
                    text = scrub(err, credentials.secrets)
                    raise git_error(text, connection=self.connection, repository=self.url)
                return str(out)

            yield git


def check_url(url: str, *, allow_protocols: tuple[str, ...] = PROTOCOLS, connection: str | None = None) -> str:
    """The URL's protocol. Refuses what git would take for an option or a helper program, and passwords inside."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)(://|::)", url)
    remote = re.match(r"[^/:]+:(?!:)", url)
    protocol = scheme[1].lower() if scheme else "ssh" if remote else "file"
    # A leading dash is an option to git, or, as the host's name, to ssh.
    bad = not url or re.search(r"[\x00-\x20\x7f]", url) or re.match(r"-|[^/@]*@-|[a-z+]+://([^/@]*@)?-", url)
    if bad or (scheme and scheme[2] == "::") or protocol not in allow_protocols:
        raise ConfigurationError(
            f"the repository's URL is not one of the protocols {', '.join(allow_protocols)}",
            todo="use https://… or git@host:path; other protocols (file, http) only when allow_protocols in the "
            "connection's extra lists them",
            connection=connection,
            repository=scrub(url, ()),
        )
    if protocol != "file" and scheme and urlsplit(url).password is not None:
        raise ConfigurationError(
            "the repository's URL holds a password",
            todo="move it into the connection's password",
            connection=connection,
            repository=scrub(url, ()),
        )
    return protocol


def check_ref(ref: str) -> None:
    """Refuse what git-check-ref-format(1) refuses, and a leading dash, which could become an option."""
    bad = r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^/|/$|\.$|(^|/)\.|\.lock(/|$)|^-|/-|^@$|^$"
    if re.search(bad, ref):
        raise ConfigurationError(f"{ref!r} is no name for a branch, a tag or a commit", todo="use a name such as main")


def project_folder(path: str) -> str:
    """The project's path in one spelling: relative, with ``/``, without ``dbt_project.yml``; ``.`` is the root."""
    pure = PurePosixPath(path.strip().replace("\\", "/") or ".")
    pure = pure.parent if pure.name == PROJECT_FILE else pure
    if pure.is_absolute() or ".." in pure.parts or re.search(r"[\x00-\x1f\x7f*?\[\]!#\"]|^-", str(pure)):
        raise ConfigurationError(
            f"{path!r} is no path inside a repository", todo="give it relative to the repository's root: analytics/dbt"
        )
    return str(pure)


def require_project(files: Iterable[str], *, folder: str, ref: str | None, **where: object) -> None:
    """Raise ProjectError unless the folder holds a ``dbt_project.yml``, naming the folders that do."""
    found = sorted(
        str(p.parent) for p in map(PurePosixPath, files) if p.name == PROJECT_FILE and "dbt_packages" not in p.parts
    )
    if folder in found:
        return
    todo = "the path is relative to the repository's root, without the branch's name"
    without_branch = folder.removeprefix(f"{ref}/")
    if without_branch in found:
        todo += f": use {without_branch!r}"
    elif found:
        todo += f"; this commit has: {', '.join(str(PurePosixPath(p) / PROJECT_FILE) for p in found[:20])}"
    else:
        todo = "this commit has no dbt_project.yml at all: check repository and branch"
    raise ProjectError("there is no dbt_project.yml at the project path", todo=todo, path=folder, ref=ref, **where)


def _local_packages(tree: Path, folder: str) -> list[str]:
    """Folders elsewhere in the repository that the project takes packages from; git did not fetch them with it."""
    text = "".join(
        (tree / folder / name).read_text()
        for name in ("packages.yml", "dependencies.yml")
        if folder != "." and (tree / folder / name).is_file()
    )
    found = re.findall(r"^\s*-\s*local:\s*['\"]?([^'\"#\s]+)", text, re.MULTILINE)
    paths = (os.path.normpath(f"{folder}/{path}") for path in found)
    return [path for path in paths if not path.startswith((".", "/", "-"))]


def private_folder(folder: Path) -> Path:
    """The folder, created for this user alone. What is in it decides what dbt runs, so no one else may write there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ConfigurationError(
            "the folder for checkouts can be written to by others",
            todo="name another one, or chmod go-w it",
            folder=folder,
        )
    return folder


def _remove_unused(shelf: Path) -> None:
    for entry in shelf.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime > _KEEP_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
