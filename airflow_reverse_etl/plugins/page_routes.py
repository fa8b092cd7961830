"""Routes of the page that Airflow's REST API does not have. They read, and change nothing."""

# No `from __future__ import annotations`: FastAPI reads the annotations.

from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, Query

#: Most DAGs in one question.
_MOST = 20

router = APIRouter()


@router.get("/rights")
def rights(user: GetUserDep, dag_id: Annotated[list[str], Query(max_length=_MOST)]) -> dict[str, list[str]]:
    """Return which of these DAGs the user may edit, and which the user may trigger.

    A DAG that does not exist counts like any other.
    """
    manager = get_auth_manager()

    def may_edit(dag: str) -> bool:
        return manager.is_authorized_dag(method="PUT", details=DagDetails(id=dag), user=user)

    def may_trigger(dag: str) -> bool:
        run = DagAccessEntity.RUN
        return manager.is_authorized_dag(method="POST", access_entity=run, details=DagDetails(id=dag), user=user)

    return {"edit": list(filter(may_edit, dag_id)), "trigger": list(filter(may_trigger, dag_id))}
