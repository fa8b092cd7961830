"""The memory of the last run's columns, and of the catalog that a task last read, to compare with.

Each is one small file under the state URL.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import GuardError, StateError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.sync.planning import model_columns

if TYPE_CHECKING:
    from airflow_reverse_etl.check.findings import Finding
    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.spec.folders.reading import SyncSource
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.stores.files import StateFiles
    from airflow_reverse_etl.sync.ports import Warehouse

#: Findings that are reported one by one; more are only counted.
_MAX_LISTED = 20


def look_for_drift(
    sync: Sync, *, query: str, warehouse: Warehouse, files: StateFiles, output: Mapping[str, Any] | None
) -> tuple[list[Finding], Sequence[Column]]:
    """Return the changes since the sync's last run, worst first, and the model's columns, as the warehouse has them.

    Stores the present state, unless this raises. A sync that ignores drift has neither.

    :param output: output of the task that stored the catalog.
    :raises SpecError: the query is not one SELECT.
    :raises GuardError: the sync's ``drift`` is ``fail``, and something that it uses changed.
    """
    if sync.drift == "ignore":
        return [], ()
    path = f"drift/{sync.name}.json"
    state = _load_state(files.read(path), sync)
    columns = list(model_columns(query, warehouse, sync))
    # A run from a terminal has no stored catalog, and keeps the one of the last task in memory.
    catalog_path = (output or {}).get("catalog") or (state or {}).get("catalog")
    present = {
        "sync": sync.digest,
        "columns": [[column.name, column.data_type] for column in columns],
        "catalog": catalog_path,
    }
    if state == present:
        return [], columns
    from airflow_reverse_etl.check.drift import catalog_drift, column_drift
    from airflow_reverse_etl.spec.folders.reading import SyncSource

    source = SyncSource(sync, sync.name)
    # Compare the columns, as the warehouse reports them.
    columns_before = [Column(*column) for column in state["columns"]] if state else None
    found = column_drift(source, columns, columns_before, dialect=warehouse.dialect)
    # Compare the catalogs for everything else.
    catalog_before = _load_catalog(files, state.get("catalog"))
    catalog = _load_catalog(files, catalog_path)
    if catalog_before and catalog and catalog_before != catalog:
        today = datetime.now(UTC).date()
        more = catalog_drift([source], catalog_before, catalog, today=today)
        found += [finding for finding in more if not finding.rule.startswith("column-")]
    found.sort(key=lambda finding: finding.level.rank)
    if sync.drift == "fail":
        error = _drift_error(sync.name, found)
        if error:
            raise error
    files.write(path, json.dumps(present).encode())
    return found, columns


@dataclass(frozen=True, slots=True)
class CatalogDrift:
    """Changes of a project since a task last read it.

    :param project: name of the project.
    :param models: number of models in its present catalog.
    :param other_catalog: the task has not read this catalog before.
    :param since: commit of the catalog that the task read last; None if no such catalog is stored.
    :param findings: the changes, worst first.
    :param stops: errors that must fail the task.
    """

    project: str
    models: int
    other_catalog: bool
    since: str | None = None
    findings: tuple[Finding, ...] = ()
    stops: tuple[GuardError, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield a line for the log for each of the first findings."""
        for finding in self.findings[:_MAX_LISTED]:
            yield f"{finding.sync or finding.model}: {finding.level}: {finding.message}"
        if len(self.findings) > _MAX_LISTED:
            yield f"and {len(self.findings) - _MAX_LISTED} more findings"

    def to_dict(self) -> dict[str, Any]:
        """Return a form for XCom, which is kept small."""
        counts = Counter(finding.level.name.lower() for finding in self.findings)
        levels = {level: counts[level] for level in ("breaking", "review", "warning")}
        names = ("rule", "level", "sync", "model", "column", "message")
        listed: list[dict[str, Any]] = []
        for finding in self.findings[:_MAX_LISTED]:
            values = finding.to_dict()
            listed.append({name: values[name] for name in names})
        return {"since": self.since, **levels, "findings": listed}


class CatalogMemory:
    """The catalog that a task read when it last succeeded, and the digests of the syncs at that time.

    :param task: id of the task, as a part of a path.
    :param key: digest of the project and the settings that its catalog depends on.
    """

    def __init__(self, files: StateFiles, task: str, key: str) -> None:
        self._files = files
        self._path = f"model_drift/{task}/{key}.json"
        self._state: dict[str, Any] = {}
        # Damaged state counts as none: the next comparison starts from the present catalog.
        with contextlib.suppress(ValueError, TypeError):
            self._state = dict(json.loads(files.read(self._path) or b"{}"))

    def unchanged(self, place: str, given: Sequence[SyncSource]) -> CatalogDrift | None:
        """Return an empty drift if the task has read this catalog and got these syncs before, else None.

        :param place: path of the catalog under the state URL.
        """
        with contextlib.suppress(KeyError, TypeError):
            same_catalog = place == self._state["catalog"]
            same_syncs = _digests(given) == self._state["given"]
            if same_catalog and same_syncs and self._files.exists(place):
                return CatalogDrift(self._state["project"], self._state["models"], other_catalog=False)
        return None

    def compare(self, catalog: Catalog, place: str, sources: Sequence[SyncSource]) -> CatalogDrift:
        """Compare with the last catalog, for the syncs, or for every model if no syncs are given.

        Syncs that are new or were changed since are not compared: they accept the present catalog.

        :param place: path of the catalog under the state URL.
        """
        models = len(catalog.models)
        last = self._state.get("catalog")
        before = _load_catalog(self._files, last) if last != place else None
        if before is None:
            return CatalogDrift(catalog.project, models, other_catalog=last != place)
        from airflow_reverse_etl.check.drift import catalog_drift, project_drift, retired_syncs

        today = datetime.now(UTC).date()
        digests = self._state.get("syncs", {})
        unchanged = [source for source in sources if digests.get(source.sync.name) == source.sync.digest]
        compared = [source for source in unchanged if source.sync.drift != "ignore"]
        found = catalog_drift(compared, before, catalog, today=today)
        # A sync that moved from meta into a file is not removed.
        names = {source.sync.name for source in sources}
        found += [finding for finding in retired_syncs(before, catalog) if finding.sync not in names]
        if not sources:
            found += project_drift(before, catalog, today=today)
        found.sort(key=lambda finding: finding.level.rank)
        # Collect the errors of syncs with ``drift: fail``; a name counts once, with the policy given last.
        policies = {source.sync.name: source.sync.drift for source in unchanged}
        stops: list[GuardError] = []
        for name, policy in policies.items():
            own = [finding for finding in found if finding.sync == name]
            error = _drift_error(name, own) if policy == "fail" else None
            if error:
                stops.append(error)
        return CatalogDrift(
            catalog.project,
            models,
            other_catalog=True,
            since=before.commit,
            findings=tuple(found),
            stops=tuple(stops),
        )

    def keep(self, catalog: Catalog, place: str, *, given: Sequence[SyncSource], in_meta: Sequence[SyncSource]) -> None:
        """Store the state to compare with the next time, because the task succeeds.

        :param given: syncs that the task was given.
        :param in_meta: syncs defined in the meta of the models.
        """
        state = {
            "catalog": place,
            "project": catalog.project,
            "models": len(catalog.models),
            "given": _digests(given),
            "syncs": _digests([*in_meta, *given]),
        }
        if state != self._state:
            self._files.write(self._path, json.dumps(state).encode())


def _digests(sources: Sequence[SyncSource]) -> dict[str, str]:
    return {source.sync.name: source.sync.digest for source in sources}


def _drift_error(sync: str, findings: Sequence[Finding]) -> GuardError | None:
    """Build the error of a sync with ``drift: fail``, if something that it uses changed."""
    from airflow_reverse_etl.check.findings import Level

    messages = [finding.message for finding in findings if finding.level is not Level.WARNING]
    if not messages:
        return None
    return GuardError(
        f"the model changed under the sync: {'; '.join(messages)}",
        todo="restore the model, or change the sync: a changed sync accepts the model as it is",
        sync=sync,
    )


def _load_state(data: bytes | None, sync: Sync) -> dict[str, Any]:
    """Return the state that the last run stored; empty if it is damaged or the specification changed since."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        state = json.loads(data or b"")
        if state["sync"] == sync.digest and all(len(column) == 2 for column in state["columns"]):
            return dict(state)
    return {}


def _load_catalog(files: StateFiles, path: str | None) -> Catalog | None:
    """Return a stored catalog, or None if it is missing or damaged."""
    from airflow_reverse_etl.dbt.catalog import Catalog

    data = files.read(path) if path else None
    with contextlib.suppress(StateError):
        return Catalog.from_json(data) if data else None
    return None
