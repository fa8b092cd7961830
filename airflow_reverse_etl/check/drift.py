"""The drift under a sync: changes of the project's catalog, and of the columns that the warehouse reports."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.exposures import syncs_in_meta
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import ColumnResolver, FieldTypes, family
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.check.rules.models import contract, key, marks, materialization, relation, version_and_access
from airflow_reverse_etl.check.usage import usage
from airflow_reverse_etl.dbt.catalog import Catalog, Model
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.folders.reading import Place, SyncSource
from airflow_reverse_etl.spec.model import SqlModel, Sync

_RULES = (version_and_access, relation, materialization, key, contract, marks)


def catalog_drift(sources: Iterable[SyncSource], before: Catalog, after: Catalog, *, today: date) -> list[Finding]:
    """Compare two catalogs of a project for the models that syncs name, or whose tables they read.

    Reports missing models, moved relations, lost key tests, other versions and changes of declared columns. A catalog
    has no SQL, so columns are those that the project declares. :func:`column_drift` compares the actual ones.
    """
    base = _version_of(before)
    head = _version_of(after)
    resolvers = (ColumnResolver(base), ColumnResolver(head))
    found: list[Finding] = []
    for source in sources:
        ref = source.sync.model
        for old in base.models_of(ref):
            new = head.find(ref) if isinstance(ref, str) else head.tables.get(old.unique_id)
            if new is None:
                text = f"model {old.name} is no longer in the project"
                found.append(_finding(source, "model-missing", Level.BREAKING, text, source.place("model")))
            elif new != old:
                found += _model_drift(source, old, new, resolvers, today)
    return found


def project_drift(before: Catalog, after: Catalog, *, today: date) -> list[Finding]:
    """Compare two catalogs for every model, as for a sync that uses all its declared columns.

    :returns: findings with an empty ``sync``.
    """
    models_after = {model.unique_id: model for model in after.models}
    changed = [model for model in before.models if models_after.get(model.unique_id) != model]
    found = catalog_drift([_sync_of_all(model) for model in changed], before, after, today=today)
    return [replace(finding, sync="") for finding in found]


def retired_syncs(before: Catalog, after: Catalog) -> list[Finding]:
    """Return a warning for each sync that was removed from its model's ``meta.reverse_etl``."""
    syncs_before, _ = syncs_in_meta(before)
    syncs_after, _ = syncs_in_meta(after)
    kept = {source.sync.name for source in syncs_after}
    text = "it is no longer in the meta.reverse_etl of a model"
    return [
        _finding(source, "sync-removed", Level.WARNING, text, source.place())
        for source in syncs_before
        if source.sync.name not in kept and source.sync.drift != "ignore"
    ]


def _version_of(catalog: Catalog) -> ProjectVersion:
    """Rebuild the parts of a manifest that its catalog contains."""
    nodes = {
        model.unique_id: {"resource_type": "model", "relation_name": model.relation, "name": model.name}
        for model in catalog.models
    }
    return ProjectVersion({"nodes": nodes}, catalog=catalog)


def _sync_of_all(model: Model) -> SyncSource:
    """Build a sync that uses everything that the model declares."""
    mapping: dict[str, Any] = {f"c{n}": column.name for n, column in enumerate(model.columns)}
    if not mapping:
        mapping = {"none": {"value": None}}  # a mapping may not be empty
    values = {
        "name": "any",
        "source": "any",
        "destination": {"type": "any"},
        "model": model.unique_id,
        "mapping": mapping,
        "primary_key": model.primary_key or None,
    }
    return SyncSource(Sync.model_validate(values), model.path)


def _model_drift(
    source: SyncSource, old: Model, new: Model, resolvers: tuple[ColumnResolver, ColumnResolver], today: date
) -> list[Finding]:
    used = usage(source, dialect=resolvers[0].project.dialect)
    columns = used.query_columns() if isinstance(source.sync.model, SqlModel) else used.columns
    change = ModelChange(used, old, new, *resolvers, columns, today)
    found: list[Finding] = []
    for rule in _RULES:
        found += rule(change)
    # Undeclared columns are unknown, and only a contract proves that declared ones are all.
    before = [Column(column.name, column.data_type) for column in old.columns]
    after = [Column(column.name, column.data_type) for column in new.columns]
    declared = {column.name.lower() for column in before}
    used_and_declared = {name: place for name, place in columns.items() if name.lower() in declared}
    missing = Level.BREAKING if old.contract and new.contract else Level.REVIEW
    found += _compare(source, used_and_declared, before, after, missing=missing)
    return found


def column_drift(
    source: SyncSource, now: Sequence[Column], before: Sequence[Column] | None, *, dialect: str | None = None
) -> list[Finding]:
    """Compare the warehouse's columns with the needs of the sync, and with the columns at its last run.

    :param now: columns of the sync's model, or of its query.
    :param before: the columns at the last run; None for the first run.
    """
    used = usage(source, dialect=dialect)
    is_first = before is None
    found = list(_compare(source, used.columns, before or [], now, missing=Level.BREAKING, is_first=is_first))
    # What the names alone do not show: their spelling, and the fields inside a column.
    reported = {finding.column for finding in found if finding.level is Level.BREAKING}
    columns_before = {column.name.lower(): column for column in before or []}
    columns_now = {column.name.lower(): column for column in now}
    spelled = {column.name for column in now}
    for name, place in used.columns.items():
        new = columns_now.get(name.lower())
        if new is None or reported & {name, new.name}:
            continue
        spelling = used.spellings.get(name, new.name)
        fields = FieldTypes(columns_before.get(name.lower(), new), new, dialect)
        lost = fields.lost(used.fields.get(name, ()))
        if spelling not in spelled:
            text = f"column {name} is {new.name} there, which the warehouse does not take for the same"
        elif lost:
            text = f"column {name} {lost}"
        else:
            continue
        todo = "restore it, or change the sync"
        found.append(_finding(source, "column-missing", Level.BREAKING, text, place, column=name, todo=todo))
    return found


def _compare(
    source: SyncSource,
    used: Mapping[str, Place],
    before: Sequence[Column],
    now: Sequence[Column],
    *,
    missing: Level,
    is_first: bool = False,
) -> Iterator[Finding]:
    """Yield the findings about columns.

    :param missing: the level of a used column that is missing.
    :param is_first: report missing columns only, as no earlier columns are known.
    """
    old_columns = {column.name.lower(): column for column in before}
    new_columns = {column.name.lower(): column for column in now}
    used_keys = {name.lower() for name in used}
    added = {key: column.name for key, column in new_columns.items() if key not in old_columns}
    # Columns that the sync uses.
    for name, place in used.items():
        old = old_columns.get(name.lower())
        new = new_columns.get(name.lower())
        if new is None:
            text = f"column {name} is missing"
            similar = difflib.get_close_matches(name.lower(), added, n=1, cutoff=0.6)
            if similar:
                text += f"; it was probably renamed to {added[similar[0]]}"
            todo = "restore it, or change the sync"
            yield _finding(source, "column-missing", missing, text, place, column=name, todo=todo)
        elif old and _base_type(old) and _base_type(new) and _base_type(old) != _base_type(new):
            old_family = family(old.data_type)
            same_family = old_family is not None and old_family == family(new.data_type)
            level = Level.WARNING if same_family else Level.BREAKING
            text = f"column {name} changed from {old.data_type} to {new.data_type}"
            todo = "check that the destination accepts the new type"
            yield _finding(source, "column-type", level, text, place, column=name, todo=todo)
    if is_first:
        return
    # Columns that the sync does not use.
    new_unused = [name for key, name in added.items() if key not in used_keys]
    if new_unused:
        text = f"new columns: {', '.join(new_unused)}"
        yield _finding(source, "column-added", Level.WARNING, text, source.place("model"))
    kept = used_keys | set(new_columns)
    removed = [column.name for key, column in old_columns.items() if key not in kept]
    if removed:
        text = f"removed columns, not used by the sync: {', '.join(removed)}"
        yield _finding(source, "column-removed", Level.WARNING, text, source.place("model"))


def _base_type(column: Column) -> str:
    """Return the column's type without its length or precision."""
    return column.data_type.partition("(")[0].strip().lower()


def _finding(
    source: SyncSource, rule: str, level: Level, text: str, place: Place, *, column: str | None = None, todo: str = ""
) -> Finding:
    model = source.sync.model
    name = model if isinstance(model, str) else str(getattr(model, "table", "its query"))
    return Finding(rule, level, source.sync.name, name, text, (place,), todo, column)
