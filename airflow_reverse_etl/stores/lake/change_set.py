"""The change set of a plan: one Parquet file for each kind of change.

Sequence numbers are not stored: a row's number is its position, counted through the files in the order of
:data:`KINDS`. The files hold row values, so they are deleted with their plan.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.spec.report import Planned
from airflow_reverse_etl.stores.files import StateFiles, reachable
from airflow_reverse_etl.stores.lake.duckdb import Scratch
from airflow_reverse_etl.sync.ports import Plan

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("added", "changed", "removed")

#: Kinds of rows that are not sent, but that the commit needs. Each kind that a plan has is a file, too.
UNSENT_KINDS = ("skipped", "forgotten", "recorded", "invalid")

#: Hash columns of the files. :func:`read_changes` does not return them.
HASHES = ("key_hi", "key_lo", "fingerprint")

_BATCH_ROWS = 65_536


def starts(planned: Planned) -> dict[str, int]:
    """Return the sequence number before the first row of each kind."""
    counts = [getattr(planned, kind) for kind in KINDS]
    return dict(zip(KINDS, accumulate([0, *counts]), strict=False))


def read_changes(
    files: StateFiles, folder: str, planned: Planned, *, after: int, until: int, values: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows numbered from ``after`` + 1 to ``until``, in the form that StateStore.changes promises.

    Reads only the row groups that hold these rows, one at a time.
    """
    import pyarrow.parquet as pq

    for kind, start in starts(planned).items():
        count = getattr(planned, kind)
        if not count or start + count <= after or start >= until:
            continue
        columns = ["row_key", *values]
        if kind == "removed":
            columns.append("identifiers")
        source = files.open(f"{folder}/{kind}.parquet")
        if source is None:
            raise plan_gone()
        with reachable(files.url), source, pq.ParquetFile(source) as parquet:
            position = start
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                # Count the rows of a group that was not asked for, without reading them.
                if position + rows > after and position < until:
                    for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                        yield from _numbered(batch, kind, position, after=after, until=until)
                        position += batch.num_rows
                else:
                    position += rows


def _numbered(batch: pa.RecordBatch, kind: str, position: int, *, after: int, until: int) -> Iterator[pa.RecordBatch]:
    """Yield the part of a batch that was asked for, with the columns that the files do not hold.

    :param position: number of rows before the batch.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    first = max(0, after - position)
    last = min(batch.num_rows, until - position)
    if first >= last:
        return
    batch = batch.slice(first, last - first)
    rows = batch.num_rows
    seq = pc.cumulative_sum(pa.repeat(pa.scalar(1, pa.int64()), rows), start=position + first)
    key = batch.column("row_key")
    if key.null_count:  # in a model without a primary key, only the sequence number names a row
        key = pc.coalesce(key, seq.cast(pa.string()))
    names = batch.schema.names
    identifiers = batch.column("identifiers") if "identifiers" in names else pa.nulls(rows, pa.string())
    columns = {
        "seq": seq,
        "change": pa.repeat(pa.scalar(kind), rows),
        "key": key,
        **{name: batch.column(name) for name in names if name not in ("row_key", "identifiers")},
        "identifiers": identifiers,
    }
    yield pa.RecordBatch.from_pydict(columns)


def view(scratch: Scratch, folder: str, planned: Planned, *, settled: str) -> None:
    """Create the relation ``changes``: the change set without its values, with ``seq``, ``change`` and ``settled``.

    The relation has ``w``, the cursor, if the sync has one. ``field_hashes`` is null if the sync does not keep them.

    :param settled: SQL condition for settled rows.
    """
    hashes = ", ".join(HASHES)
    # An empty part first: it gives the columns if the plan has no changes.
    no_texts = "'' AS change, '' AS row_key, '' AS identifiers, NULL::VARCHAR AS field_hashes"
    no_hashes = ", ".join(f"0::BIGINT AS {name}" for name in HASHES)
    parts = [f"SELECT 0::BIGINT AS seq, {no_texts}, {no_hashes} LIMIT 0"]
    for kind, start in starts(planned).items():
        if getattr(planned, kind):
            scratch.view(f"file_{kind}", f"{folder}/{kind}.parquet")
            seq = f"{start + 1} + file_row_number AS seq"
            existing = scratch.columns(f"file_{kind}")
            more = "".join(f", {name}" for name in ("field_hashes", "w") if name in existing)
            parts.append(f"SELECT {seq}, '{kind}' AS change, row_key, identifiers, {hashes}{more} FROM file_{kind}")
    rows = " UNION ALL BY NAME ".join(f"({part})" for part in parts)
    scratch.execute(f"CREATE TEMP VIEW changes AS SELECT *, {settled} AS settled FROM ({rows})")


def invalid_keys(
    plan: Plan, relation: str, run: Callable[[str], Sequence[tuple[Any, ...]]], *, count: int
) -> dict[str, list[str]]:
    """Return keys of invalid rows, see :class:`~airflow_reverse_etl.sync.ports.InvalidKeys`.

    :param relation: the invalid rows, with ``row_key`` and ``cause``.
    :param run: runs a query and returns its rows.
    """
    found = {}
    for cause in plan.causes.keys() - {"null_key"}:  # a part of a null key may have a value
        rows = run(
            f"SELECT DISTINCT row_key FROM {relation} WHERE cause = '{cause}' AND row_key IS NOT NULL"
            f" ORDER BY row_key LIMIT {count}"
        )
        if rows:
            found[cause] = [key for (key,) in rows]
    return found


def plan_gone() -> RunConflictError:
    """Build the error for a plan that does not exist any more."""
    return RunConflictError(
        "the plan is gone: another run of the same sync committed or discarded it",
        todo="let only one run of a sync be active at a time; the next try plans again",
    )
