"""What changed under a sync since its last run: the project's catalog, and the warehouse's own columns."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.columns import Knowledge, family
from airflow_reverse_etl.dbt.findings import Finding, Level
from airflow_reverse_etl.dbt.pair import Pair
from airflow_reverse_etl.dbt.rules import contract, key, marks, materialization, relation, version_and_access
from airflow_reverse_etl.dbt.side import Side
from airflow_reverse_etl.dbt.usage import Place, SyncSource, usage
from airflow_reverse_etl.sync.ports import Column

_RULES = (version_and_access, relation, materialization, key, contract, marks)


def catalog_drift(source: SyncSource, before: Catalog, after: Catalog, *, today: date) -> list[Finding]:
    """What two syncs of the project's models say: moved relation, lost key test, another version, declared columns.

    A catalog has no SQL: columns are those that the project declares. :func:`column_drift` knows the true ones.
    """
    if not isinstance(source.sync.model, str):
        return []
    base, head = Side({"nodes": {}}, catalog=before), Side({"nodes": {}}, catalog=after)
    old, new = base.find(source.sync.model), head.find(source.sync.model)
    if old is None:
        return []
    used = usage(source, dialect=base.dialect)
    if new is None:
        text = f"model {source.sync.model} is not in the project any more"
        return [_finding(source, "model-missing", Level.BREAKING, text, source.place("model"))]
    pair = Pair(used, old, new, Knowledge(base), Knowledge(head), used.columns, today)
    found = [finding for rule in _RULES for finding in rule(pair)]
    then, now = ([Column(c.name, c.data_type) for c in model.columns] for model in (old, new))
    declared = {column.name.lower() for column in then}
    known = {name: place for name, place in used.columns.items() if name.lower() in declared}
    lost = Level.BREAKING if old.contract and new.contract else Level.REVIEW
    return found + list(_compare(source, known, then, now, lost=lost))


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
