"""Send customers to a CRM whenever Cosmos has built them and their tests have passed.

``DBT_MANIFEST`` is the path of the manifest that Cosmos renders its tasks from; it has the model's address.
Connections: ``warehouse``, ``crm``.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import dag

from airflow_reverse_etl.assets import model_asset
from airflow_reverse_etl.operators import DbtModelSyncOperator, ReverseEtlOperator

MANIFEST = os.environ.get("DBT_MANIFEST", str(Path(__file__).parents[1] / "dbt_project" / "target" / "manifest.json"))


@dag(schedule=[model_asset("customers", "warehouse")], max_active_runs=1, tags=["reverse-etl"])
def contacts_after_cosmos() -> None:
    models = DbtModelSyncOperator(task_id="models", source=MANIFEST)
    ReverseEtlOperator(task_id="contacts", sync="../syncs/contacts_to_crm.yaml", catalog=models.output)


contacts_after_cosmos()
