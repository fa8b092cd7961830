"""Airflow in a folder of its own for the demo, and runs of a DAG whose progress can be shown."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class DemoError(Exception):
    """A failure of the demo, described for the person who started it."""


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A task instance in Airflow's database: state (None if not started), duration in seconds, and result."""

    task_id: str
    state: str | None
    seconds: float
    result: Any = None


class AirflowHome:
    """Airflow in the folder ``home``, with SQLite and no examples. Its output goes to the file ``log``.

    Settings of another Airflow in the environment are ignored.

    :param patience: seconds after which a command is stopped because it hangs.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path,
        log: Path,
        connections: Mapping[str, Mapping[str, Any]],
        patience: float = 300.0,
    ) -> None:
        self.home = home
        self.log = log
        self._patience = patience
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        self.settings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # no login; the UI is open on this machine only
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        }
        self._environment = {
            **inherited,
            **self.settings,
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "False",
            "NO_COLOR": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "PYTHONWARNINGS": "ignore",
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in connections.items()},
        }

    def command(self, *arguments: str) -> Iterator[None]:
        """Run ``airflow …``; yield a few times a second until the command ends.

        :raises DemoError: the command failed or hangs. All its processes have ended.
        """
        started = time.monotonic()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        try:
            while process.poll() is None:
                if time.monotonic() - started > self._patience:
                    self._fail(f"'airflow {' '.join(arguments)}' did not end within {self._patience:g} seconds")
                time.sleep(0.2)
                yield
        finally:
            if process.poll() is None:
                _end(process)
        if process.returncode:
            self._fail(f"'airflow {' '.join(arguments)}' failed")

    def run(self, dag_id: str) -> Iterator[list[TaskRun]]:
        """Run a DAG once with ``airflow dags test``; yield its tasks a few times a second until the run ends.

        :raises DemoError: the run did not succeed.
        """
        before = self._latest_run(dag_id)
        for _ in self.command("dags", "test", dag_id):
            run_id = self._latest_run(dag_id)
            if run_id != before:
                yield self._tasks(dag_id, run_id)
        run_id = self._latest_run(dag_id)
        tasks = self._tasks(dag_id, run_id)
        if run_id == before or any(task.state != "success" for task in tasks):
            failed = [task.task_id for task in tasks if task.state not in ("success", "upstream_failed")]
            self._fail(f"the run of {dag_id} failed in: {', '.join(failed) or 'its start'}")
        yield tasks

    def _latest_run(self, dag_id: str) -> str | None:
        rows = self._query("select run_id from dag_run where dag_id = ? order by id desc limit 1", dag_id)
        return rows[0][0] if rows else None

    def _tasks(self, dag_id: str, run_id: str | None) -> list[TaskRun]:
        rows = self._query(
            "select t.task_id, t.state, coalesce(t.duration, 0), x.value from task_instance t"
            " left join xcom x on x.key = 'return_value'"
            " and x.dag_id = t.dag_id and x.run_id = t.run_id and x.task_id = t.task_id"
            " where t.dag_id = ? and t.run_id = ?",
            dag_id,
            run_id,
        )
        return [TaskRun(task, state, seconds, value and json.loads(value)) for task, state, seconds, value in rows]

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=30)) as database:
            return database.execute(sql, values).fetchall()

    def _fail(self, what: str) -> NoReturn:
        text = self.log.read_text(errors="replace")
        # The last exception with its advice, up to the next line that begins with a time; else the last lines.
        errors = re.findall(r"^[\w.]+(?:Exception|Error): .*(?:\n(?!\d{4}-).*)*", text, re.MULTILINE)
        shown = errors[-1] if errors else "\n".join(text.splitlines()[-15:])
        raise DemoError(f"{what}:\n\n{shown}\n\nMore in {self.log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process, so that tasks can clean up; kill its group after ten seconds at the latest."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
