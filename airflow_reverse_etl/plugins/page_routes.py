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


@router.get("/editable")
def editable(user: GetUserDep, dag_id: Annotated[list[str], Query(max_length=_MOST)]) -> dict[str, list[str]]:
    """Return which of these DAGs the user may edit, and may trigger.

    A DAG that does not exist counts as one that the user may not edit, unless the user may edit all.
    """
    manager = get_auth_manager()

    def may(dag: str) -> bool:
        details = DagDetails(id=dag)
        edits = manager.is_authorized_dag(method="PUT", details=details, user=user)
        runs = DagAccessEntity.RUN
        return edits and manager.is_authorized_dag(method="POST", access_entity=runs, details=details, user=user)

    return {"editable": [dag for dag in dag_id if may(dag)]}
