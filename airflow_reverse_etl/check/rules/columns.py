"""The rule about columns that a sync uses: missing, changed, or impossible to verify."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import Columns, FieldTypes, family
from airflow_reverse_etl.check.rules.building import missing_input_finding, was_removed_upstream
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.folders.reading import Place


def columns(change: ModelChange) -> Iterator[Finding]:
    """Yield used columns that are missing, have another type, are computed differently, or cannot be verified."""
    # With the same definition, columns differ only if both versions have columns as the warehouse reports them.
    base_measured = change.base.project.warehouse_columns(change.before.unique_id)
    head_measured = change.head.project.warehouse_columns(change.after.unique_id)
    is_new = change.sync_is == "new"
    if not (change.changed or is_new or (base_measured and head_measured)):
        return
    old = change.base.columns(change.before.unique_id)
    new = change.head.columns(change.after.unique_id)
    unverified: dict[str, Place] = {}
    for name, place in change.columns.items():
        before = old.get(name, spelling=change.spelling(name))
        after = new.get(name, spelling=change.spelling(name))
        missing_input = new.missing_input(name)
        if missing_input and was_removed_upstream(change, missing_input):
            yield missing_input_finding(change, missing_input, column=name, place=place)
        elif after and new.complete:
            if before:
                yield from _existing(change, name, place, (before, after), same_lineage=_same_lineage(name, old, new))
            elif not is_new and not old.complete:
                unverified[name] = place
        elif new.complete or (before and not old.complete and not after and new.by_name):
            yield _missing(change, name, place, old, new)
        else:
            unverified[name] = place
    if unverified:
        verb = "exists" if len(unverified) == 1 else "exist"
        what = "is new to the sync" if not change.changed else "or something upstream changed"
        yield change.finding(
            "column-unverified",
            Level.REVIEW,
            f"{change.after.name} {what} and cannot be read: nothing proves that {', '.join(unverified)} {verb}",
            place=next(iter(unverified.values())),
            todo="compile the project (dbt compile), provide a catalog.json built from this change, or enforce a "
            "contract on the model",
        )


def every_column(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding if the columns that a sync's ``"*"`` gives are others now, or may be."""
    excluded = change.usage.excluded
    if excluded is None or change.sync_is == "new":
        return
    old = change.base.columns(change.before.unique_id)
    new = change.head.columns(change.after.unique_id)
    place = change.usage.source.place("mapping", str(change.usage.source.sync.star))
    if change.changed and not (old.complete and new.complete):
        yield change.finding(
            "sync-every-column",
            Level.REVIEW,
            f"the sync sends every column of {change.after.name}, and nothing proves that they are the same",
            place=place,
            todo="compile the project (dbt compile), provide a catalog.json built from this change, or enforce a "
            "contract on the model",
        )
        return
    if lost := sorted(excluded & old.by_name.keys() - new.by_name.keys()):
        yield change.finding(
            "column-missing",
            Level.BREAKING,
            f"column {', '.join(lost)} of {change.after.name} is missing, which exclude names: the sync stops",
            place=place,
            todo="remove the column from exclude in the same change",
        )
    added = [column.name for name, column in new.by_name.items() if name not in old.by_name.keys() | excluded]
    gone = [column.name for name, column in old.by_name.items() if name not in new.by_name.keys() | excluded]
    texts = []
    if added:
        texts.append(f"will also send {', '.join(sorted(added))}")
    if gone:
        texts.append(f"will no longer send {', '.join(sorted(gone))}")
    if texts:
        yield change.finding(
            "sync-every-column",
            Level.REVIEW,
            f"the sync sends every column of {change.after.name}: it {' and '.join(texts)}",
            place=place,
            todo="check that the destination takes the new columns and can do without those that are gone, or name "
            "them in exclude",
        )


def _same_lineage(name: str, old: Columns, new: Columns) -> bool | None:
    """Return None if one of the lineages is unknown."""
    before = old.lineage_id(name)
    after = new.lineage_id(name)
    return before == after if before and after else None


def _missing(change: ModelChange, name: str, place: Place, old: Columns, new: Columns) -> Finding:
    level = Level.BREAKING
    if change.sync_is == "same" and old.get(name) is None and old.complete:
        level = Level.WARNING
        problem = "was missing before the change, too"
    elif new.get(name):
        problem = f"is {new.by_name[name.lower()].name} there, which the warehouse does not take for the same"
    elif new.complete:
        problem = "is missing"
    else:
        problem = "is no longer declared, and the changed SQL cannot be read"
    message = f"column {name} of {change.after.name} {problem}"
    todo = "keep the column (for example as an alias), or change the sync first"
    new_name = _new_name(name, old, new)
    if new_name:
        message += f"; it was probably renamed to {new_name}"
        todo += f" to {new_name}"
    return change.finding(
        "column-missing", level, message, place=place, column=name, todo=todo, contract=change.before.contract
    )


def _new_name(name: str, old: Columns, new: Columns) -> str | None:
    """Return the added column with the same lineage, else the one with a similar name, else None."""
    added = {key: column.name for key, column in new.by_name.items() if key not in old.by_name}
    lineage_id = old.lineage_id(name)
    if lineage_id:
        for candidate in added.values():
            if new.lineage_id(candidate) == lineage_id:
                return candidate
    similar = difflib.get_close_matches(name.lower(), added, n=1, cutoff=0.6)
    return added[similar[0]] if similar else None


def _existing(
    change: ModelChange, name: str, place: Place, columns: tuple[Column, Column], *, same_lineage: bool | None
) -> Iterator[Finding]:
    before, after = columns
    families = (family(before.data_type), family(after.data_type))
    text = f"column {after.name} of {change.after.name}"
    if None not in families and families[0] != families[1]:
        yield change.finding(
            "column-type",
            Level.BREAKING,
            f"{text} changes from {before.data_type} to {after.data_type}",
            place=place,
            column=after.name,
            todo="cast it back, or make sure that the destination accepts the new type and change the sync first",
            contract=change.before.contract,
        )
        return
    if same_lineage is None:
        # A changed value is a warning, which the rule of rows gives. An unknown type may be another one.
        same_lineage = not change.changed or None not in families
    if same_lineage and before.data_type == after.data_type:
        return
    paths = change.usage.fields.get(name, frozenset())
    fields = FieldTypes(before, after, change.head.project.dialect)
    lost = fields.lost(paths)
    if lost:
        yield change.finding(
            "column-missing",
            Level.BREAKING,
            f"{text} {lost}",
            place=place,
            column=after.name,
            todo="keep the field as it was, or change the sync first",
        )
    elif not same_lineage:
        level = Level.WARNING
        message = f"{text} is computed differently"
        if None in families or _has_unreadable_change(change) or fields.unknown(paths):
            level = Level.REVIEW
            message += ", and its new definition cannot be determined"
        yield change.finding(
            "column-meaning",
            level,
            message,
            place=place,
            column=after.name,
            todo="check that the destination expects the new values: every row whose value differs is sent again",
        )


def _has_unreadable_change(change: ModelChange) -> bool:
    """Return True if the model or something upstream changed, and its columns cannot be read."""
    base = change.base.project
    head = change.head.project
    for old_id, unique_id in change.changed_nodes():
        unchanged = old_id is not None and base.definition(old_id) == head.definition(unique_id)
        if unique_id == change.after.unique_id or unchanged:
            continue
        kind = head.nodes[unique_id]["resource_type"]
        is_known = bool(head.statements(unique_id)) if kind in ("model", "snapshot") else unique_id in head.seeds
        if not is_known:
            return True
    return False
