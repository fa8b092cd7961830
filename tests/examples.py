"""The example DAGs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "dags_examples"


def load(name: str) -> Any:
    """The DAG of an example, parsed from its file as Airflow does."""
    try:
        module = import_module("airflow.dag_processing.dagbag")
    except ImportError:  # Airflow 3.1
        module = import_module("airflow.models.dagbag")
    bag = module.DagBag(dag_folder=str(FOLDER / f"{name}.py"))
    assert not bag.import_errors
    return bag.dags[Path(name).name]
