"""The rows of jobs: gathered to fill a job, and read again to match its results with them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Batch, JobRef
from airflow_reverse_etl.sync.load.records import identifiers
from airflow_reverse_etl.sync.load.values import python_values
from airflow_reverse_etl.sync.ports import JobTerms, Plan, StateStore

if TYPE_CHECKING:
    import pyarrow as pa


def gathered(
    changes: Generator[pa.RecordBatch, None, None], terms: Collection[JobTerms]
) -> Generator[pa.RecordBatch, None, None]:
    """Join the batches of a change set, which stores read in parts, so that a job can be full."""
    import pyarrow as pa

    most_rows = max(one.max_rows for one in terms)
    most_bytes = max(one.max_bytes or 0 for one in terms) or None
    held: list[pa.RecordBatch] = []
    with contextlib.closing(changes):
        for batch in changes:
            held.append(batch)
            rows = sum(part.num_rows for part in held)
            if rows >= most_rows or (most_bytes and sum(part.nbytes for part in held) >= most_bytes):
                table = pa.Table.from_batches(held)
                yield from table.slice(0, most_rows).combine_chunks().to_batches()
                held = table.slice(most_rows).to_batches()
        if held:
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()


def read_rows(store: StateStore, plan: Plan, ref: JobRef, wanted: RangeSet, *, distinct: bool) -> Batch:
    """Return rows of a job, with their keys and identifiers. The sync need not be what it was.

    :param wanted: sequence numbers of the rows.
    :param distinct: several rows may have one key.
    """
    seqs: list[int] = []
    keys: list[str] = []
    records: list[Mapping[str, Any]] = []
    spans = list(wanted)
    if spans:
        with contextlib.closing(store.changes(plan, after=spans[0].start - 1, until=spans[-1].stop - 1)) as changes:
            for part in changes:
                rows = part.filter(wanted.mask(part.column("seq")))
                seqs += rows.column("seq").to_pylist()
                keys += rows.column("key").to_pylist()
                records += _identified(rows, ref)
    if distinct or len(set(keys)) < len(keys):
        keys = [f"{key}#{seq}" for key, seq in zip(keys, seqs, strict=True)]
    return Batch(ref.operation, seqs, keys, records, plan.run_id, plan.plan_id)


def _identified(rows: pa.RecordBatch, ref: JobRef) -> Iterator[Mapping[str, Any]]:
    """Yield records of rows with their identifiers only, wherever the mapping of the plan had them."""
    if rows.num_rows and rows.column("change")[0].as_py() == "removed":
        yield from identifiers(rows)
        return
    columns = []
    for _, at in ref.match_on:
        values, _ = python_values(rows.column(f"f{at}"), rows.schema.field(f"f{at}"), parse_json=False)
        columns.append(values)
    for at in range(rows.num_rows):
        record: dict[str, Any] = {}
        for (name, _), values in zip(ref.match_on, columns, strict=True):
            *path, last = name.split(".")
            level = record
            for part in path:
                level = level.setdefault(part, {})
            level[last] = values[at]
        yield record
