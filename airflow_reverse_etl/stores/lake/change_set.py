"""The change set of a plan: one Parquet file for each kind of change.

Sequence numbers are not stored: a row's is its position, counted through the files in the order of :data:`KINDS`. The
files hold row values, so they live only as long as their plan.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.spec.report import Planned
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.lake.duckdb import Scratch
from airflow_reverse_etl.sync.ports import Plan

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("added", "changed", "removed")

#: Rows that are not sent, but that a commit must know of. Each kind that a plan has is a file, too.
LEFT = ("skipped", "forgotten", "recorded", "invalid")

#: Columns of the files beside the values; the names that readers of the change set see come from :func:`read`.
HASHES = ("key_hi", "key_lo", "fingerprint")

_BATCH_ROWS = 65_536


def starts(planned: Planned) -> dict[str, int]:
    """For each kind, the sequence number before its first row."""
    counts = [getattr(planned, kind) for kind in KINDS]
    return dict(zip(KINDS, accumulate([0, *counts]), strict=False))


def read_changes(
    files: StateFiles, folder: str, planned: Planned, *, after: int, until: int, values: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The rows with numbers from ``after`` + 1 to ``until``, as StateStore.changes promises them.

    Reads only the row groups that hold them, one at a time.
    """
    import pyarrow.parquet as pq

    for kind, start in starts(planned).items():
        count = getattr(planned, kind)
        if not count or start + count <= after or start >= until:
            continue
        columns = ["row_key", *values, *(["identifiers"] if kind == "removed" else [])]
        try:
            source = files.filesystem().open_input_file(f"{folder}/{kind}.parquet")
        except FileNotFoundError:
            raise forgotten() from None
        with source, pq.ParquetFile(source) as parquet:
            position = start
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if position + rows > after and position < until:
                    for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                        yield from _numbered(batch, kind, position, after=after, until=until)
                        position += batch.num_rows
                else:
                    position += rows


def _numbered(batch: pa.RecordBatch, kind: str, position: int, *, after: int, until: int) -> Iterator[pa.RecordBatch]:
    """The part of a batch that is asked for, with the columns that the files do not hold."""
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
    if key.null_count:  # a model without a key has nothing else to name a row by
        key = pc.coalesce(key, seq.cast(pa.string()))
    has_identifiers = "identifiers" in batch.schema.names
    columns = {
        "seq": seq,
        "change": pa.repeat(pa.scalar(kind), rows),
        "key": key,
        **{name: batch.column(name) for name in batch.schema.names if name not in ("row_key", "identifiers")},
        "identifiers": batch.column("identifiers") if has_identifiers else pa.nulls(rows, pa.string()),
    }
    yield pa.RecordBatch.from_pydict(columns)


def view(scratch: Scratch, folder: str, planned: Planned, *, settled: str) -> None:
    """Make the change set, without its values, the relation ``changes``: with ``seq``, ``change`` and ``settled``.

    And with ``w``, the cursor, if there is one. ``field_hashes`` is null where the sync keeps none.
    """
    hashes = ", ".join(HASHES)
    texts = "'' AS change, '' AS row_key, '' AS identifiers, NULL::VARCHAR AS field_hashes"
    parts = [f"SELECT 0::BIGINT AS seq, {texts}, {', '.join(f'0::BIGINT AS {name}' for name in HASHES)} LIMIT 0"]
    for kind, start in starts(planned).items():
        if getattr(planned, kind):
            scratch.view(f"file_{kind}", f"{folder}/{kind}.parquet")
            seq = f"{start + 1} + file_row_number AS seq"
            there = scratch.columns(f"file_{kind}")
            more = "".join(f", {name}" for name in ("field_hashes", "w") if name in there)
            parts.append(f"SELECT {seq}, '{kind}' AS change, row_key, identifiers, {hashes}{more} FROM file_{kind}")
    rows = " UNION ALL BY NAME ".join(f"({part})" for part in parts)
    scratch.execute(f"CREATE TEMP VIEW changes AS SELECT *, {settled} AS settled FROM ({rows})")


def invalid_keys(
    plan: Plan, relation: str, run: Callable[[str], Sequence[tuple[Any, ...]]], *, count: int
) -> dict[str, list[str]]:
    """Return keys as :class:`~airflow_reverse_etl.sync.ports.InvalidKeys` promises them.

    :param relation: has the invalid rows, with ``row_key`` and ``cause``.
    :param run: runs a query.
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


def forgotten() -> RunConflictError:
    """The error for a plan that is not there any more."""
    return RunConflictError(
        "the plan is gone: another run of the same sync committed or discarded it",
        todo="nothing by hand: the next try plans again; let only one run of a sync be active at a time",
    )
