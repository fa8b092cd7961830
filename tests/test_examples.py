"""Every example is a DAG that Airflow accepts and that does what its docstring says, against servers on this machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from airflow_reverse_etl.sync.spec import Sync

if TYPE_CHECKING:
    from airflow.sdk import DAG

pytestmark = pytest.mark.airflow

FOLDER = Path(__file__).parents[1] / "dags_examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name: str) -> DAG:
    """The DAG of an example, parsed from its file as Airflow does."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag
    bag = DagBag(dag_folder=str(FOLDER / f"{name}.py"), include_examples=False)
    assert not bag.import_errors
    dag: DAG = bag.dags[name]
    return dag


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_one_dag_of_its_name_that_survives_serialization(name: str) -> None:
    from airflow.serialization.serialized_objects import DagSerialization  # type: ignore[attr-defined]

    dag = load(name)
    data = DagSerialization.to_dict(dag)
    assert DagSerialization.from_dict(data).task_ids == dag.task_ids


@pytest.mark.parametrize("path", sorted(FOLDER.glob("syncs/*.yaml")), ids=lambda path: path.stem)
def test_a_sync_of_the_examples_is_valid_for_its_destination(path: Path) -> None:
    from airflow_reverse_etl.destinations.registry import check

    assert Sync.load(path, check=check).name == path.stem


@pytest.fixture
def warehouse(tmp_path: Path, add_connection: Callable[..., None]) -> Callable[[str], None]:
    """``warehouse(sql)``: runs statements in the warehouse behind the connection of that name."""
    path = tmp_path / "warehouse.duckdb"
    add_connection("warehouse", conn_type="duckdb", host=str(path))

    def execute(sql: str) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute(sql)

    return execute


def test_scores_follow_the_warehouse_into_the_application_database(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    warehouse: Callable[[str], None],
    state_url: Path,
    tmp_path: Path,
) -> None:
    app = sqlite3.connect(tmp_path / "app.sqlite")
    app.execute("create table customer_scores (customer_id integer primary key, score real, segment text)")
    add_connection("app_database", conn_type="sqlite", host=str(tmp_path / "app.sqlite"))
    warehouse(
        "create schema marts; create table marts.customer_scores as"
        " select i as customer_id, i / 3 as score, 'a' as segment from range(1, 41) numbers(i)"
    )
    dag = load("scores_to_app_database")
    assert xcom(run_dag(dag), "scores")["accepted"] == 40
    warehouse(
        "update marts.customer_scores set segment = 'b' where customer_id = 3;"
        "delete from marts.customer_scores where customer_id = 4"
    )
    second = xcom(run_dag(dag), "scores")
    assert second["planned"] == {"added": 0, "changed": 1, "removed": 1, "invalid": 0}
    assert app.execute("select count(*) from customer_scores").fetchone() == (39,)
    assert app.execute("select * from customer_scores where customer_id = 3").fetchone() == (3, 1.0, "b")
