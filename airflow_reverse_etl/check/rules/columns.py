"""The rule about columns that a sync uses: missing, changed, or impossible to verify."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import Columns, family
from airflow_reverse_etl.check.usage import Place
from airflow_reverse_etl.spec.columns import Column


def columns(change: ModelChange) -> Iterator[Finding]:
    """Yield used columns that are missing, have another type, are computed differently, or cannot be verified."""
    # With the same SQL, columns differ only if both versions have columns as the warehouse reports them.
    base_measured = change.base.project.warehouse_columns(change.before.unique_id)
    head_measured = change.head.project.warehouse_columns(change.after.unique_id)
    if not change.sql_changed and not (base_measured and head_measured):
        return
    old = change.base.columns(change.before.unique_id)
    new = change.head.columns(change.after.unique_id)
    unverified: dict[str, Place] = {}
    for name, place in change.columns.items():
        before = old.get(name)
        after = new.get(name)
        missing_input = new.missing_input(name)
        if missing_input and _was_removed_upstream(change, missing_input):
            yield _missing_input(change, name, place, missing_input)
        elif after and new.complete:
            if before:
                yield from _existing(change, place, before, after, same_lineage=_same_lineage(name, old, new))
        elif new.complete or (before and not old.complete and not after and new.by_name):
            yield _missing(change, name, place, old, new)
        else:
            unverified[name] = place
    if unverified:
        verb = "exists" if len(unverified) == 1 else "exist"
        yield change.finding(
            "column-unverified",
            Level.REVIEW,
            f"the SQL of {change.after.name}, or of a model upstream, changed and cannot be read: "
            f"nothing proves that {', '.join(unverified)} still {verb}",
            place=next(iter(unverified.values())),
            todo="compile the project (dbt compile), provide a catalog.json built from this change, or enforce a "
            "contract on the model",
        )


def _same_lineage(name: str, old: Columns, new: Columns) -> bool:
    """Return False only if both lineages are known and differ."""
    before = old.lineage_id(name)
    after = new.lineage_id(name)
    return not before or not after or before == after


def _missing(change: ModelChange, name: str, place: Place, old: Columns, new: Columns) -> Finding:
    level = Level.BREAKING
    if old.get(name) is None and old.complete:
        level = Level.WARNING
        problem = "was missing before the change, too"
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


def _missing_input(change: ModelChange, name: str, place: Place, missing_input: str) -> Finding:
    return change.finding(
        "column-missing",
        Level.BREAKING,
        f"column {name} of {change.after.name} is computed from {missing_input}, which is missing: "
        "the model cannot be built",
        place=place,
        column=name,
        todo=f"restore {missing_input}, or change the model as well",
        contract=change.before.contract,
    )


def _was_removed_upstream(change: ModelChange, missing_input: str) -> bool:
    """Return False if no upstream node lost such a column: the name then only looks like one of a column."""
    name = missing_input.rpartition(".")[2]
    for ancestor in change.head.project.ancestors(change.after.unique_id):
        if ancestor not in change.base.project.nodes:
            continue
        new = change.head.columns(ancestor)
        if change.base.columns(ancestor).get(name) and new.complete and not new.get(name):
            return True
    return False


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
    change: ModelChange, place: Place, before: Column, after: Column, *, same_lineage: bool
) -> Iterator[Finding]:
    name = after.name
    families = (family(before.data_type), family(after.data_type))
    if None not in families and families[0] != families[1]:
        yield change.finding(
            "column-type",
            Level.BREAKING,
            f"column {name} of {change.after.name} changes from {before.data_type} to {after.data_type}",
            place=place,
            column=name,
            todo="cast it back, or make sure that the destination accepts the new type and change the sync first",
            contract=change.before.contract,
        )
    elif not same_lineage:
        level = Level.WARNING
        message = f"column {name} of {change.after.name} is computed differently"
        if None in families or _has_unreadable_change(change):
            level = Level.REVIEW
            message += ", and its new definition cannot be determined"
        yield change.finding(
            "column-meaning",
            level,
            message,
            place=place,
            column=name,
            todo="check that the destination expects the new values: every row whose value differs is sent again",
        )


def _has_unreadable_change(change: ModelChange) -> bool:
    """Return True if a model upstream changed and its SQL cannot be read."""
    base = change.base.project
    head = change.head.project
    for name in head.ancestors(change.after.unique_id):
        is_model = head.nodes[name]["resource_type"] == "model"
        unchanged = name in base.nodes and base.own_digest(name) == head.own_digest(name)
        if is_model and not unchanged and head.statement(name) is None:
            return True
    return False
