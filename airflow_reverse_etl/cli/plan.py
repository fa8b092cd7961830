"""The commands ``reverse-etl plan`` and ``guards``: what a run would do, without sending anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_reverse_etl.cli.frame import FAILED, PASSED, Answer
from airflow_reverse_etl.cli.options import FullResync, Project, SyncFile, Values
from airflow_reverse_etl.cli.output import Markdown, Table

if TYPE_CHECKING:
    from airflow_reverse_etl.cli.session import Session
    from airflow_reverse_etl.sync.ports import Plan


def plan(
    sync: SyncFile,
    project: Project = None,
    sample: Annotated[
        int, typer.Option(min=0, metavar="N", help="most keys to show for each kind of change; default: 10")
    ] = 10,
    full_resync: FullResync = False,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="show the values that would be sent; of a changed row, the changed ones if known"),
    ] = False,
    values: Values = False,
) -> Answer:
    """Show counts, keys and guards of the plan that a run would make now."""
    from airflow_reverse_etl.cli.session import check_values, open_sync, preview, wait_for
    from airflow_reverse_etl.sync.context import RunOptions
    from airflow_reverse_etl.sync.preview import summary

    if diff:
        check_values(allowed=values)
    with open_sync(sync, project) as session:

        async def look(found: Plan) -> dict[str, Any]:
            told = summary(session.sync, found, session.store, session.destination, sample=sample)
            if diff:
                told["values"] = await _values(session, found, told["changed_fields"], sample)
            return told

        data = wait_for(preview(session, RunOptions(full_resync=full_resync), look))
    data.pop("run_id")
    text = data.pop("text")
    shown: list[str | Table | Markdown] = [Markdown(text)]
    if diff:
        rows = [tuple(map(str, line.values())) for line in data["values"]]
        shown.append(Table(("key", "change", "field", "new value"), rows))
        shown.append("The state keeps hashes of the values before, and not the values.")
    return Answer(data, shown)


async def _values(session: Session, found: Plan, changed_fields: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the values of the first rows of each kind of change, field by field."""
    from airflow_reverse_etl.cli.session import open_destination
    from airflow_reverse_etl.sync.load.samples import first_batches

    async with open_destination(session) as schema:
        batches = list(
            first_batches(session.sync, found, session.store, session.destination, schema=schema, count=count)
        )
    lines = []
    for kind, batch, _ in batches:
        for key, record in zip(batch.keys, batch.records, strict=True):
            known = changed_fields.get(key) if kind == "changed" else None
            for field, value in _flat(record):
                if not known or field in known:
                    lines.append({"key": key, "change": kind, "field": field, "value": value})
    return lines


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted name."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def guards(sync: SyncFile, project: Project = None, full_resync: FullResync = False) -> Answer:
    """Compare the plan that a run would make now with every guard of the sync."""
    from airflow_reverse_etl.cli.session import open_sync, preview, wait_for
    from airflow_reverse_etl.sync.context import RunOptions
    from airflow_reverse_etl.sync.guards import Verdict, verdicts

    with open_sync(sync, project) as session:

        async def look(found: Plan) -> list[Verdict]:
            return verdicts(session.sync, found)

        found = wait_for(preview(session, RunOptions(full_resync=full_resync), look))
    rows = [
        (verdict.name, "stops" if verdict.stops else "met", verdict.text.removeprefix(f"{verdict.name}: "))
        for verdict in found
    ]
    data = [{"guard": name, "met": state == "met", "text": text} for name, state, text in rows]
    code = FAILED if any(verdict.stops for verdict in found) else PASSED
    return Answer(data, [Table(("guard", "", "plan"), rows)], code)
