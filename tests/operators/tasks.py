"""Tasks as a test runs them without Airflow's machinery, and the sync that most of them send."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_reverse_etl.compat import AirflowException, AirflowFailException

SYNC: dict[str, Any] = {
    "name": "contacts",
    "model": {"table": "customers"},
    "source": "warehouse",
    "primary_key": "id",
    "destination": {"type": "fake", "connection": "crm", "object": "contacts"},
    "mapping": {"email": "email", "greeting": {"template": "Dear {{ row.name }}"}},
}


class _Events:
    """Accepts what the operator says about its outlets."""

    def __getitem__(self, asset: Any) -> SimpleNamespace:
        return SimpleNamespace()


def context(**extra: Any) -> Any:
    """As much of a task's context as the operator uses, when there is no Airflow to run it."""
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id="t", map_index=-1, xcom_push=lambda key, value: pushed.update({key: value})
    )
    dag_run = SimpleNamespace(conf={})
    return {"ti": ti, "dag_run": dag_run, "pushed": pushed, "outlet_events": _Events(), **extra}


def rejected(sync: str) -> dict[str, str]:
    """Return the names of a sync's rejected records: key of the row → name."""
    from airflow_reverse_etl.wiring import state_store

    return {row.row_key: row.record for row in state_store().rejections(sync)}


def operator(**arguments: Any) -> Any:
    from airflow_reverse_etl.operators import ReverseEtlOperator

    return ReverseEtlOperator(task_id="t", **{"sync": SYNC, **arguments})


def fake_dbt(folder: Path, script: str) -> str:
    """An executable in dbt's place."""
    path = folder / "bin" / "dbt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


class _AssetEvents(list[tuple[str, Any]]):
    """What is said about any outlet. Not a dict: asset aliases cannot be hashed before Airflow 3.2."""

    def __getitem__(self, outlet: Any) -> Any:
        return SimpleNamespace(add=lambda asset, extra=None: self.append((asset.uri, extra)))


def execute(operator: Any, **of_ti: Any) -> tuple[dict[str, Any] | BaseException, dict[str, Any]]:
    """Result or error of a task without Airflow's machinery, and what it pushed; ``events`` are those of assets."""
    pushed: dict[str, Any] = {}
    usual = {"dag_id": "d", "task_id": operator.task_id, "run_id": "r", "map_index": -1, "try_number": 1}
    ti = SimpleNamespace(
        xcom_push=lambda key, value: pushed.__setitem__(key, value), **{**usual, "max_tries": 1, **of_ti}
    )
    events = pushed["events"] = _AssetEvents()
    try:
        return operator.execute({"ti": ti, "outlet_events": events}), pushed
    except (AirflowException, AirflowFailException) as error:
        return error, pushed
