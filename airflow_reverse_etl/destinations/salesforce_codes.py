"""Codes of Salesforce's errors, and their meaning for requests and rows."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_reverse_etl.destinations.results import RowAction
from airflow_reverse_etl.http.status_table import Action
from airflow_reverse_etl.spec.operations import Operation

#: Codes of whole replies. 403 with REQUEST_LIMIT_EXCEEDED does not concern the credentials.
REPLIES: Mapping[str, Action] = {
    "REQUEST_LIMIT_EXCEEDED": Action.THROTTLE,
    "SERVER_UNAVAILABLE": Action.RETRY,
    "INVALID_FIELD": Action.CONFIGURATION,
    "INVALID_TYPE": Action.CONFIGURATION,
    "NOT_FOUND": Action.CONFIGURATION,
}
#: Codes of rows that are not rejected.
_ROWS: Mapping[str, RowAction] = {
    "UNABLE_TO_LOCK_ROW": "retry",
    "REQUEST_LIMIT_EXCEEDED": "throttle",
    "STORAGE_LIMIT_EXCEEDED": "configuration",
}
#: The same, by operation: a record that is gone has nothing to update, and need not be deleted.
ROWS: Mapping[Operation, Mapping[str, RowAction]] = {
    Operation.UPSERT: _ROWS,
    Operation.INSERT: _ROWS,
    Operation.UPDATE: {**_ROWS, "ENTITY_IS_DELETED": "skip", "NOT_FOUND": "skip"},
    Operation.DELETE: {**_ROWS, "ENTITY_IS_DELETED": "accept"},
}
