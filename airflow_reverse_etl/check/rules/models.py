"""The rules of a check: what each kind of change to a model means for a sync that uses it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import family
from airflow_reverse_etl.check.query_diff import different_clauses
from airflow_reverse_etl.check.rules.columns import columns
from airflow_reverse_etl.dbt.catalog import Model
from airflow_reverse_etl.spec.model import SqlModel, TableModel

_TABLES = ("table", "incremental")


def relation(change: ModelChange) -> Iterator[Finding]:
    """Another database, schema or name, as the warehouse compares them."""
    before, after = change.before.relation, change.after.relation
    if (
        change.bumped
        or not before
        or not after
        or change.base.project.relation(before) == change.head.project.relation(after)
    ):
        return
    text = f"{change.after.name} moves from {before} to {after}"
    if change.other_target:
        text += "; so does every model: base and head seem to be made for different targets"
    yield change.finding(
        "relation-moved",
        Level.REVIEW if change.other_target else Level.BREAKING,
        text,
        todo="make both manifests with the same target"
        if change.other_target
        else "build it there and grant the sync's connection access before this is deployed; the old table goes stale",
    )


def materialization(change: ModelChange) -> Iterator[Finding]:
    """Ephemeral models have nothing to read."""
    before, after = change.before.materialized, change.after.materialized
    if before == after:
        return
    if after == "ephemeral":
        text = f"{change.after.name} becomes ephemeral: there is no table or view to read"
        yield change.finding("ephemeral", Level.BREAKING, text, todo="materialize it as a view or a table")
    else:
        text = f"{change.after.name} is a {after} now, and was a {before}"
        broken = (
            change.before.contract and before in _TABLES and after not in _TABLES and bool(change.before.constraints)
        )
        yield change.finding("materialization", Level.WARNING, text, contract=broken)


def version_and_access(change: ModelChange) -> Iterator[Finding]:
    """What dbt's governance says about who may use the model, and for how long."""
    name, today = change.after.name, change.today.isoformat()
    if change.bumped:
        yield change.finding(
            "version-bumped",
            Level.BREAKING,
            f"{name} without a version means v{change.after.version} now, and meant v{change.before.version}",
            todo=f"pin the sync to {name}.v{change.before.version}, then move it on its own",
        )
    due = change.after.deprecation_date
    if due and due != change.before.deprecation_date:
        level = Level.BREAKING if due <= today else Level.WARNING
        todo = "move the sync to another model or version before that day"
        yield change.finding("model-deprecated", level, f"{name} is deprecated from {due}", todo=todo)
    if change.after.access == "private" != change.before.access:
        yield change.finding(
            "access-private",
            Level.BREAKING,
            f"{name} is private now: its owners no longer promise it to anyone outside their group",
            todo="keep it protected or public, or agree with its owners and use another model",
        )


def key(change: ModelChange) -> Iterator[Finding]:
    """The primary key that dbt knows, and what keeps it one."""
    sync = change.usage.source.sync
    if isinstance(sync.model, SqlModel) or (isinstance(sync.model, TableModel) and not sync.primary_key):
        return  # such a sync takes no key from dbt
    before, after = change.before.primary_key, change.after.primary_key
    if sync.primary_key is None and [n.lower() for n in before] != [n.lower() for n in after]:
        yield change.finding(
            "key-changed",
            Level.BREAKING,
            f"the sync takes its primary key from dbt, where it changes from {_listed(before) or 'none'} "
            f"to {_listed(after) or 'none'}",
            todo="restore the tests or constraints that declare the key, or set primary_key in the sync",
            contract=change.before.contract,
        )
        return
    lost = _proofs(change.before, sync.primary_key or before) - _proofs(change.after, sync.primary_key or before)
    if lost:
        yield change.finding(
            "key-test-removed",
            Level.BREAKING,
            f"nothing in dbt tests any more that {' and that '.join(sorted(lost))}",
            place=change.usage.source.place("primary_key"),
            todo="keep the unique and not_null tests of the key: rows with a null or double key are not synced",
        )


def _proofs(model: Model, names: tuple[str, ...]) -> set[str]:
    """What the project's tests and enforced constraints say about a key."""
    wanted = {name.lower() for name in names}
    found = set()
    for fact in (*model.tests, *(model.constraints if model.contract else ())):
        kind, _, rest = fact.rstrip(")").partition("(")
        on = {name.strip().lower() for name in rest.split(",")} - {""}
        if kind in ("unique", "primary_key") and on and on <= wanted:
            found.add(f"{_listed(names)} {'is' if len(names) == 1 else 'are'} unique")
        if kind in ("not_null", "primary_key"):
            found |= {f"{name} is never null" for name in on & wanted}
    return found


def contract(change: ModelChange) -> Iterator[Finding]:
    """What the contract promised and no longer does, beyond the columns that the sync uses."""
    before, after = change.before, change.after
    if not before.contract:
        return
    used = {name.lower() for name in change.columns}
    if not after.contract:
        text = f"the contract of {after.name} is no longer enforced"
        todo = "keep the contract enforced: without it nothing proves that the sync's columns stay"
        yield change.finding("contract-broken", Level.BREAKING, text, todo=todo, contract=True)
        return
    now = {column.name.lower(): column.data_type for column in after.columns}
    gone = [c.name for c in before.columns if c.name.lower() not in now and c.name.lower() not in used]
    if gone:
        text = f"the contract of {after.name} no longer has {_listed(gone)}, which this sync does not use"
        yield change.finding("contract-broken", Level.WARNING, text, contract=True)
    for column in before.columns:
        other = now.get(column.name.lower())
        same_family = other is not None and family(other) == family(column.data_type)
        if other and _base(other) != _base(column.data_type) and (same_family or column.name.lower() not in used):
            text = f"the contract of {after.name} changes {column.name} from {column.data_type} to {other}"
            yield change.finding("contract-broken", Level.WARNING, text, column=column.name, contract=True)
    for constraint in sorted({*before.constraints} - {*after.constraints}):
        on = {name.lower() for name in re.findall(r"\w+", constraint.partition("(")[2])}
        level = Level.BREAKING if on & used else Level.WARNING
        text = f"the contract of {after.name} loses the constraint {constraint}"
        yield change.finding("contract-broken", level, text, contract=True)


def rows(change: ModelChange) -> Iterator[Finding]:
    """Filters, joins or grain, of the model or upstream of it."""
    if not change.changed:
        return
    base, head = change.base.project, change.head.project
    found = []
    for unique_id in (change.after.unique_id, *head.ancestors(change.after.unique_id)):
        was = change.before.unique_id if unique_id == change.after.unique_id else unique_id
        if was not in base.nodes or base.own_digest(was) == head.own_digest(unique_id):
            continue
        name = unique_id.split(".", 2)[2]
        if unique_id.startswith("seed."):
            found.append(f"the file of seed {name}")
        elif not unique_id.startswith("source."):
            old, new = base.statement(was), head.statement(unique_id)
            if old is None or new is None:
                found.append(f"the SQL of {name}, which cannot be read here")
            elif clauses := different_clauses(old, new):
                found.append(f"{', '.join(clauses)} in {name}")
    if found:
        yield change.finding(
            "rows-changed",
            Level.WARNING,
            f"{change.after.name} may have other rows: the change touches {'; '.join(found)}",
            todo="compare the plan's counts before it is sent: guards max_removed and max_changes stop a surprise",
        )


def marks(change: ModelChange) -> Iterator[Finding]:
    """``meta.reverse_etl``, by which models are selected."""
    if change.before.meta.get("reverse_etl") and not change.after.meta.get("reverse_etl"):
        text = f"{change.after.name} loses its meta.reverse_etl: selections by it no longer find the model"
        yield change.finding("sync-removed", Level.WARNING, text, todo="keep it while syncs use the model")


def unread(change: ModelChange) -> Iterator[Finding]:
    """Parts of the sync itself that cannot be understood matter once the model changes."""
    if change.changed:
        for place, reason in change.usage.unread:
            text = f"{change.after.name} changes, and which of its columns the sync needs is not clear: {reason}"
            yield change.finding("sync-unread", Level.REVIEW, text, place=place, todo="correct or simplify this part")


RULES: tuple[Callable[[ModelChange], Iterator[Finding]], ...] = (
    version_and_access,
    relation,
    materialization,
    columns,
    key,
    contract,
    rows,
    marks,
    unread,
)


def _base(data_type: str) -> str:
    return data_type.partition("(")[0].strip().lower()


def _listed(names: Any) -> str:
    return ", ".join(names)
