"""The rules about models, and the list of all rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import family
from airflow_reverse_etl.check.project.definition import BUILD, CONFIGURATION, FILE, TABLE
from airflow_reverse_etl.check.query_diff import different_clauses
from airflow_reverse_etl.check.rules.building import inputs, unproven
from airflow_reverse_etl.check.rules.columns import columns, every_column
from airflow_reverse_etl.dbt.catalog import Model
from airflow_reverse_etl.spec.model import SqlModel, TableModel

_TABLES = ("table", "incremental")


def relation(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding if database, schema or name differ, as the warehouse compares them."""
    before = change.before.relation
    after = change.after.relation
    if change.version_changed or not before or not after:
        return
    if change.base.project.relation(before) == change.head.project.relation(after):
        return
    level = Level.BREAKING
    message = f"{change.after.name} moves from {before} to {after}"
    todo = "build the new table and grant the sync's connection access to it before deployment; the old one goes stale"
    if change.other_target:
        level = Level.REVIEW
        message += "; every model moves: base and head seem to be built for different targets"
        todo = "build both manifests with the same target"
    yield change.finding("relation-moved", level, message, todo=todo)


def materialization(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding if the materialization changes. An ephemeral model has no table to read."""
    before = change.before.materialized
    after = change.after.materialized
    if before == after:
        return
    if after == "ephemeral":
        text = f"{change.after.name} becomes ephemeral and has no table or view to read"
        yield change.finding("ephemeral", Level.BREAKING, text, todo="materialize it as a view or a table")
        return
    text = f"{change.after.name} changes from {before} to {after}"
    # Only tables enforce the constraints of a contract.
    loses_constraints = bool(change.before.constraints) and before in _TABLES and after not in _TABLES
    broken = change.before.contract and loses_constraints
    yield change.finding("materialization", Level.WARNING, text, contract=broken)


def version_and_access(change: ModelChange) -> Iterator[Finding]:
    """Yield findings about dbt's governance of the model: version, deprecation and access."""
    name = change.after.name
    if change.version_changed:
        yield change.finding(
            "version-bumped",
            Level.BREAKING,
            f"{name} without a version moves from v{change.before.version} to v{change.after.version}",
            todo=f"pin the sync to {name}.v{change.before.version}, then move it in a change of its own",
        )
    due = change.after.deprecation_date
    if due and due != change.before.deprecation_date:
        level = Level.BREAKING if due <= change.today.isoformat() else Level.WARNING
        todo = "move the sync to another model or version before that day"
        yield change.finding("model-deprecated", level, f"{name} is deprecated from {due}", todo=todo)
    if change.after.access == "private" != change.before.access:
        yield change.finding(
            "access-private",
            Level.BREAKING,
            f"{name} becomes private: its owners no longer promise it to anyone outside their group",
            todo="keep it protected or public, or agree with its owners on another model",
        )


def key(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding if dbt has another primary key, or no longer tests the primary key."""
    sync = change.usage.source.sync
    if isinstance(sync.model, SqlModel) or (isinstance(sync.model, TableModel) and not sync.primary_key):
        return  # such a sync takes no key from dbt
    before = change.before.primary_key
    after = change.after.primary_key
    if sync.primary_key is None and _lowered(before) != _lowered(after):
        old = _listed(before) or "none"
        new = _listed(after) or "none"
        yield change.finding(
            "key-changed",
            Level.BREAKING,
            f"the sync takes its primary key from dbt, where it changes from {old} to {new}",
            todo="restore the tests or constraints that declare the key, or set primary_key in the sync",
            contract=change.before.contract,
        )
        return
    names = sync.primary_key or before
    lost = _key_proofs(change.before, names) - _key_proofs(change.after, names)
    if lost:
        yield change.finding(
            "key-test-removed",
            Level.BREAKING,
            f"dbt no longer tests that {' and that '.join(sorted(lost))}",
            place=change.usage.source.place("primary_key"),
            todo="keep the unique and not_null tests of the key: rows with a null or duplicate key are not synced",
        )


def _key_proofs(model: Model, names: tuple[str, ...]) -> set[str]:
    """Return the statements about a key that the model's tests and enforced constraints prove."""
    key_columns = set(_lowered(names))
    verb = "is" if len(names) == 1 else "are"
    facts = [*model.tests]
    if model.contract:
        facts += model.constraints
    proofs: set[str] = set()
    for fact in facts:
        kind, _, rest = fact.rstrip(")").partition("(")
        tested = {name.strip().lower() for name in rest.split(",")} - {""}
        if kind in ("unique", "primary_key") and tested and tested <= key_columns:
            proofs.add(f"{_listed(names)} {verb} unique")
        if kind in ("not_null", "primary_key"):
            proofs |= {f"{name} is never null" for name in tested & key_columns}
    return proofs


def contract(change: ModelChange) -> Iterator[Finding]:
    """Yield what the contract no longer promises. The rule of columns reports those that the sync uses."""
    before = change.before
    after = change.after
    if not before.contract:
        return
    used = set(_lowered(change.columns))
    if not after.contract:
        text = f"the contract of {after.name} is no longer enforced"
        todo = "keep the contract enforced: without it nothing proves that the sync's columns stay"
        yield change.finding("contract-broken", Level.BREAKING, text, todo=todo, contract=True)
        return
    # Columns that were removed.
    new_types = {column.name.lower(): column.data_type for column in after.columns}
    kept = used | set(new_types)
    removed = [column.name for column in before.columns if column.name.lower() not in kept]
    if removed:
        text = f"the contract of {after.name} no longer has {_listed(removed)}, which this sync does not use"
        yield change.finding("contract-broken", Level.WARNING, text, contract=True)
    # Columns with another type; used ones whose family changes are reported by the rule of columns.
    for column in before.columns:
        new_type = new_types.get(column.name.lower())
        if not new_type or _base_type(new_type) == _base_type(column.data_type):
            continue
        if column.name.lower() not in used or family(new_type) == family(column.data_type):
            text = f"the contract of {after.name} changes {column.name} from {column.data_type} to {new_type}"
            yield change.finding("contract-broken", Level.WARNING, text, column=column.name, contract=True)
    # Constraints that were removed.
    for constraint in sorted({*before.constraints} - {*after.constraints}):
        constrained = set(_lowered(re.findall(r"\w+", constraint.partition("(")[2])))
        level = Level.BREAKING if constrained & used else Level.WARNING
        text = f"the contract of {after.name} loses the constraint {constraint}"
        yield change.finding("contract-broken", level, text, contract=True)


def rows(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding if filters, joins or grain change, in the model or upstream."""
    changes = list(_row_changes(change)) if change.changed else []
    if changes:
        yield change.finding(
            "rows-changed",
            Level.WARNING,
            f"{change.after.name} may return different rows: the change affects {'; '.join(changes)}",
            todo="compare the plan's counts before it is sent: guards max_removed and max_changes stop a surprise",
        )


def _row_changes(change: ModelChange) -> Iterator[str]:
    base = change.base.project
    head = change.head.project
    for old_id, unique_id in change.changed_nodes():
        if old_id is None:
            continue
        name = unique_id.split(".", 2)[2]
        before = base.definition(old_id)
        after = head.definition(unique_id)
        if before.get(FILE) != after.get(FILE):
            yield f"the file of seed {name}"
        if before.get(TABLE) != after.get(TABLE):
            yield f"the table of source {name}"
        if before[CONFIGURATION] != after[CONFIGURATION]:
            yield f"the configuration of {name} ({', '.join(_different_keys(before, after))})"
        old = change.base.statements(old_id)
        new = change.head.statements(unique_id)
        if old and len(old) == len(new):
            pairs = zip(old, new, strict=True)
            clauses = dict.fromkeys(clause for pair in pairs for clause in different_clauses(*pair))
            if clauses:
                yield f"{', '.join(clauses)} in {name}"
        elif old or new or _sql(before) != _sql(after):
            yield f"the SQL of {name}, which cannot be read"


def _sql(definition: Mapping[str, str]) -> list[str | None]:
    return [definition.get(part) for part in ("compiled", "SQL", "macros", "variables")]


def _different_keys(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    old = json.loads(before[CONFIGURATION])
    new = json.loads(after[CONFIGURATION])
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def build(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding if SQL that no statement shows takes part in building the model, and changes."""
    if not change.changed:
        return
    names: list[str] = []
    for old_id, unique_id in change.changed_nodes():
        before = change.base.project.definition(old_id).get(BUILD) if old_id else None
        after = change.head.project.definition(unique_id).get(BUILD)
        if old_id and before != after:
            names.append(unique_id.split(".", 2)[2])
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield change.finding(
            "build-changed",
            Level.REVIEW,
            f"{BUILD} changed for {_listed(names[:3])}{more}: nothing proves that the table of {change.after.name} "
            "stays the same",
            todo="check that they leave the used columns and rows as they are",
        )


def marks(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding if the model loses ``meta.reverse_etl``, by which selections find it."""
    if change.before.meta.get("reverse_etl") and not change.after.meta.get("reverse_etl"):
        text = f"{change.after.name} loses its meta.reverse_etl: selections by it no longer match the model"
        yield change.finding("sync-removed", Level.WARNING, text, todo="keep it while syncs use the model")


def unread(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding for each part of the sync that cannot be read, if the model changes."""
    if change.changed or change.sync_is == "new":
        for place, reason in change.usage.unread:
            text = f"{change.after.name} changes, and the columns that the sync needs are not clear: {reason}"
            yield change.finding("sync-unread", Level.REVIEW, text, place=place, todo="correct or simplify this part")


RULES: tuple[Callable[[ModelChange], Iterator[Finding]], ...] = (
    version_and_access,
    relation,
    materialization,
    columns,
    every_column,
    inputs,
    unproven,
    key,
    contract,
    rows,
    build,
    marks,
    unread,
)


def _base_type(data_type: str) -> str:
    """Return a type without its length or precision."""
    return data_type.partition("(")[0].strip().lower()


def _lowered(names: Iterable[str]) -> list[str]:
    return [name.lower() for name in names]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
