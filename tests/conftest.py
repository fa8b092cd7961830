"""Airflow in a folder of its own, and a way to run a DAG that a test defines.

The environment is set before anything imports Airflow. Tests that need none of it pay nothing for it.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests import s3

if TYPE_CHECKING:
    from airflow.sdk import DAG

HOME = Path(tempfile.mkdtemp(prefix="reverse-etl-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # tests use the names of DAGs again
    "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
    "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    "PYTHONWARNINGS": "ignore",  # of child processes: pytest's own filters rule here
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "False",
}
os.environ.pop("AIRFLOW_CONFIG", None)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """A migrated metadata database, once per session."""
    (HOME / "dags").mkdir(exist_ok=True)
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def run_dag(airflow_db: None) -> Callable[..., Any]:
    """``run_dag(dag, **kwargs)`` runs a DAG with ``dag.test(**kwargs)`` and returns its DagRun.

    Tasks run in this process, deferred ones included; connections come from ``add_connection``.
    """
    return _run_dag


@pytest.fixture
def xcom(airflow_db: None) -> Callable[..., Any]:
    """``xcom(dag_run, task_id, key="return_value", map_index=-1)``: what a task pushed, or None."""
    return _xcom


@pytest.fixture
def task_states() -> Callable[[Any], dict[str, str]]:
    """``task_states(dag_run)``: task id → state; mapped ones as ``task_id[0]``."""

    def states(dag_run: Any) -> dict[str, str]:
        found = {}
        for ti in dag_run.get_task_instances():
            name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
            found[name] = str(ti.state)
        return found

    return states


@pytest.fixture
def serialize_dag() -> Callable[[Any], dict[str, Any]]:
    """``serialize_dag(dag)``: the DAG as Airflow stores it."""
    return _serialized


@pytest.fixture
def add_connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``add_connection(conn_id, conn_type=..., host=..., password=..., extra={...})``, through the environment."""

    def add(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return add


@pytest.fixture
def state_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder as ``[reverse_etl] state_url``."""
    folder = tmp_path / "state"
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__STATE_URL", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _settings_of_an_earlier_test() -> None:
    """Settings are read once per process; each test has an environment of its own."""
    if config := sys.modules.get("airflow_reverse_etl.config"):
        config.settings.cache_clear()


@pytest.fixture(autouse=True)
def _modules_of_dag_files() -> Iterator[None]:
    """Parsing a DAG file leaves a module behind; the next test must not find it."""
    yield
    for name in [name for name in sys.modules if name.startswith("unusual_prefix_")]:
        del sys.modules[name]


# -- Airflow internals, which differ by version: all of them are here ------------------------------------------------


def _run_dag(dag: DAG, **kwargs: Any) -> Any:
    from airflow.sdk.execution_time import task_runner

    finalize = task_runner.finalize

    def finalize_as_in_a_task(ti: Any, state: Any, context: Any, log: Any, error: Any = None) -> None:
        """Give callbacks the exception, which ``dag.test()`` of Airflow 3.1 keeps from them."""
        context["exception"] = error
        finalize(ti, state, context, log, error)

    _store_dag(dag)
    with mock.patch.object(task_runner, "finalize", finalize_as_in_a_task):
        return dag.test(**kwargs)


def _store_dag(dag: DAG) -> None:
    """What the DAG processor would do: ``dag.test`` wants a serialized DAG in the database."""
    import inspect

    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    lazy = LazyDeserializedDAG(data=_serialized(dag))
    more = (
        {"files_parsed": set()}
        if "files_parsed" in inspect.signature(update_dag_parsing_results_in_db).parameters
        else {}
    )
    with create_session() as session:
        DagBundlesManager().sync_bundles_to_db(session=session)
    with create_session() as session:
        update_dag_parsing_results_in_db("dags-folder", None, [lazy], {}, None, set(), session=session, **more)


def _serialized(dag: DAG) -> dict[str, Any]:
    from airflow.serialization import serialized_objects

    serializer = getattr(serialized_objects, "DagSerialization", serialized_objects.SerializedDAG)  # 3.1: the latter
    return dict(serializer.to_dict(dag))


def _xcom(dag_run: Any, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.scalars(
            XComModel.get_many(
                run_id=dag_run.run_id, key=key, task_ids=task_id, dag_ids=dag_run.dag_id, map_indexes=map_index
            )
        ).first()
        return None if found is None else XComModel.deserialize_value(found)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a Postgres of our own; each test makes a database in it."""
    from tests.stores.warehouses import postgres_server

    with postgres_server() as uri:
        yield uri


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3.server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str) -> s3.Bucket:
    """An empty bucket of the test's own, on an S3 server."""
    return s3.Bucket(s3_endpoint, f"bucket-{secrets.token_hex(8)}")
