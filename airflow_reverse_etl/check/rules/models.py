"""The rules of a check: what each kind of change to a model means for a sync that uses it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from airflow_reverse_etl.check.change import Pair
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import family
from airflow_reverse_etl.check.query_diff import different_clauses
from airflow_reverse_etl.check.rules.columns import columns
from airflow_reverse_etl.dbt.catalog import Model
from airflow_reverse_etl.spec.model import SqlModel, TableModel

_TABLES = ("table", "incremental")


def relation(pair: Pair) -> Iterator[Finding]:
    """Another database, schema or name, as the warehouse compares them."""
    before, after = pair.before.relation, pair.after.relation
    if pair.bumped or not before or not after or pair.base.side.relation(before) == pair.head.side.relation(after):
        return
    text = f"{pair.after.name} moves from {before} to {after}"
    if pair.other_target:
        text += "; so does every model: base and head seem to be made for different targets"
    yield pair.finding(
        "relation-moved",
        Level.REVIEW if pair.other_target else Level.BREAKING,
        text,
        todo="make both manifests with the same target"
        if pair.other_target
        else "build it there and grant the sync's connection access before this is deployed; the old table goes stale",
    )


def materialization(pair: Pair) -> Iterator[Finding]:
    """Ephemeral models have nothing to read."""
    before, after = pair.before.materialized, pair.after.materialized
    if before == after:
        return
    if after == "ephemeral":
        text = f"{pair.after.name} becomes ephemeral: there is no table or view to read"
        yield pair.finding("ephemeral", Level.BREAKING, text, todo="materialize it as a view or a table")
    else:
        text = f"{pair.after.name} is a {after} now, and was a {before}"
        broken = pair.before.contract and before in _TABLES and after not in _TABLES and bool(pair.before.constraints)
        yield pair.finding("materialization", Level.WARNING, text, contract=broken)


def version_and_access(pair: Pair) -> Iterator[Finding]:
    """What dbt's governance says about who may use the model, and for how long."""
    name, today = pair.after.name, pair.today.isoformat()
    if pair.bumped:
        yield pair.finding(
            "version-bumped",
            Level.BREAKING,
            f"{name} without a version means v{pair.after.version} now, and meant v{pair.before.version}",
            todo=f"pin the sync to {name}.v{pair.before.version}, then move it on its own",
        )
    due = pair.after.deprecation_date
    if due and due != pair.before.deprecation_date:
        level = Level.BREAKING if due <= today else Level.WARNING
        todo = "move the sync to another model or version before that day"
        yield pair.finding("model-deprecated", level, f"{name} is deprecated from {due}", todo=todo)
    if pair.after.access == "private" != pair.before.access:
        yield pair.finding(
            "access-private",
            Level.BREAKING,
            f"{name} is private now: its owners no longer promise it to anyone outside their group",
            todo="keep it protected or public, or agree with its owners and use another model",
        )


def key(pair: Pair) -> Iterator[Finding]:
    """The primary key that dbt knows, and what keeps it one."""
    sync = pair.usage.source.sync
    if isinstance(sync.model, SqlModel) or (isinstance(sync.model, TableModel) and not sync.primary_key):
        return  # such a sync takes no key from dbt
    before, after = pair.before.primary_key, pair.after.primary_key
    if sync.primary_key is None and [n.lower() for n in before] != [n.lower() for n in after]:
        yield pair.finding(
            "key-changed",
            Level.BREAKING,
            f"the sync takes its primary key from dbt, where it changes from {_listed(before) or 'none'} "
            f"to {_listed(after) or 'none'}",
            todo="restore the tests or constraints that declare the key, or set primary_key in the sync",
            contract=pair.before.contract,
        )
        return
    lost = _proofs(pair.before, sync.primary_key or before) - _proofs(pair.after, sync.primary_key or before)
    if lost:
        yield pair.finding(
            "key-test-removed",
            Level.BREAKING,
            f"nothing in dbt tests any more that {' and that '.join(sorted(lost))}",
            place=pair.usage.source.place("primary_key"),
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


def contract(pair: Pair) -> Iterator[Finding]:
    """What the contract promised and no longer does, beyond the columns that the sync uses."""
    before, after = pair.before, pair.after
    if not before.contract:
        return
    used = {name.lower() for name in pair.columns}
    if not after.contract:
        text = f"the contract of {after.name} is no longer enforced"
        todo = "keep the contract enforced: without it nothing proves that the sync's columns stay"
        yield pair.finding("contract-broken", Level.BREAKING, text, todo=todo, contract=True)
        return
    now = {column.name.lower(): column.data_type for column in after.columns}
    gone = [c.name for c in before.columns if c.name.lower() not in now and c.name.lower() not in used]
    if gone:
        text = f"the contract of {after.name} no longer has {_listed(gone)}, which this sync does not use"
        yield pair.finding("contract-broken", Level.WARNING, text, contract=True)
    for column in before.columns:
        other = now.get(column.name.lower())
        same_family = other is not None and family(other) == family(column.data_type)
        if other and _base(other) != _base(column.data_type) and (same_family or column.name.lower() not in used):
            text = f"the contract of {after.name} changes {column.name} from {column.data_type} to {other}"
            yield pair.finding("contract-broken", Level.WARNING, text, column=column.name, contract=True)
    for constraint in sorted({*before.constraints} - {*after.constraints}):
        on = {name.lower() for name in re.findall(r"\w+", constraint.partition("(")[2])}
        level = Level.BREAKING if on & used else Level.WARNING
        text = f"the contract of {after.name} loses the constraint {constraint}"
        yield pair.finding("contract-broken", level, text, contract=True)


def rows(pair: Pair) -> Iterator[Finding]:
    """Filters, joins or grain, of the model or upstream of it."""
    if not pair.changed:
        return
    base, head = pair.base.side, pair.head.side
    found = []
    for unique_id in (pair.after.unique_id, *head.ancestors(pair.after.unique_id)):
        was = pair.before.unique_id if unique_id == pair.after.unique_id else unique_id
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
        yield pair.finding(
            "rows-changed",
            Level.WARNING,
            f"{pair.after.name} may have other rows: the change touches {'; '.join(found)}",
            todo="compare the plan's counts before it is sent: guards max_removed and max_changes stop a surprise",
        )


def marks(pair: Pair) -> Iterator[Finding]:
    """``meta.reverse_etl``, by which models are selected."""
    if pair.before.meta.get("reverse_etl") and not pair.after.meta.get("reverse_etl"):
        text = f"{pair.after.name} loses its meta.reverse_etl: selections by it no longer find the model"
        yield pair.finding("sync-removed", Level.WARNING, text, todo="keep it while syncs use the model")


def unread(pair: Pair) -> Iterator[Finding]:
    """Parts of the sync itself that cannot be understood matter once the model changes."""
    if pair.changed:
        for place, reason in pair.usage.unread:
            text = f"{pair.after.name} changes, and which of its columns the sync needs is not clear: {reason}"
            yield pair.finding("sync-unread", Level.REVIEW, text, place=place, todo="correct or simplify this part")


RULES: tuple[Callable[[Pair], Iterator[Finding]], ...] = (
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
