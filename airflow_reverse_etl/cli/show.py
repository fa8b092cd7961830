"""The command ``reverse-etl show``: the requests that a run would send, and sends none of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.options import FullResync, Project, SyncFile, Values

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.receipts import Batch
    from airflow_reverse_etl.sync.ports import Destination, Plan, ShownRequest


def show(
    sync: SyncFile,
    project: Project = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="most rows in each request; default: 1")] = 1,
    full_resync: FullResync = False,
    values: Values = False,
) -> Answer:
    """Show the first request of each operation, with its exact body."""
    from airflow_reverse_etl.cli.session import check_values, open_destination, open_sync, preview, wait_for
    from airflow_reverse_etl.sync.context import RunOptions
    from airflow_reverse_etl.sync.load.samples import first_batches

    check_values(allowed=values)
    with open_sync(sync, project) as session:
        destination = session.destination

        async def look(plan: Plan) -> list[dict[str, Any]]:
            found = []
            async with open_destination(session) as schema:
                batches = first_batches(session.sync, plan, session.store, destination, schema=schema, count=rows)
                for kind, batch, failed in batches:
                    request = asdict(_request(destination, batch))
                    problems = [receipt.message for receipt in failed.values()]
                    found.append({"change": kind, "operation": str(batch.operation.value), "rows": len(batch)})
                    found[-1] |= {**request, "problems": problems}
            return found

        data = wait_for(preview(session, RunOptions(full_resync=full_resync), look))
    texts = ["\n".join(_lines(found)) for found in data]
    return Answer(data, ["\n\n".join(texts) or "no rows to send"])


def _request(destination: Destination, batch: Batch) -> ShownRequest:
    from airflow_reverse_etl.sync.ports import ShownRequest, ShowsRequests

    if not len(batch):
        return ShownRequest("no request")
    if isinstance(destination, ShowsRequests):
        return destination.first_request(batch)
    records = "\n".join(json.dumps(record, ensure_ascii=False, default=str) for record in batch.records)
    return ShownRequest("records", body=records, notes=("destinations of this type do not show their requests",))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    noun = "row" if found["rows"] == 1 else "rows"
    yield f"# {found['change']}: {found['operation']} {found['rows']:,} {noun}; not sent"
    yield found["line"]
    for name, value in found["headers"].items():
        yield f"{name}: {value}"
    if found["body"]:
        yield ""
        yield found["body"]
    for note in found["notes"]:
        yield f"# {note}"
    for problem in found["problems"]:
        yield f"# a row is rejected without being sent: {problem}"
