"""Runner of dbt commands. dbt runs as an executable in its own process, in any version, and is never imported.

The process gets an environment of its own, because a repository's Jinja can read environment variables. It writes
artifacts and logs outside the project's folder. A timeout or a stop ends the process with all its children.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_reverse_etl.dbt.errors import advice
from airflow_reverse_etl.dbt.profiles import Profile
from airflow_reverse_etl.errors import ConfigurationError, DbtRunError, ProjectError
from airflow_reverse_etl.git.credentials import scrub

#: Commands that read the project, and open no connection to the warehouse.
_READING = frozenset({"deps", "parse"})
FAILED = frozenset({"error", "fail", "runtime error", "partial success"})

# All that dbt needs from the worker's environment.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|(?i:https?|all|no)_(?i:proxy)"
)
_SECRET_NAME = re.compile(r"SECRET|PASS|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
# What other tools write into a package's folder.
_NOT_COPIED = (".git", "dbt_packages", "target", "logs")
_MESSAGE_LENGTH = 500  # characters of a node's message that are stored


@dataclass(frozen=True, slots=True)
class NodeResult:
    """dbt's result for one node. ``message`` is dbt's own, shortened."""

    unique_id: str
    status: str
    message: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.status in FAILED


@dataclass(frozen=True, slots=True)
class DbtResult:
    """A finished dbt command.

    :param errors: messages that dbt logged as errors, in order.
    :param nodes: results in run_results.json or sources.json of this run; empty for commands that write neither.
    """

    command: str
    exit_code: int
    seconds: float
    errors: tuple[str, ...]
    nodes: tuple[NodeResult, ...]

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(node.status for node in self.nodes).items()))

    @property
    def failures(self) -> tuple[NodeResult, ...]:
        return tuple(node for node in self.nodes if node.failed)

    def raise_for_failure(self, **where: object) -> None:
        """Raise an error unless dbt succeeded.

        :raises ProjectError: the command only reads the project.
        :raises DbtRunError: any other command failed, with or without results of nodes: dbt that cannot reach the
            warehouse often fails before its first node.
        """
        if self.exit_code == 0:
            return
        if self.failures:
            failed = [f"\n  {node.unique_id}: {node.status}: {node.message}" for node in self.failures[:10]]
            what = f"dbt {self.command}: {len(self.failures)} of {len(self.nodes)} nodes failed{''.join(failed)}"
            raise DbtRunError(what, todo="correct the models, data or tests named above, then clear this task", **where)
        said = self.errors[-5:] or ("no message",)
        message = "\n".join(map(_without_traceback, said))
        error = ProjectError if self.command in _READING else DbtRunError
        todo = advice("\n".join(said))
        raise error(f"dbt {self.command} failed with exit code {self.exit_code}: {message}", todo=todo, **where)


@dataclass(slots=True)
class DbtProject:
    """A dbt project's folder, and the settings to run dbt in it.

    :param path: folder of dbt_project.yml. Only commands such as ``deps`` write into it.
    :param executable: path of dbt, or a name to look up next to this Python and on PATH.
    :param profile: the only profile that dbt sees; default: the project's own, or that of ``profiles_dir``.
    :param target: name of an output of the profile.
    :param env: environment variables for dbt in addition to the harmless ones of the worker. Messages hide values whose
        names sound like secrets.
    :param grace_seconds: seconds between asking dbt to stop and killing it.
    """

    path: Path
    executable: str = "dbt"
    profile: Profile | None = None
    profiles_dir: Path | None = None
    target: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    grace_seconds: float = 5.0
    _process: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)
    _stopped: str | None = field(default=None, init=False, repr=False)

    def run(
        self,
        command: Sequence[str],
        *,
        target_path: Path,
        on_message: Callable[[str, str], None] = lambda _level, _text: None,
        timeout: float | None = None,
    ) -> DbtResult:
        """Run one dbt command to its end.

        :param command: words such as ``["build", "--select", "tag:crm"]``. Never secrets: all users of the machine can
            see them.
        :param target_path: folder for artifacts such as manifest.json and run_results.json.
        :param on_message: function that receives each message at once: level (``info``, ``warn``, ``error``) and text.
        :param timeout: seconds until dbt is stopped; default: never.
        :raises ConfigurationError: the executable is missing.
        :raises DbtRunError: dbt was stopped, or ran out of time.
        """
        started = time.monotonic()
        errors: list[str] = []
        last_messages: deque[str] = deque(maxlen=5)
        before = _result_files(target_path)
        with self._started(command, target_path) as process, _alarm(timeout, self.stop):
            for line in process.stdout or ():
                for level, text in self._messages(line):
                    last_messages.append(text)
                    if level == "error":
                        errors.append(text)
                    on_message(level, text)
            exit_code = process.wait()
        if self._stopped:
            raise DbtRunError(
                f"dbt {command[0]} was stopped: {self._stopped}", todo="raise the timeout, or run the command again"
            )
        words = 2 if command[0] in ("source", "docs") else 1
        name = " ".join(command[:words])
        # dbt prints usage errors as plain text, which has no level.
        if not errors and exit_code:
            errors = list(last_messages)
        # Only files of this run: an earlier command may have left its results in the folder.
        written = _result_files(target_path).items() - before.items()
        nodes = tuple(node for path, _ in written for node in self._results(path))
        return DbtResult(name, exit_code, time.monotonic() - started, tuple(errors), nodes)

    def parse(self, *, target_path: Path | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Return the manifest. Parsing opens no connection and needs no secrets.

        Environment variables that the project's profiles.yml requires get a placeholder unless ``env`` has them.

        :param target_path: folder of ``partial_parse.msgpack``, which makes parsing quicker and is written again.
        :raises ProjectError: dbt cannot parse the project; quotes dbt.
        """
        with tempfile.TemporaryDirectory(prefix="reverse_etl-dbt-") as temporary:
            folder = target_path or Path(temporary)
            self.run(["parse"], target_path=folder, timeout=timeout).raise_for_failure(path=self.path)
            manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        return manifest

    def install_packages(self, *, movable: bool) -> None:
        """Run ``dbt deps`` if packages are declared and not committed.

        :param movable: copy local packages instead of linking to them, so that the project's folder may be moved. A
            copy does not follow later changes of the package.
        :raises ProjectError: dbt cannot install the packages; quotes dbt.
        """
        if not needs_packages(self.path):
            return
        with tempfile.TemporaryDirectory(prefix="reverse_etl-dbt-") as folder:
            self.run(["deps"], target_path=Path(folder)).raise_for_failure(path=self.path)
        links = [entry for entry in packages_folder(self.path).iterdir() if entry.is_symlink()]
        for link in links if movable else ():
            # dbt links to local packages by absolute paths, which break when the folder moves.
            source = link.resolve()
            link.unlink()
            # The project itself may be inside the package, such as its integration_tests.
            left_out = {self.path.resolve(), *(source / name for name in _NOT_COPIED)}
            shutil.copytree(source, link, symlinks=True, ignore=_leave_out(left_out))

    def stop(self, why: str = "it was cancelled") -> None:
        """Stop dbt and all its children, and prevent further runs. Safe to call at any time.

        Interrupts dbt first, so that dbt can cancel its queries, and kills it in the end.
        """
        self._stopped = why
        process = self._process
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.grace_seconds)

    @contextmanager
    def _started(self, command: Sequence[str], target_path: Path) -> Iterator[subprocess.Popen[str]]:
        with tempfile.TemporaryDirectory(prefix="reverse_etl-profile-") as folder:
            options = ["--target", self.target] if self.target else []
            # A package is a project without a profile's name.
            if self.profile and not project_settings(self.path).get("profile"):
                options += ["--profile", profile_name(self.path)]
            options += ["--vars", json.dumps(dict(self.variables))] if self.variables else []
            self._process = subprocess.Popen(
                [find_executable(self.executable), *command, *options],
                cwd=self.path,
                env=self._environment(Path(folder), target_path, parse=command[0] == "parse"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # a process group of its own, so that a signal reaches all children
            )
            try:
                if self._stopped:
                    self.stop(self._stopped)
                yield self._process
            finally:
                if self._process.poll() is None:
                    self.stop(self._stopped or "its task ended")
                if self._process.stdout:
                    self._process.stdout.close()
                self._process = None

    def _environment(self, folder: Path, target_path: Path, *, parse: bool) -> dict[str, str]:
        profiles = self.profiles_dir or self.path
        extra = dict(self.env)
        if self.profile:
            profiles = self.profile.write(folder, name=profile_name(self.path), target=self.target or "default")
            extra |= self.profile.secrets
        elif parse:
            extra = {**_placeholders(profiles), **extra}
        return {
            **{name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)},
            "DBT_PROJECT_DIR": str(self.path),
            "DBT_PROFILES_DIR": str(profiles),
            "DBT_TARGET_PATH": str(target_path),
            "DBT_LOG_PATH": str(folder),
            "DBT_LOG_FORMAT": "json",
            "DBT_LOG_LEVEL_FILE": "error",
            "DBT_USE_COLORS": "false",
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            "DO_NOT_TRACK": "1",
            "PYTHONUNBUFFERED": "1",
            **extra,
        }

    @property
    def hides_values(self) -> bool:
        """Return whether ``env`` contains values that must never be shown."""
        return any(sounds_secret(name) for name in self.env)

    def _hidden(self) -> tuple[str, ...]:
        """Return the values that no message may show, longest first, except very short ones, which occur everywhere."""
        values = {value for name, value in self.env.items() if sounds_secret(name)}
        if self.profile:
            values.update(self.profile.secrets.values())
        return tuple(sorted((value for value in values if len(value) > 3), key=len, reverse=True))

    def _messages(self, line: str) -> Iterator[tuple[str, str]]:
        """Yield level and text of a JSON log line of dbt. Any other output counts as information."""
        try:
            info = json.loads(line)["info"]
            level = str(info["level"]).lower()
            text = str(info["msg"])
        except (ValueError, KeyError, TypeError):  # not a log line
            level = "info"
            text = line
        text = scrub(text.rstrip(), self._hidden())
        if text and level != "debug":
            yield level, text

    def _results(self, path: Path) -> Iterator[NodeResult]:
        hidden = self._hidden()
        for row in json.loads(path.read_bytes())["results"]:
            # run_results.json has a message, sources.json an error.
            text = str(row.get("message") or row.get("error") or "")
            message = scrub(text, hidden)[:_MESSAGE_LENGTH]
            seconds = float(row.get("execution_time") or 0)
            yield NodeResult(row["unique_id"], row["status"], message, seconds)


def _leave_out(paths: Collection[Path]) -> Callable[[str, list[str]], list[str]]:
    """Return the function by which :func:`shutil.copytree` leaves out some paths, which have no links in them."""
    return lambda folder, names: [name for name in names if Path(folder).resolve() / name in paths]


def _without_traceback(text: str) -> str:
    """Return a message of dbt with two lines before a Python traceback, and the error at the end of that."""
    before, found, traceback = text.partition("Traceback (most recent call last)")
    if not found:
        return text
    errors = [line for line in traceback.splitlines() if re.match(r"[\w.]+(:|$)", line)]
    return "\n".join([*before.strip().splitlines()[-2:], *errors[-1:]])


def _result_files(target_path: Path) -> dict[Path, int]:
    """Return the modification time of each existing result file."""
    paths = (target_path / name for name in ("run_results.json", "sources.json"))
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def sounds_secret(variable: str) -> bool:
    """Return whether an environment variable's value is a secret, judged by its name."""
    return bool(_SECRET_NAME.search(variable))


def find_executable(name: str) -> str:
    """Return the absolute path of a dbt executable, given by its path, or found next to this Python or on PATH."""
    environment = str(Path(sys.executable).parent)  # of this Python, which may be a virtual environment
    found = shutil.which(name, path=f"{environment}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if not found:
        raise ConfigurationError(
            f"dbt not found at {name!r}",
            todo="install dbt-core and the warehouse's adapter, best into an environment of their own, and set "
            "dbt_executable to the path of dbt",
        )
    return str(Path(found).absolute())


def installed_adapter(executable: str) -> str:
    """Return the adapter in the environment of a dbt executable; ``duckdb`` for Fusion, which needs no adapter.

    Looks at the environment's folders, because starting dbt takes seconds.
    """
    home = Path(find_executable(executable)).resolve().parent.parent
    found = {file.parent.name for file in home.glob("lib/python*/site-packages/dbt/adapters/*/impl.py")}
    found -= {"base", "sql"}
    # The adapters of Redshift and Databricks install those of postgres and spark, on which they are built.
    return min(found - {"postgres", "spark"}, default=min(found, default="duckdb"))


def engine_version(executable: str) -> str:
    """Identify an installed dbt: by dbt-core's version, or by size and time of Fusion's program."""
    program = Path(find_executable(executable)).resolve()
    core = list(program.parent.parent.glob("lib/python*/site-packages/dbt_core-*.dist-info"))
    if core:
        return min(found.name for found in core)
    status = program.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def profile_name(project: Path) -> str:
    """Return the name of the profile in dbt_project.yml."""
    settings = project_settings(project)
    return str(settings.get("profile") or settings["name"])


def project_settings(project: Path) -> dict[str, Any]:
    """Read dbt_project.yml.

    :raises ProjectError: the file is missing, or not a valid dbt_project.yml.
    """
    import yaml

    try:
        settings = yaml.safe_load((project / "dbt_project.yml").read_text())
        settings["name"]
        return dict(settings)
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ProjectError(
            "dbt_project.yml is missing or cannot be read",
            todo="check the project path, and run dbt debug",
            path=project,
        ) from error


def needs_packages(project: Path) -> bool:
    """Return whether ``dbt deps`` has to run: packages are declared, and not committed to the repository."""
    declared = any(
        (project / name).is_file() and re.search(r"^packages\s*:", (project / name).read_text(), re.MULTILINE)
        for name in ("packages.yml", "dependencies.yml")
    )
    return declared and not packages_folder(project).is_dir()


def packages_folder(project: Path) -> Path:
    """Return the folder into which ``dbt deps`` installs packages, after deleting the folder's content.

    :raises ProjectError: the folder is outside the project, or depends on a template.
    """
    folder = str(project_settings(project).get("packages-install-path") or "dbt_packages")
    leaves_project = folder.startswith(("/", "~")) or {"..", "."} & set(folder.split("/"))
    if leaves_project or re.search(r"[{$\\\x00]", folder):
        raise ProjectError(
            "the project installs its packages outside its own folder",
            todo="set packages-install-path in dbt_project.yml to a folder's name, such as dbt_packages",
            path=project,
            value=folder,
        )
    return project / folder


def split_command(command: str | Sequence[str]) -> list[str]:
    """Return the words of a command such as ``"source freshness"``, without a leading ``dbt``."""
    words = shlex.split(command) if isinstance(command, str) else list(command)
    if words[:1] == ["dbt"]:
        words = words[1:]
    if not words:
        raise ConfigurationError("the dbt command is empty", todo="set a command, such as command='build'")
    return words


def _placeholders(profiles: Path) -> dict[str, str]:
    """Return a value for each variable that profiles.yml requires: a number, because the variable may be a port."""
    with contextlib.suppress(OSError):
        names = re.findall(r"""env_var\(\s*['"](\w+)['"]\s*\)""", (profiles / "profiles.yml").read_text())
        return dict.fromkeys(names, "99999")
    return {}


@contextmanager
def _alarm(seconds: float | None, stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with a reason when the context takes longer than this many seconds; None: never."""
    if not seconds:
        yield
        return
    timer = threading.Timer(seconds, stop, [f"it ran longer than {seconds:g} seconds"])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
