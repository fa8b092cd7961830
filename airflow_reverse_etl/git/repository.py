"""Git repositories: the commit of a ref, and the files of a commit, placed on this worker completely or not at all.

git runs through GitPython, with its own environment for every call; ``os.environ`` is never changed.
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
from airflow_reverse_etl.worker_disk import space_needed

PROTOCOLS = ("https", "ssh")
PROJECT_FILE = "dbt_project.yml"
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

# Servers that speak protocol 0 serve commits by ref only, never by id.
_BY_REF_ONLY = re.compile(r"unadvertised object|not our ref")
_KEEP_SECONDS = 7 * 24 * 3600
# All that git needs from the worker's environment. Everything else (Airflow's secrets, GIT_DIR, GIT_TRACE) is withheld.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_ALL|TZ|TMPDIR|SSH_AUTH_SOCK|SSL_CERT_(FILE|DIR)|GIT_SSL_CA(INFO|PATH)|GIT_EXEC_PATH"
    r"|(?i:https?|all|no)_(?i:proxy)"
)

Git = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Repository:
    """A Git repository, reached through one connection.

    :param url: https or ssh URL (also ``git@host:path``), or one of a protocol that ``allow_protocols`` adds; ``file``
        also allows a local path.
    :param submodules: fetch the submodules below the project's path too. Only the same host receives the token.
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
        """Return the commit that a branch, a tag, ``HEAD`` or a full ``refs/…`` points at, by one ``git ls-remote``.

        A full commit id is returned without asking the server. A branch wins over a tag of the same name.

        :raises RepositoryNotFoundError: the ref does not exist; names similar ones.
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
        raise self._ref_not_found(ref)

    def content_id(self, commit: str, *, path: str = ".", ref: str | None = None) -> str | None:
        """Return a hash of everything under a path at a commit, without fetching the content of files.

        :returns: the hash; None when the path does not exist in the commit.
        """
        with tempfile.TemporaryDirectory(prefix="reverse_etl-git-") as name, self.commands(Path(name)) as git:
            _init(git, self.url, commit)
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
        """Return the dbt project's folder at one commit; fetch the commit unless this worker already has it.

        Fetches the commit without history, and only the project's path where the server supports it. No ``.git``
        remains. A rename puts the finished folder in place, so that another task sees all of it or nothing. Callers
        treat the folder as read-only.

        :param path: folder of ``dbt_project.yml``, or the file itself, relative to the repository's root.
        :param under: folder for checkouts, private to the worker's user; checkouts unused for a week are removed.
        :param ref: the branch or tag that ``commit`` came from, for servers that serve refs only.
        :param prepare: name and function of a step that completes the project's folder before the rename.
        :raises ProjectError: the path has no ``dbt_project.yml``; names the paths that have one.
        :raises TryLaterError: the disk is full.
        """
        if not COMMIT.fullmatch(commit):
            raise ConfigurationError(f"{commit!r} is not a full commit id", todo="write all 40 (or 64) digits")
        if ref and not COMMIT.fullmatch(ref):
            check_ref(ref)
        folder = project_folder(path)
        # Everything that changes the files, apart from the commit, is part of the folder's name.
        preparation = prepare[0] if prepare else ""
        identity = "\n".join([self.url, folder, preparation, "submodules" * self.submodules])
        checkouts = private_folder(under) / hashlib.sha256(identity.encode()).hexdigest()[:16]
        final = checkouts / commit
        if not final.is_dir():
            with space_needed("the commit cannot be fetched", folder=under):
                checkouts.mkdir(exist_ok=True)
                _remove_unused(checkouts)
                self._add(final, folder=folder, ref=ref, prepare=prepare[1] if prepare else None)
        os.utime(final)  # marks the checkout as used
        return final / folder

    def _add(self, final: Path, *, folder: str, ref: str | None, prepare: Callable[[Path], None] | None) -> None:
        """Fetch the commit by which a folder is named into a folder next to it, and rename that."""
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=final.parent) as temporary:
            tree = self._fetch(final.name, Path(temporary), folder=folder, ref=ref)
            if prepare:
                prepare(tree / folder)
            try:
                tree.rename(final)
            except OSError:
                if not final.is_dir():  # otherwise another task was quicker, and its copy is identical
                    raise

    def _fetch(self, commit: str, temporary: Path, *, folder: str, ref: str | None) -> Path:
        # First the single commit, by its id.
        fetch = ["--depth=1", "origin", commit]
        if folder != ".":
            fetch.insert(0, "--filter=blob:none")
        try:
            return self._export(commit, temporary / "slim", fetch, folder=folder, ref=ref)
        except ReverseEtlError as error:
            if not _BY_REF_ONLY.search(error.what):
                raise
        # The server serves refs only: fetch the whole history of the ref that has the commit.
        name = ref if ref and not COMMIT.fullmatch(ref) else "HEAD"
        return self._export(commit, temporary / "whole", ["origin", name], folder=folder, ref=ref)

    def _export(self, commit: str, tree: Path, fetch: list[str], *, folder: str, ref: str | None) -> Path:
        """Place the commit's files in a new folder ``tree``, without ``.git``."""
        tree.mkdir()
        with self.commands(tree) as git:
            _init(git, self.url, commit)
            git("fetch", "--quiet", "--no-tags", *fetch)
            if commit not in git("rev-list", "FETCH_HEAD").split():
                raise RepositoryNotFoundError(
                    f"commit {commit} is not on the server any more",
                    todo="run the model sync again, which picks up the force-pushed branch",
                    connection=self.connection,
                    repository=self.url,
                    ref=ref,
                )
            files = git("ls-tree", "-r", "-z", "--name-only", commit).split("\0")
            require_project(files, folder=folder, ref=ref, repository=self.url, commit=commit)
            if folder != ".":
                git("sparse-checkout", "set", "--cone", folder)
            git("checkout", "--quiet", "--detach", commit)
            packages = _fetch_packages(git, tree, folder) if folder != "." else []
            if self.submodules:
                git("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1", "--", folder, *packages)
        if self.submodules:
            # Each submodule has a file named .git, which points into the folder that is removed next.
            for marker in tree.rglob(".git"):
                if marker.is_file():
                    marker.unlink()
        shutil.rmtree(tree / ".git")
        return tree

    def _ls_remote(self, patterns: Iterable[str]) -> dict[str, str]:
        """Return the commits of the refs that match the patterns, by the refs' full names."""
        with self.commands(Path("/")) as git:  # outside of any repository, whose configuration git would read
            lines = git("ls-remote", "--quiet", "--", self.url, *patterns).splitlines()
        commits = {}
        for line in lines:
            commit, _, name = line.partition("\t")
            commits[name] = commit
        return commits

    def _ref_not_found(self, ref: str) -> RepositoryNotFoundError:
        refs = self._ls_remote(["refs/heads/*", "refs/tags/*"])
        existing = {name.split("/", 2)[2] for name in refs if "^" not in name}
        similar = difflib.get_close_matches(ref.removeprefix("refs/heads/"), existing, n=5) or sorted(existing)[:10]
        todo = f"use one of: {', '.join(similar)}" if similar else "push a first commit: the repository is empty"
        return RepositoryNotFoundError(
            f"the repository has no branch or tag {ref!r}",
            todo=todo,
            connection=self.connection,
            repository=self.url,
        )

    @contextlib.contextmanager
    def commands(self, folder: Path) -> Iterator[Git]:
        """Yield a function that runs git in a folder, with this connection's credentials until the context exits."""
        if not shutil.which("git"):
            raise ConfigurationError("git was not found on this worker", todo="install git 2.31 or newer")
        from git.cmd import Git as GitPython

        credentials = self.credentials.for_url(self.url)
        with credentials.environment(self.url) as environment:
            environment["GIT_ALLOW_PROTOCOL"] = ":".join(self.allow_protocols)
            # GitPython only adds to os.environ; env(1) removes from it.
            command = ["env"]
            for name in os.environ:
                if not _PASSED_ON.fullmatch(name) and name not in environment:
                    command += ["-u", name]
            command.append("git")

            def git(*arguments: str) -> str:
                status, out, err = GitPython(folder).execute(
                    [*command, *arguments],
                    env=environment,
                    with_extended_output=True,
                    with_exceptions=False,
                    kill_after_timeout=self.timeout,
                )
                if status < 0:  # GitPython's own message would quote the whole command
                    err = f"git did not end within {self.timeout:g} seconds"
                elif "publickey" in err:
                    err += "\n" + credentials.key_problem(environment)
                if status:
                    text = scrub(err, credentials.secrets)
                    raise git_error(text, command=arguments[0], connection=self.connection, repository=self.url)
                return str(out)

            yield git


def check_url(url: str, *, allow_protocols: tuple[str, ...] = PROTOCOLS, connection: str | None = None) -> str:
    """Return the URL's protocol. Refuses passwords, and URLs that git would read as an option or a helper program."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)(://|::)", url)
    remote = re.match(r"[^/:]+:(?!:)", url)
    protocol = scheme[1].lower() if scheme else "ssh" if remote else "file"
    # git reads a leading dash as an option, and so does ssh at the beginning of the host's name.
    bad = not url or re.search(r"[\x00-\x20\x7f]", url) or re.match(r"-|[^/@]*@-|[a-z+]+://([^/@]*@)?-", url)
    if bad or (scheme and scheme[2] == "::") or protocol not in allow_protocols:
        raise ConfigurationError(
            f"the repository's URL does not use one of the protocols {', '.join(allow_protocols)}",
            todo="use https://… or git@host:path, or list the protocol (file, http) in allow_protocols in the "
            "connection's extra",
            connection=connection,
            repository=scrub(url, ()),
        )
    if protocol != "file" and scheme and urlsplit(url).password is not None:
        raise ConfigurationError(
            "the repository's URL contains a password",
            todo="move the password from the URL into the connection's password",
            connection=connection,
            repository=scrub(url, ()),
        )
    return protocol


def check_ref(ref: str) -> None:
    """Refuse what git-check-ref-format(1) refuses, and a leading dash, which git could read as an option."""
    bad = r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^/|/$|\.$|(^|/)\.|\.lock(/|$)|^-|/-|^@$|^$"
    if re.search(bad, ref):
        raise ConfigurationError(
            f"{ref!r} is not a valid name of a branch, a tag or a commit", todo="use a name such as main"
        )


def project_folder(path: str) -> str:
    """Normalize the project's path: relative, with ``/``, without ``dbt_project.yml``; ``.`` is the root."""
    pure = PurePosixPath(path.strip().replace("\\", "/") or ".")
    if pure.name == PROJECT_FILE:
        pure = pure.parent
    if pure.is_absolute() or ".." in pure.parts or re.search(r"[\x00-\x1f\x7f*?\[\]!#\"]|^-", str(pure)):
        raise ConfigurationError(
            f"{path!r} is not a path inside a repository",
            todo="write the path relative to the repository's root, such as analytics/dbt",
        )
    return str(pure)


def require_project(files: Iterable[str], *, folder: str, ref: str | None, **where: object) -> None:
    """Raise ProjectError unless the folder holds a ``dbt_project.yml``, naming the folders that do."""
    projects = [
        path.parent
        for path in map(PurePosixPath, files)
        if path.name == PROJECT_FILE and "dbt_packages" not in path.parts
    ]
    found = sorted(map(str, projects))
    if folder in found:
        return
    todo = "write the path relative to the repository's root, without the branch's name"
    without_branch = folder.removeprefix(f"{ref}/")
    if without_branch in found:
        todo += f": {without_branch!r}"
    elif found:
        existing = [str(PurePosixPath(path) / PROJECT_FILE) for path in found[:20]]
        todo += f"; this commit has: {', '.join(existing)}"
    else:
        todo = "check repository and branch: this commit has no dbt_project.yml at all"
    raise ProjectError("the project path has no dbt_project.yml", todo=todo, path=folder, ref=ref, **where)


def _fetch_packages(git: Git, tree: Path, folder: str) -> list[str]:
    """Add the local packages of a project to a sparse checkout, which has left them out, and return their folders."""
    fetched: list[str] = []
    # A package that has arrived may name others.
    while new := [path for path in local_packages(tree, folder) if path not in fetched]:
        if "." in new:
            git("sparse-checkout", "disable")
            return ["."]
        git("sparse-checkout", "add", *new)
        fetched += new
    return fetched


def local_packages(tree: Path, folder: str) -> list[str]:
    """Return the folders outside a dbt project's own from which it, and these packages in turn, take local packages.

    :param tree: folder of the repository's files, as far as they are there.
    :param folder: folder of the project in it.
    :returns: paths in the repository, ``.`` for all of it. None of a path outside the repository.
    """
    found: list[str] = []
    queue = [folder]
    while queue:
        place = queue.pop()
        for path in _local_paths(tree / place):
            # dbt reads the paths in a package's own packages.yml from the project's folder.
            for start in dict.fromkeys((folder, place)):
                package = os.path.normpath(f"{start}/{path}")
                if not package.startswith(("..", "/", "-")) and package not in (*found, folder):
                    found.append(package)
                    queue.append(package)
    return found


def _local_paths(package: Path) -> list[str]:
    """Return the value of each ``local`` in a package's packages.yml and dependencies.yml."""
    import yaml

    found: list[str] = []
    for name in ("packages.yml", "dependencies.yml"):
        file = package / name
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        try:
            entries = (yaml.safe_load(text) or {}).get("packages") or ()
            found += [str(entry["local"]) for entry in entries if "local" in entry]
        except (yaml.YAMLError, AttributeError, TypeError):
            # With Jinja in it, the file need not be YAML.
            found += re.findall(r"\blocal:\s*['\"]?([^'\"#\s,}]+)", text)
    return found


def private_folder(folder: Path) -> Path:
    """Create a folder for this user alone, and return it. Nobody else may write there: dbt runs its content.

    :raises ConfigurationError: others can write to the folder.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ConfigurationError(
            "other users can write to the folder for checkouts",
            todo="run chmod go-w on the folder, or choose another one",
            folder=folder,
        )
    return folder


def _init(git: Git, url: str, commit: str) -> None:
    """Make an empty repository for a commit id's hash function (SHA-1 or SHA-256), with its remote."""
    object_format = "sha1" if len(commit) == 40 else "sha256"
    git("init", "--quiet", "--template=", f"--object-format={object_format}")
    git("config", "remote.origin.url", url)


def _remove_unused(checkouts: Path) -> None:
    for entry in checkouts.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime > _KEEP_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
