"""The program: as a process, in a pipe or on a terminal of its own, and its commands in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
#: Lets no module of this name be imported.
_BLOCK = """
import sys
class Block:
    def find_spec(self, name, *_):
        assert name.partition(".")[0] not in {blocked!r}, name
sys.meta_path.insert(0, Block())
"""


class Calls:
    """The program's commands, run in this process: a process that imports Airflow takes seconds to start.

    :param folder: the current folder.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self._folder = folder
        self._environment = environment

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command; its output is in no terminal."""
        from airflow_reverse_etl import config
        from airflow_reverse_etl.cli.main import main

        config.settings.cache_clear()
        out = io.StringIO()
        err = io.StringIO()
        with (
            mock.patch.dict(os.environ, self._environment),
            contextlib.chdir(self._folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch("sys.stdin", io.StringIO()),
        ):
            code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with ``--json``, and return the document that it printed."""
        return _document(self.run(*arguments, "--json"), code)


def _document(done: subprocess.CompletedProcess[str], code: int) -> Any:
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout)


class Program:
    """``reverse-etl`` with an environment.

    :param folder: the current folder.
    :param blocked: packages that it must not import.
    """

    def __init__(self, folder: Path, *, blocked: tuple[str, ...] = (), **environment: str) -> None:
        self._folder = folder
        code = "import sys\nfrom airflow_reverse_etl.cli.main import main\nsys.exit(main())"
        self._command = [sys.executable, "-c", _BLOCK.format(blocked=blocked) + code]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it in a pipe."""
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            timeout=100,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it in a pipe."""
        return subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=self._environment,
        )

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run it with ``--json``, and return the document that it printed."""
        return _document(self.run(*arguments, "--json"), code)

    def on_terminal(self, *arguments: str) -> tuple[int, str]:
        """Run it on a terminal of 80 columns; returns the exit code and all that it printed."""
        ours, theirs = pty.openpty()
        environment = {**self._environment, "TERM": "xterm-256color"}
        process = subprocess.Popen(
            [*self._command, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=self._folder, env=environment
        )
        os.close(theirs)
        printed = b""
        while True:
            select.select([ours], [], [], 60)
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            printed += data
        os.close(ours)
        return process.wait(), printed.decode().replace("\r\n", "\n")
