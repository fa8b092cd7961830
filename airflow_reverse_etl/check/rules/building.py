"""The rules about whether a model, and what it is made from, can still be built."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.grouping import ungrouped
from airflow_reverse_etl.check.lineage import ColumnResolver
from airflow_reverse_etl.check.type_conflicts import conflicts
from airflow_reverse_etl.check.usage import compares_case


def inputs(change: ModelChange) -> Iterator[Finding]:
    """Yield columns that the model, or something upstream, reads anywhere, and that are gone: it cannot be built."""
    if not change.changed:
        return
    new = change.head.columns(change.after.unique_id)
    reported = {new.missing_input(name) for name in change.columns}
    found: set[str] = set()
    for _, unique_id in change.changed_nodes():
        for statement in change.head.statements(unique_id):
            found |= statement.missing_inputs()
    for missing_input in sorted(found - reported):
        if was_removed_upstream(change, missing_input):
            yield missing_input_finding(change, missing_input)


def unproven(change: ModelChange) -> Iterator[Finding]:
    """Yield a finding for each changed node about which something new raises a doubt that it can be built."""
    if not change.changed:
        return
    for old_id, unique_id in change.changed_nodes():
        before = _doubts(change.base, old_id, change) if old_id else {}
        after = _doubts(change.head, unique_id, change)
        texts = dict.fromkeys(text for key, text in sorted(after.items()) if key not in before)
        if texts:
            name = unique_id.split(".", 2)[2]
            yield change.finding(
                "build-unproven",
                Level.REVIEW,
                f"nothing proves that {name} can be built: {'; '.join(texts)}",
                todo=f"make sure that dbt builds {name}; document the columns of sources with their types",
            )


def _doubts(resolver: ColumnResolver, unique_id: str, change: ModelChange) -> dict[tuple[str, str], str]:
    """Return what may keep a node from being built: a key that is equal in both versions → its text."""
    found: dict[tuple[str, str], str] = {}
    for statement in resolver.statements(unique_id):
        for missing_input in statement.missing_inputs():
            if not was_removed_upstream(change, missing_input):
                found["missing", missing_input] = f"it reads {missing_input}, which does not exist"
        for parent, column in statement.unproven_inputs():
            if column not in change.base.read_from(parent):
                name = f"{parent.split('.')[-1]}.{column}"
                found["unproven", name] = f"it reads {name}, which nothing documents and nothing has read before"
        for name in statement.unknown_tables():
            found["table", name] = f"it reads {name}, whose table the query does not have"
        for name in ungrouped(statement):
            found["ungrouped", name] = f"it selects {name}, which it neither groups by nor aggregates"
        for name in statement.duplicates():
            found["duplicate", name] = f"it has several columns {name}"
        for text, sql in conflicts(statement):
            found[text, sql] = f"it has {text}"
    return found


def missing_input_finding(change: ModelChange, missing_input: str, **more: object) -> Finding:
    """Build the finding about an input that is gone.

    :param more: ``column`` and ``place`` of the used column that is computed from it.
    """
    column = more.get("column")
    subject = f"column {column} of {change.after.name} is computed" if column else f"{change.after.name} is built"
    return change.finding(
        "column-missing",
        Level.BREAKING,
        f"{subject} from {missing_input}, which is missing: the model cannot be built",
        todo=f"restore {missing_input}, or change the model as well",
        contract=change.before.contract,
        **more,  # type: ignore[arg-type]
    )


def was_removed_upstream(change: ModelChange, missing_input: str) -> bool:
    """Return False if no upstream node lost such a column: the name then only looks like one of a column."""
    name = missing_input.rpartition(".")[2]
    for ancestor in change.head.project.ancestors(change.after.unique_id):
        if ancestor not in change.base.project.nodes:
            continue
        old = change.base.columns(ancestor).get(name)
        new = change.head.columns(ancestor)
        spelling = old.name if old and compares_case(change.head.project.dialect) else None
        if old and new.complete and not new.get(name, spelling=spelling):
            return True
    return False
