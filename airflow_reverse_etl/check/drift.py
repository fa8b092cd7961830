"""What changed under a sync: the project's catalog since the last one, and the warehouse's own columns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.exposures import syncs_in_meta
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import ColumnResolver, family
from airflow_reverse_etl.check.project_version import ProjectVersion
from airflow_reverse_etl.check.rules.models import contract, key, marks, materialization, relation, version_and_access
from airflow_reverse_etl.check.usage import Place, SyncSource, usage
from airflow_reverse_etl.dbt.catalog import Catalog, Model
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import SqlModel, Sync

_RULES = (version_and_access, relation, materialization, key, contract, marks)


def catalog_drift(sources: Iterable[SyncSource], before: Catalog, after: Catalog, *, today: date) -> list[Finding]:
    """What two catalogs of a project say, for the models that syncs name or whose table they read: gone, moved
    relation, lost key test, another version, declared columns.

    A catalog has no SQL: columns are those that the project declares. :func:`column_drift` knows the true ones.
    """
    base, head = _version_of(before), _version_of(after)
    known = ColumnResolver(base), ColumnResolver(head)
    found: list[Finding] = []
    for source in sources:
        for old in base.models_of(source.sync.model):
            new = head.find(source.sync.model) if isinstance(source.sync.model, str) else head.models.get(old.unique_id)
            if new is None:
                text = f"model {old.name} is not in the project any more"
                found.append(_finding(source, "model-missing", Level.BREAKING, text, source.place("model")))
            elif new != old:
                found += _model_drift(source, old, new, known, today)
    return found


def project_drift(before: Catalog, after: Catalog, *, today: date) -> list[Finding]:
    """The same for every model, as a sync that used each of its declared columns would see it. ``sync`` is empty."""
    unchanged = {model.unique_id: model for model in after.models}
    changed = [_reader(model) for model in before.models if unchanged.get(model.unique_id) != model]
    return [replace(finding, sync="") for finding in catalog_drift(changed, before, after, today=today)]


def retired_syncs(before: Catalog, after: Catalog) -> list[Finding]:
    """Syncs that were in a model's ``meta.reverse_etl`` and are not any more: nothing breaks, and nothing is sent."""
    now = {source.sync.name for source in syncs_in_meta(after)[0]}
    return [
        _finding(source, "sync-removed", Level.WARNING, "it is in no model's meta.reverse_etl any more", source.place())
        for source in syncs_in_meta(before)[0]
        if source.sync.name not in now and source.sync.drift != "ignore"
    ]


def _version_of(catalog: Catalog) -> ProjectVersion:
    """What a catalog knows of the manifest that it was made from."""
    nodes = {
        model.unique_id: {"resource_type": "model", "relation_name": model.relation, "name": model.name}
        for model in catalog.models
    }
    return ProjectVersion({"nodes": nodes}, catalog=catalog)


def _reader(model: Model) -> SyncSource:
    """A sync that uses everything the model declares."""
    values: dict[str, Any] = {"name": "any", "source": "any", "destination": {"type": "any"}, "model": model.unique_id}
    values["mapping"] = {f"c{n}": column.name for n, column in enumerate(model.columns)} or {"none": {"value": None}}
    sync = Sync.model_validate({**values, "primary_key": model.primary_key or None})
    return SyncSource(sync, model.path)


def _model_drift(
    source: SyncSource, old: Model, new: Model, known: tuple[ColumnResolver, ColumnResolver], today: date
) -> list[Finding]:
    used = usage(source, dialect=known[0].project.dialect)
    columns = used.columns
    if isinstance(source.sync.model, SqlModel):
        columns = {**(columns if used.star else {}), **used.mentions}
    change = ModelChange(used, old, new, *known, columns, today)
    found = [finding for rule in _RULES for finding in rule(change)]
    then, now = ([Column(c.name, c.data_type) for c in model.columns] for model in (old, new))
    declared = {column.name.lower() for column in then}
    there = {name: place for name, place in columns.items() if name.lower() in declared}
    lost = Level.BREAKING if old.contract and new.contract else Level.REVIEW
    return found + list(_compare(source, there, then, now, lost=lost))


def column_drift(
    source: SyncSource, now: Sequence[Column], before: Sequence[Column] | None, *, dialect: str | None = None
) -> list[Finding]:
    """What the warehouse has now, against what the sync needs, and against what was there at its last run.

    :param now: columns of the sync's model, or of its query.
    :param before: the same at the last run; None: it is the first.
    """
    used = usage(source, dialect=dialect).columns
    return list(_compare(source, used, before or [], now, lost=Level.BREAKING, first=before is None))


def _compare(
    source: SyncSource,
    used: Mapping[str, Place],
    before: Sequence[Column],
    now: Sequence[Column],
    *,
    lost: Level,
    first: bool = False,
) -> Iterator[Finding]:
    then = {column.name.lower(): column for column in before}
    there = {column.name.lower(): column for column in now}
    wanted = {name.lower() for name in used}
    added = {key: column.name for key, column in there.items() if key not in then}
    for name, place in used.items():
        old, new = then.get(name.lower()), there.get(name.lower())
        if new is None:
            near = difflib.get_close_matches(name.lower(), added, n=1, cutoff=0.6)
            text = f"column {name} is gone" + (f"; it is probably {added[near[0]]} now" if near else "")
            todo = "restore it, or change the sync"
            yield _finding(source, "column-missing", lost, text, place, column=name, todo=todo)
        elif old and _base(old) != _base(new) and _base(old) and _base(new):
            families = family(old.data_type), family(new.data_type)
            level = Level.WARNING if families[0] == families[1] is not None else Level.BREAKING
            text = f"column {name} changed from {old.data_type} to {new.data_type}"
            todo = "check that the destination takes the new type"
            yield _finding(source, "column-type", level, text, place, column=name, todo=todo)
    if first:
        return
    gone = [column.name for key, column in then.items() if key not in there and key not in wanted]
    more = [name for key, name in added.items() if key not in wanted]
    for rule, names, word in (("column-added", more, "new"), ("column-removed", gone, "gone, and not used here")):
        if names:
            text = f"columns that are {word}: {', '.join(names)}"
            yield _finding(source, rule, Level.WARNING, text, source.place("model"))


def _base(column: Column) -> str:
    return column.data_type.partition("(")[0].strip().lower()


def _finding(
    source: SyncSource, rule: str, level: Level, text: str, place: Place, *, column: str | None = None, todo: str = ""
) -> Finding:
    model = source.sync.model
    name = model if isinstance(model, str) else str(getattr(model, "table", "its query"))
    return Finding(rule, level, source.sync.name, name, text, (place,), todo, column)
