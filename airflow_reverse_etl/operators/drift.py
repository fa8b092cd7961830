"""Check for drift, as part of a task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from airflow_reverse_etl.check.drift_memory import CatalogDrift, CatalogMemory
from airflow_reverse_etl.compat import AirflowFailException
from airflow_reverse_etl.config import environment
from airflow_reverse_etl.operators.dbt_task import given_syncs, task_key
from airflow_reverse_etl.wiring import state_files

if TYPE_CHECKING:
    from airflow_reverse_etl.compat import BaseOperator, Context
    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.operators.dbt_task import Syncs


@contextlib.contextmanager
def check_drift(
    task: BaseOperator, context: Context, *, read: Callable[[], Catalog], key: str, place: str, syncs: Syncs
) -> Iterator[CatalogDrift]:
    """Log what changed in a project since this task last read it, and remember the catalog if the block succeeds.

    :param read: reads the catalog; not called if the task knows the catalog, and was given the same syncs.
    :param key: key of the project and the settings that its catalog depends on.
    :param place: the catalog's path under the state URL.
    :raises AirflowFailException: a sync whose ``drift`` is ``fail`` uses what has changed. The XCom ``drift``
        then has the findings.
    """
    given, errors = given_syncs(task, syncs)
    memory = CatalogMemory(state_files(), task_key(context), key)
    if not errors and (unchanged := memory.unchanged(place, given)):
        task.log.info("Neither the models nor the syncs have changed since this task last succeeded")
        yield unchanged
        return
    from airflow_reverse_etl.check.exposures import syncs_in_meta

    catalog = read()
    in_meta, wrong = syncs_in_meta(catalog, environment=environment())
    for error in wrong + errors:  # the sync's own task fails with this error, so the others need not wait
        task.log.warning("Not looked at for drift: %s", error)
    drift = memory.compare(catalog, place, in_meta + given)
    for line in drift.lines():
        task.log.warning("Since %s: %s", drift.since, line)
    if drift.stops:
        context["ti"].xcom_push(key="drift", value=drift.to_dict())
        raise AirflowFailException("\n".join(str(stop) for stop in drift.stops))
    yield drift
    memory.keep(catalog, place, given=given, in_meta=in_meta)
