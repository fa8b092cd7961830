"""The rules of a check about columns: what a sync uses is gone, is another, or cannot be known."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import Columns, family
from airflow_reverse_etl.check.usage import Place
from airflow_reverse_etl.spec.columns import Column


def columns(change: ModelChange) -> Iterator[Finding]:
    """Used columns that are gone, have another type, are computed differently, or cannot be verified."""
    base, head = change.base.project, change.head.project
    measured = all(s.warehouse_columns(m.unique_id) for s, m in ((base, change.before), (head, change.after)))
    if not change.changed and not measured:
        return
    old, new = change.base.columns(change.before.unique_id), change.head.columns(change.after.unique_id)
    unverified: dict[str, Place] = {}
    for name, place in change.columns.items():
        was, now = old.get(name), new.get(name)
        if (lost := new.missing_input(name)) and _went(change, lost):
            yield _lost(change, name, place, lost)
        elif now and new.complete:
            alike = not (made := old.lineage_id(name)) or made == (new.lineage_id(name) or made)
            yield from _same_column(change, place, was, now, alike=alike)
        elif new.complete or (was and not old.complete and not now and new.by_name):
            yield _missing(change, name, place, old, new)
        else:
            unverified[name] = place
    if unverified:
        yield change.finding(
            "column-unverified",
            Level.REVIEW,
            f"the SQL of {change.after.name}, or of what it selects from, changed and cannot be read: "
            f"nothing proves that {', '.join(unverified)} {'is' if len(unverified) == 1 else 'are'} still there",
            place=next(iter(unverified.values())),
            todo="compile the project (dbt compile), give a catalog.json made from this very change, or enforce a "
            "contract on the model",
        )


def _missing(change: ModelChange, name: str, place: Place, old: Columns, new: Columns) -> Finding:
    was = old.get(name)
    if was is None and old.complete:
        text, level = f"column {name} of {change.after.name} was not there before the change either", Level.WARNING
    else:
        words = "is gone" if new.complete else "is not declared any more, and the changed SQL cannot be read"
        text, level = f"column {name} of {change.after.name} {words}", Level.BREAKING
    hint = _new_name(name, old, new)
    return change.finding(
        "column-missing",
        level,
        text + (f"; it is probably {hint} now" if hint else ""),
        place=place,
        column=name,
        todo=f"keep the column (for example as an alias), or change the sync first{f' to {hint}' if hint else ''}",
        contract=change.before.contract,
    )


def _lost(change: ModelChange, name: str, place: Place, lost: str) -> Finding:
    return change.finding(
        "column-missing",
        Level.BREAKING,
        f"column {name} of {change.after.name} is computed from {lost}, which is gone: the model cannot be built",
        place=place,
        column=name,
        todo="restore it, or change the model as well",
        contract=change.before.contract,
    )


def _went(change: ModelChange, lost: str) -> bool:
    """Whether a column went away upstream. Otherwise it is something that only looks like a column."""
    name = lost.rpartition(".")[2]
    both = [p for p in change.head.project.ancestors(change.after.unique_id) if p in change.base.project.nodes]
    projects = [(change.base.columns(parent), change.head.columns(parent)) for parent in both]
    return any(old.get(name) and new.complete and not new.get(name) for old, new in projects)


def _new_name(name: str, old: Columns, new: Columns) -> str | None:
    """What a column is called now: made of the same, or else named alike."""
    added = {key: column.name for key, column in new.by_name.items() if key not in old.by_name}
    lineage_id = old.lineage_id(name)
    alike = [given for given in added.values() if lineage_id and new.lineage_id(given) == lineage_id]
    near = difflib.get_close_matches(name.lower(), added, n=1, cutoff=0.6)
    return next(iter([*alike, *(added[key] for key in near)]), None)


def _same_column(
    change: ModelChange, place: Place, was: Column | None, now: Column, *, alike: bool
) -> Iterator[Finding]:
    if was is None:
        return
    name, families = now.name, (family(was.data_type), family(now.data_type))
    if None not in families and families[0] != families[1]:
        yield change.finding(
            "column-type",
            Level.BREAKING,
            f"column {name} of {change.after.name} changes from {was.data_type} to {now.data_type}",
            place=place,
            column=name,
            todo="cast it back, or make sure that the destination takes the new type and change the sync first",
            contract=change.before.contract,
        )
    elif not alike:
        known = None not in families and not _opaque(change)
        yield change.finding(
            "column-meaning",
            Level.WARNING if known else Level.REVIEW,
            f"column {name} of {change.after.name} is computed differently"
            + ("" if known else ", and what it is now cannot be known"),
            place=place,
            column=name,
            todo="check that the destination expects the new values: every row whose value differs is sent again",
        )


def _opaque(change: ModelChange) -> bool:
    """Whether something upstream changed that cannot be read."""
    base, head = change.base.project, change.head.project
    return any(
        head.nodes[name]["resource_type"] == "model"
        and not (name in base.nodes and base.own_digest(name) == head.own_digest(name))
        and head.statement(name) is None
        for name in head.ancestors(change.after.unique_id)
    )
