"""Has the model changed under a sync since its last run? The memory of that is one small file under the state URL."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import GuardError, StateError
from airflow_reverse_etl.sync.ports import Column

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.dbt.findings import Finding
    from airflow_reverse_etl.stores.files import StateFiles
    from airflow_reverse_etl.sync.ports import Warehouse
    from airflow_reverse_etl.sync.spec import Sync


def look_for_drift(
    sync: Sync, *, query: str, warehouse: Warehouse, files: StateFiles, output: Mapping[str, Any] | None
) -> list[Finding]:
    """What changed, worst first. Remembers the present state, unless this raises.

    :param output: of the task that the catalog comes from.
    :raises GuardError: the sync's ``drift`` is ``fail``, and something that it uses is not as it was.
    """
    if sync.drift == "ignore":
        return []
    from airflow_reverse_etl.dbt.drift import catalog_drift, column_drift
    from airflow_reverse_etl.dbt.findings import Level
    from airflow_reverse_etl.dbt.usage import SyncSource

    place = f"drift/{sync.name}.json"
    known = _known(files.read(place), sync)
    now = list(warehouse.columns(query))
    before = [Column(*column) for column in known["columns"]] if known else None
    source = SyncSource(sync, sync.name)
    found = column_drift(source, now, before, dialect=warehouse.dialect)
    then, there = _catalog(files, known.get("catalog")), _catalog(files, (output or {}).get("catalog"))
    if then and there and then != there:
        today = datetime.now(UTC).date()
        more = catalog_drift(source, then, there, today=today)
        # What the warehouse itself says about columns is the better word.
        found += [finding for finding in more if not finding.rule.startswith("column-")]
    found.sort(key=lambda finding: finding.level.rank)
    bad = [finding.message for finding in found if finding.level is not Level.WARNING]
    if bad and sync.drift == "fail":
        raise GuardError(
            f"the model changed under the sync: {'; '.join(bad)}",
            todo="restore it, or change the sync: a changed sync takes things as they are then",
            sync=sync.name,
        )
    columns = [[column.name, column.data_type] for column in now]
    state = {"sync": sync.digest, "columns": columns, "catalog": (output or {}).get("catalog")}
    files.write(place, json.dumps(state).encode())
    return found


def _known(data: bytes | None, sync: Sync) -> dict[str, Any]:
    """What was there at the last run of this very specification; a damaged memory is none."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        state = json.loads(data or b"")
        if state["sync"] == sync.digest and all(len(column) == 2 for column in state["columns"]):
            return dict(state)
    return {}


def _catalog(files: StateFiles, path: str | None) -> Catalog | None:
    from airflow_reverse_etl.dbt.catalog import Catalog

    data = files.read(path) if path else None
    with contextlib.suppress(StateError):
        return Catalog.from_json(data) if data else None
    return None
