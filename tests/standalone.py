"""A whole Airflow (scheduler, triggerer, API server, DAG processor) for a test, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 240.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Airflow:
    """``airflow standalone``. What happens is read from its database."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes], environment: Mapping[str, str]) -> None:
        self.home, self.process, self._environment = home, process, environment

    @classmethod
    @contextmanager
    def running(
        cls,
        home: Path,
        *,
        connections: Mapping[str, Mapping[str, Any]],
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> Iterator[Airflow]:
        """Start it with the DAGs in ``home/dags``; everything of it ends with the block.

        :param port: of the API server, where it must be known before.
        """
        (home / "dags").mkdir(exist_ok=True)
        settings = {**_environment(home, port or free_port(), connections), **(environment or {})}
        running = cls(home, _started(home, settings), settings)
        try:
            yield running
        finally:
            _end(running.process)

    def restart(self) -> None:
        """Kill all of its processes at once, and start it again on the same database."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = _started(self.home, self._environment)

    def command(self, *arguments: str) -> None:
        """Run ``airflow …`` to its end."""
        subprocess.run(
            [sys.executable, "-m", "airflow", *arguments], env=self._environment, check=True, capture_output=True
        )

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=30)) as database:
                return database.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "unable to open" in str(error):  # not there yet
                return []
            raise

    def states(self, dag_id: str) -> list[str]:
        """Of its task instances."""
        rows = self.query("select state from task_instance where dag_id = ? order by rowid", dag_id)
        return [state for (state,) in rows]

    def xcoms(self, dag_id: str, task_id: str) -> list[Any]:
        """What the task returned, run by run."""
        sql = "select value from xcom where dag_id = ? and task_id = ? and key = 'return_value' order by timestamp"
        rows = self.query(sql, dag_id, task_id)
        return [json.loads(json.loads(text) if text.startswith('"') else text) for (text,) in rows]

    def events(self, asset: str) -> list[dict[str, Any]]:
        """The ``extra`` of each event of the asset of that name."""
        sql = "select e.extra from asset_event e join asset a on a.id = e.asset_id where a.name = ? order by e.id"
        return [json.loads(extra) for (extra,) in self.query(sql, asset)]

    def has_state_store(self) -> bool:
        """Whether a watcher can remember: from Airflow 3.3."""
        return bool(self.query("select 1 from sqlite_master where name = 'asset_state_store'"))

    def until(self, what: str, condition: Callable[[], object]) -> float:
        """Seconds until it holds."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > PATIENCE or self.process.poll() is not None:
                states = self.query("select dag_id, task_id, state from task_instance")
                pytest.fail(f"{what}: not within {PATIENCE} seconds; tasks: {states}; see {self.home}/standalone.log")
            time.sleep(0.25)
        return time.monotonic() - started


def _environment(home: Path, port: int, connections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return {
        **own,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": f"http://localhost:{port}",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{port}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "3",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in connections.items()},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # standalone starts "airflow"
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONWARNINGS": "ignore",
    }


def _started(home: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with (home / "standalone.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
