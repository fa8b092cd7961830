"""The change set of a plan: one Parquet file for each kind of change.

Sequence numbers are not stored: a row's number is its position, counted through the files in the order of the plan's
kinds. The files hold row values, so they are deleted with their plan.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import RunConflictError, StateError
from airflow_reverse_etl.object_storage import STORAGE_ERROR, storage_errors
from airflow_reverse_etl.stores.files import StateFiles, unreachable
from airflow_reverse_etl.stores.lake.duckdb import Scratch
from airflow_reverse_etl.stores.state import MEND_PLAN
from airflow_reverse_etl.sync.load.values import with_kinds
from airflow_reverse_etl.sync.ports import Plan

if TYPE_CHECKING:
    import pyarrow as pa

#: Kinds of rows that are not sent, but that the commit needs. Each kind that a plan has is a file, too.
UNSENT_KINDS = ("skipped", "forgotten", "recorded", "invalid")

_BATCH_ROWS = 65_536


def read_changes(
    files: StateFiles,
    folder: str,
    plan: Plan,
    *,
    after: int,
    until: int,
    values: Sequence[str],
    kinds: Mapping[str, str],
) -> Iterator[pa.RecordBatch]:
    """Yield the rows numbered from ``after`` + 1 to ``until``, in the form that StateStore.changes promises.

    Reads only the row groups that hold these rows, one at a time.

    :param kinds: what the text of values stands for.
    """
    import pyarrow.parquet as pq

    for kind, numbers in plan.ranges().items():
        if not numbers or numbers.stop - 1 <= after or numbers.start > until:
            continue
        columns = ["row_key", *values]
        if kind == "removed":
            columns.append("identifiers")
        path = f"{folder}/{kind}.parquet"
        source = files.open(path)
        if source is None:
            raise plan_gone()
        with _reading(files, path), source, pq.ParquetFile(source) as parquet:
            if parquet.metadata.num_rows != len(numbers):
                raise _damaged(files, path)
            position = numbers.start - 1
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                # Count the rows of a group that was not asked for, without reading them.
                if position + rows > after and position < until:
                    for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                        for numbered in _numbered(batch, kind, position, after=after, until=until):
                            yield with_kinds(numbered, kinds)
                        position += batch.num_rows
                else:
                    position += rows


@contextlib.contextmanager
def _reading(files: StateFiles, path: str) -> Iterator[None]:
    """Tell a damaged file from a storage that does not answer.

    :raises StateError: the file is damaged.
    :raises UnreachableError: the storage did not answer.
    """
    import pyarrow as pa

    try:
        yield
    except storage_errors() as error:
        # Arrow calls a damaged page an OSError, too.
        if type(error) is OSError and error.errno is None and not STORAGE_ERROR.search(str(error)):
            raise _damaged(files, path) from None
        raise unreachable(error, files.url) from None
    except (pa.ArrowException, KeyError):
        raise _damaged(files, path) from None


def _damaged(files: StateFiles, path: str) -> StateError:
    return StateError("a file of the plan is damaged", todo=MEND_PLAN, file=files.child(path))


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


#: Columns of the change set without its values, except ``w``, the cursor.
_COLUMNS = {
    "seq": "BIGINT",
    **dict.fromkeys(("change", "row_key", "identifiers", "field_hashes"), "VARCHAR"),
    **dict.fromkeys(("key_hi", "key_lo", "row_hi", "row_lo", "fingerprint"), "BIGINT"),
}


def view(scratch: Scratch, folder: str, plan: Plan, *, unsent: Sequence[str] = UNSENT_KINDS) -> None:
    """Create the relation ``changes``: the plan's rows without their values, with ``seq`` and ``change``.

    A column that the plan does not keep is null. The relation has ``w``, the cursor, if the plan has one.

    :param unsent: kinds of rows that are not sent, and that the relation has, without ``seq``.
    """
    # An empty part first: it gives the columns and their types.
    empty = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in _COLUMNS.items())
    parts = [f"SELECT {empty} LIMIT 0"]
    existing = scratch.files.list(folder)
    numbers = {kind: f"{rows.start} + file_row_number" for kind, rows in plan.ranges().items() if rows}
    for kind in (*numbers, *unsent):
        if kind in unsent and f"{kind}.parquet" not in existing:
            continue
        scratch.view(f"file_{kind}", f"{folder}/{kind}.parquet")
        columns = scratch.columns(f"file_{kind}")
        names = [name for name in (*_COLUMNS, "w") if name in columns]
        seq = numbers.get(kind, "NULL")
        parts.append(f"SELECT {seq} AS seq, '{kind}' AS change, {', '.join(names)} FROM file_{kind}")
    rows = " UNION ALL BY NAME ".join(f"({part})" for part in parts)
    scratch.execute(f"CREATE OR REPLACE TEMP VIEW changes AS {rows}")


def plan_gone() -> RunConflictError:
    """Build the error for a plan that does not exist any more."""
    return RunConflictError(
        "the plan is gone: another run of the same sync committed or discarded it",
        todo="let only one run of a sync be active at a time; the next try plans again",
    )
