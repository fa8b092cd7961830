"""Batches of a change set: each has one operation, and is limited in rows and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from airflow_reverse_etl.spec.model import Sync, TemplateField
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt
from airflow_reverse_etl.spec.report import CAUSES
from airflow_reverse_etl.sync.fields.conversion import Converter
from airflow_reverse_etl.sync.load.records import Record, RecordBuilder, identifiers, null_rules, only_changed, unnamed
from airflow_reverse_etl.sync.ports import Capabilities, JobTerms, ObjectSchema

if TYPE_CHECKING:
    import pyarrow as pa

#: Most rows and Arrow bytes that become Python objects at a time.
_SLICE_ROWS = 8_192
_SLICE_BYTES = 8 * 1024 * 1024

_NO_IDENTIFIER = Receipt(Outcome.REJECTED, "no_identifier", CAUSES["no_identifier"])


class Batcher:
    """Cuts the change set of one sync into batches.

    :param jobs: operations whose rows are sent in jobs, which have limits of their own.
    """

    def __init__(
        self,
        sync: Sync,
        capabilities: Capabilities,
        *,
        run_id: str,
        plan_id: str,
        jobs: Mapping[Operation, JobTerms] | None = None,
    ) -> None:
        self._jobs = jobs or {}
        self._operations = OPERATIONS[sync.mode]
        self._sync = sync
        self._capabilities = capabilities
        self._builder = RecordBuilder(sync, capabilities.nulls, parse_json=capabilities.json)
        self._converter: Converter | None = None
        self._run_id = run_id
        self._plan_id = plan_id
        self._keys_repeat = sync.mode == "append"
        self._match_on = sync.destination.match_on
        # The plan has checked the other fields of match_on.
        self._always_sent = frozenset(self._match_on) | (capabilities.always_sent or frozenset())
        self._templated = [name for name in self._match_on if isinstance(sync.mapping[name], TemplateField)]

    def convert(self, schema: ObjectSchema) -> None:
        """From now on, convert values to the types of the destination's fields."""
        self._converter = Converter(self._sync, schema, null_rules(self._sync, self._capabilities.nulls))
        self._always_sent |= {field.name for field in schema.fields if field.required}

    def cut(self, changes: pa.RecordBatch, settled: RangeSet) -> Iterator[tuple[Batch, dict[int, Receipt]]]:
        """Yield the rows that are not settled yet in batches, in order.

        Each batch comes with the receipts (sequence number → receipt) of its rows whose record could not be built.
        These rows are not in the batch, and are not sent.
        """
        import pyarrow.compute as pc

        if changes.num_rows == 0:
            return
        seqs = changes.column("seq")
        if done := RangeSet(range(seqs[0].as_py(), seqs[-1].as_py() + 1)) & settled:
            changes = changes.filter(pc.invert(done.mask(seqs)))
        for change, part in _parts(changes):
            yield from self._batches(change, part)

    def _batches(self, change: str, part: pa.RecordBatch) -> Iterator[tuple[Batch, dict[int, Receipt]]]:
        operation = self._operations[change]
        removed = change == "removed"
        # The bytes of the Arrow data are an estimate; the destination measures what it sends.
        row_bytes = max(1, part.nbytes // part.num_rows)
        if terms := self._jobs.get(operation):
            size = terms.max_rows
            most = terms.max_bytes
        else:
            size = self._capabilities.batch_rows(self._sync, operation)
            most = self._capabilities.operations[operation].max_bytes
        if most:
            size = max(1, min(size, most // row_bytes))
        step = max(size, min(_SLICE_ROWS, _SLICE_BYTES // row_bytes) // size * size)
        for start in range(0, part.num_rows, step):
            rows = part.slice(start, step)
            records, failures = self._records(rows, change)
            keys = rows.column("key").to_pylist()
            seqs = _range(rows.column("seq"))
            # Receipts are matched by key, so make the keys unique: two records that are removed may have had one row.
            if self._keys_repeat or (removed and len(set(keys)) < len(keys)):
                keys = [f"{key}#{seq}" for key, seq in zip(keys, seqs, strict=True)]
            for first in range(0, len(keys), size):
                last = first + size
                batch = Batch(
                    operation, seqs[first:last], keys[first:last], records[first:last], self._run_id, self._plan_id
                )
                failed = {}
                if failures:
                    failed = {at - first: failures[at] for at in failures if first <= at < last}
                if not failed:
                    yield batch, {}
                    continue
                receipts = {batch.seqs[at]: failed[at] for at in failed}
                yield batch.only(at for at in range(len(batch)) if at not in failed), receipts

    def _records(self, rows: pa.RecordBatch, change: str) -> tuple[list[Record], dict[int, Receipt]]:
        """Build the records, and the receipts of rows that must not be sent, by position."""
        if change == "removed":
            records = identifiers(rows)
            return records, dict.fromkeys(unnamed(records, self._match_on, stored=True), _NO_IDENTIFIER)
        records, failures = self._builder.build(rows, change)
        receipts = {at: Receipt(Outcome.REJECTED, *failure) for at, failure in failures.items()}
        if self._converter:
            for at, text in self._converter.convert(records):
                receipts.setdefault(at, Receipt(Outcome.REJECTED, "wrong_value", text))
        if self._sync.sends_changed and change == "changed":
            records = list(only_changed(self._sync, rows, records, always=self._always_sent))
        if self._templated:
            for at in unnamed(records, self._templated):
                receipts.setdefault(at, _NO_IDENTIFIER)
        return records, receipts


def _range(column: pa.Array) -> range | list[int]:
    """Return sequence numbers, as a range if they are contiguous: only after a resume they are not."""
    first = column[0].as_py()
    last = column[-1].as_py()
    if last - first + 1 == len(column):
        return range(first, last + 1)
    numbers: list[int] = column.to_pylist()
    return numbers


def _parts(changes: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Split a batch by kind of change; each kind is a contiguous range."""
    import pyarrow.compute as pc

    start = 0
    while start < changes.num_rows:
        kind = changes.column("change")[start].as_py()
        count = pc.sum(pc.equal(changes.column("change"), kind)).as_py()
        yield kind, changes.slice(start, count)
        start += count
