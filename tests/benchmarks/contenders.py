"""Runs a contender in a process of its own against a sink in another, and checks that every row arrived."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "bench"


@dataclass(frozen=True, slots=True)
class Contender:
    """A script that takes a task as JSON, sends its rows, and prints ``{"seconds": …}`` without its imports.

    :param packages: pinned; empty for what runs in this environment.
    :param options: arguments of the script behind the task.
    """

    name: str
    script: str
    packages: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def python(self) -> str:
        """The interpreter of this contender's environment, which is made when it is not there."""
        if not self.packages:
            return sys.executable
        home = BUILD / self.name
        python, done = home / "bin" / "python", home / "installed.txt"
        wanted = "\n".join(self.packages)
        if not done.exists() or done.read_text() != wanted:
            print(f"installing {', '.join(self.packages)} into {home.relative_to(ROOT)}", flush=True)
            venv.create(home, clear=True, with_pip=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.packages]
            subprocess.run(install, check=True, stderr=subprocess.PIPE)
            done.write_text(wanted)
        return str(python)


OURS = Contender("ours", "ours.py")
BARE = Contender("bare aiohttp", "bare.py")
FASTEST = Contender("fastest aiohttp", "bare.py", options=("fastest",))
DRT = Contender("drt", "peers/run_drt.py", ("drt-core==1.2.1", "duckdb==2.0.0"))
DLT = Contender("dlt", "peers/run_dlt.py", ("dlt==1.31.0", "duckdb==2.0.0", "pyarrow==26.0.1", "requests==2.32.5"))


@dataclass(frozen=True, slots=True)
class Task:
    """Rows of the DuckDB table ``customers`` to send: ``batch`` in a request, ``concurrency`` requests at once."""

    database: str
    rows: int
    batch: int
    concurrency: int


class ContenderError(Exception):
    """A contender failed, or did not deliver every row."""


@contextmanager
def sink(delay: float) -> Iterator[str]:
    """The URL of a new sink that takes ``delay`` seconds to answer."""
    with subprocess.Popen([sys.executable, HERE / "sink.py", str(delay)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.terminate()


def measure(contender: Contender, task: Task, *, delay: float = 0.0) -> float:
    """Seconds that the contender took for the task.

    :raises ContenderError: when it failed, or the sink counted other than ``task.rows`` rows.
    """
    with sink(delay) as url:
        argument = json.dumps({**asdict(task), "url": f"{url}/v1/contacts"})
        command = [contender.python(), str(HERE / contender.script), argument, *contender.options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            raise ContenderError(f"{contender.name} failed:\n{done.stdout}\n{done.stderr}")
        with urlopen(url) as reply:
            counts: dict[str, Any] = json.load(reply)
    if counts["rows"] != task.rows:
        raise ContenderError(f"{contender.name} delivered {counts['rows']:,} rows of {task.rows:,}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def throughput(contenders: list[Contender], task: Task, *, repetitions: int) -> dict[str, list[float]]:
    """Rows per second of each contender, in rounds in which all take their turn."""
    found: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(repetitions):
        for contender in contenders:
            found[contender.name].append(task.rows / measure(contender, task))
    return found
