"""dbt, run by its executable in a process of its own: any version, from any environment, never imported here.

The process sees an environment made for it (a repository's Jinja can read environment variables), writes its artifacts
and logs outside the project's folder, and dies with all its children when it takes too long or is stopped.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_reverse_etl.dbt.errors import advice
from airflow_reverse_etl.dbt.profiles import Profile
from airflow_reverse_etl.errors import ConfigurationError, DbtRunError, ProjectError
from airflow_reverse_etl.git.credentials import scrub

FAILED = frozenset({"error", "fail", "runtime error", "partial success"})

_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|(?i:https?|all|no)_(?i:proxy)"
)
_SECRET_NAME = re.compile(r"SECRET|PASS|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
_MESSAGE = 500  # characters of a node's message that are kept
_GRACE = 5.0  # seconds between asking dbt to stop and making it


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What dbt said about one node. ``message`` is dbt's own, shortened."""

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

    :param errors: what it logged as errors, in order.
    :param nodes: from run_results.json (or sources.json) of this run; empty for commands that write none.
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
        """:raises DbtRunError: nodes failed. :raises ProjectError: dbt did not get as far as running any."""
        if self.exit_code == 0:
            return
        if self.failures:
            listed = "".join(f"\n  {n.unique_id}: {n.status}: {n.message}" for n in self.failures[:10])
            what = f"dbt {self.command}: {len(self.failures)} of {len(self.nodes)} nodes failed{listed}"
            raise DbtRunError(what, todo="correct the models, data or tests named above, then clear this task", **where)
        said = "\n".join(self.errors[-5:]) or "no message"
        raise ProjectError(
            f"dbt {self.command} failed with exit code {self.exit_code}: {said}", todo=advice(said), **where
        )


@dataclass(slots=True)
class DbtProject:
    """A dbt project's folder, and how to run dbt in it.

    :param path: the folder of dbt_project.yml. It is only read, except by commands such as ``deps``.
    :param executable: a path, or a name to be found beside this Python or on PATH.
    :param profile: the only profile that dbt sees; None: the project's own, or that of ``profiles_dir``.
    :param target: which output of the profile.
    :param env: environment variables for dbt beside the harmless ones of the worker; in messages, those whose names
        sound like secrets are hidden.
    """

    path: Path
    executable: str = "dbt"
    profile: Profile | None = None
    profiles_dir: Path | None = None
    target: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
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

        :param command: such as ``["build", "--select", "tag:crm"]``. Visible to others on the machine: no secrets.
        :param target_path: folder for manifest.json, run_results.json and so on.
        :param on_message: level (``info``, ``warn``, ``error``) and text of each message, as it comes.
        :param timeout: seconds.
        :raises ConfigurationError: the executable is missing. :raises DbtRunError: stopped, or out of time.
        """
        started = time.monotonic()
        errors: list[str] = []
        heard: deque[str] = deque(maxlen=5)
        before = _result_files(target_path)
        with self._started(command, target_path) as process, _alarm(timeout, self.stop):
            for line in process.stdout or ():
                for level, text in self._messages(line):
                    heard.append(text)
                    if level == "error":
                        errors.append(text)
                    on_message(level, text)
            exit_code = process.wait()
        if self._stopped:
            raise DbtRunError(
                f"dbt {command[0]} was stopped: {self._stopped}", todo="raise the timeout, or run it again"
            )
        words = " ".join(command[: 2 if command[0] in ("source", "docs") else 1])
        said = errors or (list(heard) if exit_code else [])  # usage errors are plain text
        written = _result_files(target_path).items() - before.items()
        nodes = tuple(node for path, _ in written for node in self._results(path))
        return DbtResult(words, exit_code, time.monotonic() - started, tuple(said), nodes)

    def parse(self, *, target_path: Path | None = None, timeout: float | None = None) -> dict[str, Any]:
        """The manifest, without connecting to anything, hence without secrets.

        Environment variables that a profiles.yml of the project asks for, and that are not given, get a placeholder.

        :param target_path: folder where ``partial_parse.msgpack`` of an earlier parse may be, which makes this one
            quicker, and will be.
        :raises ProjectError: with dbt's words and what to do.
        """
        with tempfile.TemporaryDirectory(prefix="reverse_etl-dbt-") as temporary:
            folder = target_path or Path(temporary)
            self.run(["parse"], target_path=folder, timeout=timeout).raise_for_failure(path=self.path)
            manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        return manifest

    def install_packages(self) -> None:
        """``dbt deps``, if packages are declared and not in the repository. The folder may be moved afterwards.

        :raises ProjectError: with dbt's words and what to do.
        """
        if not needs_packages(self.path):
            return
        with tempfile.TemporaryDirectory(prefix="reverse_etl-dbt-") as folder:
            self.run(["deps"], target_path=Path(folder)).raise_for_failure(path=self.path)
        for link in [entry for entry in packages_folder(self.path).iterdir() if entry.is_symlink()]:
            source = link.resolve()  # dbt links to local packages by their absolute path
            link.unlink()
            shutil.copytree(source, link, symlinks=True)

    def stop(self, why: str = "it was cancelled") -> None:
        """End dbt and all its children, for good. Asked first, so that it can cancel its queries. Safe at any time."""
        self._stopped = why
        process = self._process
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)

    @contextmanager
    def _started(self, command: Sequence[str], target_path: Path) -> Iterator[subprocess.Popen[str]]:
        with tempfile.TemporaryDirectory(prefix="reverse_etl-profile-") as folder:
            options = ["--target", self.target] if self.target else []
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
                start_new_session=True,  # a process group of its own, so that all of it can be stopped
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
        profiles, extra = self.profiles_dir or self.path, dict(self.env)
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
        """Whether ``env`` has values that nothing may show."""
        return any(sounds_secret(name) for name in self.env)

    def _hidden(self) -> tuple[str, ...]:
        """Values that no message may show, longest first. Very short ones would riddle every text."""
        values = {value for name, value in self.env.items() if sounds_secret(name)}
        values.update(self.profile.secrets.values() if self.profile else ())
        return tuple(sorted((value for value in values if len(value) > 3), key=len, reverse=True))

    def _messages(self, line: str) -> Iterator[tuple[str, str]]:
        """dbt's JSON log lines; whatever else is printed counts as information."""
        level, text = "info", line
        with contextlib.suppress(ValueError, KeyError, TypeError):
            info = json.loads(line)["info"]
            level, text = str(info["level"]).lower(), str(info["msg"])
        text = scrub(text.rstrip(), self._hidden())
        if text and level != "debug":
            yield level, text

    def _results(self, path: Path) -> Iterator[NodeResult]:
        hidden = self._hidden()
        for row in json.loads(path.read_bytes())["results"]:
            said = scrub(str(row.get("message") or row.get("error") or ""), hidden)[:_MESSAGE]
            yield NodeResult(row["unique_id"], row["status"], said, float(row.get("execution_time") or 0))


def _result_files(target_path: Path) -> dict[Path, int]:
    """When each was written: what an earlier command left behind is not this one's result."""
    paths = (target_path / name for name in ("run_results.json", "sources.json"))
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def sounds_secret(variable: str) -> bool:
    """Whether the value of an environment variable is to be hidden, by its name."""
    return bool(_SECRET_NAME.search(variable))


def find_executable(name: str) -> str:
    """The absolute path of a dbt executable: as given, beside this Python (a virtual environment), or on PATH."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if not found:
        raise ConfigurationError(
            f"there is no dbt at {name!r}",
            todo="install dbt-core and the warehouse's adapter, best into an environment of their own, and give the "
            "path of its dbt as dbt_executable",
        )
    return str(Path(found).absolute())


def installed_adapter(executable: str) -> str:
    """The adapter that is installed beside a dbt executable; ``duckdb`` for Fusion, which needs none.

    Looked up in the folders of its environment: starting dbt to ask takes seconds.
    """
    home = Path(find_executable(executable)).resolve().parent.parent
    found = {file.parent.name for file in home.glob("lib/python*/site-packages/dbt/adapters/*/impl.py")}
    found -= {"base", "sql"}
    # Redshift's and Databricks' adapters bring the ones they are built on.
    return min(found - {"postgres", "spark"}, default=min(found, default="duckdb"))


def engine_version(executable: str) -> str:
    """What tells one installed dbt from another: dbt-core's version, or the time and size of Fusion's program."""
    program = Path(find_executable(executable)).resolve()
    core = sorted(found.name for found in program.parent.parent.glob("lib/python*/site-packages/dbt_core-*.dist-info"))
    status = program.stat()
    return core[0] if core else f"{status.st_size}-{status.st_mtime_ns}"


def profile_name(project: Path) -> str:
    """The profile that dbt_project.yml asks for."""
    settings = project_settings(project)
    return str(settings.get("profile") or settings["name"])


def project_settings(project: Path) -> dict[str, Any]:
    """dbt_project.yml. Raises ProjectError when it is none."""
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
    """Whether ``dbt deps`` has to run: packages are declared, and not in the repository itself."""
    declared = any(
        (project / name).is_file() and re.search(r"^packages\s*:", (project / name).read_text(), re.MULTILINE)
        for name in ("packages.yml", "dependencies.yml")
    )
    return declared and not packages_folder(project).is_dir()


def packages_folder(project: Path) -> Path:
    """Where ``dbt deps`` puts packages, after it has removed whatever is there.

    :raises ProjectError: a folder that is not inside the project, or cannot be known to be.
    """
    said = str(project_settings(project).get("packages-install-path") or "dbt_packages")
    if said.startswith(("/", "~")) or {"..", "."} & set(said.split("/")) or re.search(r"[{$\\\x00]", said):
        raise ProjectError(
            "the project puts its packages outside its own folder",
            todo="write packages-install-path in dbt_project.yml as a folder's name, such as dbt_packages",
            path=project,
            value=said,
        )
    return project / said


def split_command(command: str | Sequence[str]) -> list[str]:
    """``"source freshness"`` or a list, without a leading ``dbt``."""
    words = shlex.split(command) if isinstance(command, str) else list(command)
    words = words[1:] if words[:1] == ["dbt"] else words
    if not words:
        raise ConfigurationError("no dbt command is given", todo="give one, such as command='build'")
    return words


def _placeholders(profiles: Path) -> dict[str, str]:
    """A value for each variable that profiles.yml asks for without a default: a number, as it may be a port."""
    with contextlib.suppress(OSError):
        names = re.findall(r"""env_var\(\s*['"](\w+)['"]\s*\)""", (profiles / "profiles.yml").read_text())
        return dict.fromkeys(names, "99999")
    return {}


@contextmanager
def _alarm(seconds: float | None, stop: Callable[[str], None]) -> Iterator[None]:
    timer = threading.Timer(seconds or 0, stop, [f"it ran longer than {seconds:g} seconds" if seconds else ""])
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
