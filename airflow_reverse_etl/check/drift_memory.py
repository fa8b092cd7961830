"""Has a model changed under a sync: since its last run, and since a task last read the project?

The memory of either is one small file under the state URL.
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
    from airflow_reverse_etl.check.usage import SyncSource
    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.stores.files import StateFiles
    from airflow_reverse_etl.sync.ports import Warehouse

#: So many findings are told one by one.
_LISTED = 20


def look_for_drift(
    sync: Sync, *, query: str, warehouse: Warehouse, files: StateFiles, output: Mapping[str, Any] | None
) -> list[Finding]:
    """What changed, worst first. Remembers the present state, unless this raises.

    :param output: of the task that the catalog comes from.
    :raises SpecError: the query is not one SELECT.
    :raises GuardError: the sync's ``drift`` is ``fail``, and something that it uses is not as it was.
    """
    if sync.drift == "ignore":
        return []
    from airflow_reverse_etl.check.drift import catalog_drift, column_drift
    from airflow_reverse_etl.check.usage import SyncSource

    place = f"drift/{sync.name}.json"
    known = _known(files.read(place), sync)
    now = list(model_columns(query, warehouse, sync))
    before = [Column(*column) for column in known["columns"]] if known else None
    source = SyncSource(sync, sync.name)
    found = column_drift(source, now, before, dialect=warehouse.dialect)
    then, there = _catalog(files, known.get("catalog")), _catalog(files, (output or {}).get("catalog"))
    if then and there and then != there:
        today = datetime.now(UTC).date()
        more = catalog_drift([source], then, there, today=today)
        # What the warehouse itself says about columns is the better word.
        found += [finding for finding in more if not finding.rule.startswith("column-")]
    found.sort(key=lambda finding: finding.level.rank)
    if sync.drift == "fail" and (stop := _stop(sync.name, found)):
        raise stop
    columns = [[column.name, column.data_type] for column in now]
    state = {"sync": sync.digest, "columns": columns, "catalog": (output or {}).get("catalog")}
    files.write(place, json.dumps(state).encode())
    return found


@dataclass(frozen=True, slots=True)
class CatalogDrift:
    """What changed in a project since a task last read it.

    :param project: its name.
    :param models: how many its catalog has now.
    :param other_catalog: this is not the catalog that the task saw last.
    :param since: the commit that it saw; None, if it was none or is not stored any more.
    :param findings: worst first.
    :param stops: why the task must not succeed.
    """

    project: str
    models: int
    other_catalog: bool
    since: str | None = None
    findings: tuple[Finding, ...] = ()
    stops: tuple[GuardError, ...] = ()

    def lines(self) -> Iterator[str]:
        """For the log."""
        for finding in self.findings[:_LISTED]:
            yield f"{finding.sync or finding.model}: {finding.level}: {finding.message}"
        if len(self.findings) > _LISTED:
            yield f"and {len(self.findings) - _LISTED} findings more"

    def to_dict(self) -> dict[str, Any]:
        """For XCom: small."""
        counts = Counter(finding.level.name.lower() for finding in self.findings)
        names = ("rule", "level", "sync", "model", "column", "message")
        listed = [{name: found[name] for name in names} for found in (f.to_dict() for f in self.findings[:_LISTED])]
        levels = {level: counts[level] for level in ("breaking", "review", "warning")}
        return {"since": self.since, **levels, "findings": listed}


class CatalogMemory:
    """What a task saw of a project when it last succeeded: the catalog, and the syncs that used it, as they were.

    :param task: the task as a part of a path.
    :param key: of the project and the settings that its catalog depends on.
    """

    def __init__(self, files: StateFiles, task: str, key: str) -> None:
        self._files, self._place = files, f"model_drift/{task}/{key}.json"
        self._known: dict[str, Any] = {}
        with contextlib.suppress(ValueError, TypeError):
            self._known = dict(json.loads(files.read(self._place) or b"{}"))

    def unchanged(self, place: str, given: Sequence[SyncSource]) -> CatalogDrift | None:
        """No drift, where the task saw this catalog, which is still there, and was given these syncs."""
        with contextlib.suppress(KeyError, TypeError):
            if (place, _digests(given)) == (self._known["catalog"], self._known["given"]) and self._files.exists(place):
                return CatalogDrift(self._known["project"], self._known["models"], other_catalog=False)
        return None

    def compare(self, catalog: Catalog, place: str, sources: Sequence[SyncSource]) -> CatalogDrift:
        """What changed for the syncs; without any, for every model. A sync that is new or was changed takes things as
        they are now.

        :param place: the catalog's path under the state URL.
        """
        facts = catalog.project, len(catalog.models)
        last = self._known.get("catalog")
        before = _catalog(self._files, last) if last != place else None
        if before is None:
            return CatalogDrift(*facts, other_catalog=last != place)
        from airflow_reverse_etl.check.drift import catalog_drift, project_drift, retired_syncs

        today, syncs = datetime.now(UTC).date(), self._known.get("syncs", {})
        same = [source for source in sources if syncs.get(source.sync.name) == source.sync.digest]
        policies = {source.sync.name: source.sync.drift for source in same}
        looked_at = [source for source in same if source.sync.drift != "ignore"]
        found = catalog_drift(looked_at, before, catalog, today=today)
        names = {source.sync.name for source in sources}  # one that moved into a file is not gone
        found += [finding for finding in retired_syncs(before, catalog) if finding.sync not in names]
        if not sources:
            found += project_drift(before, catalog, today=today)
        found.sort(key=lambda finding: finding.level.rank)
        stops = (
            _stop(name, [finding for finding in found if finding.sync == name])
            for name, policy in policies.items()
            if policy == "fail"
        )
        return CatalogDrift(
            *facts, other_catalog=True, since=before.commit, findings=tuple(found), stops=tuple(filter(None, stops))
        )

    def keep(self, catalog: Catalog, place: str, *, given: Sequence[SyncSource], beside: Sequence[SyncSource]) -> None:
        """The task succeeds: what it compares with the next time.

        :param given: the syncs that the task was given.
        :param beside: those written beside the models.
        """
        known = {
            "catalog": place,
            "project": catalog.project,
            "models": len(catalog.models),
            "given": _digests(given),
            "syncs": _digests([*beside, *given]),
        }
        if known != self._known:
            self._files.write(self._place, json.dumps(known).encode())


def _digests(sources: Sequence[SyncSource]) -> dict[str, str]:
    return {source.sync.name: source.sync.digest for source in sources}


def _stop(sync: str, findings: Sequence[Finding]) -> GuardError | None:
    """The end of a run whose sync says ``drift: fail``, if something that it uses is not as it was."""
    from airflow_reverse_etl.check.findings import Level

    bad = [finding.message for finding in findings if finding.level is not Level.WARNING]
    if not bad:
        return None
    return GuardError(
        f"the model changed under the sync: {'; '.join(bad)}",
        todo="restore it, or change the sync: a changed sync takes things as they are then",
        sync=sync,
    )


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
