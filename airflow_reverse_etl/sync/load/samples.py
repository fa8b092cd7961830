"""The first rows of a plan as they would be sent, for a person who looks at them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Batch, Receipt
from airflow_reverse_etl.sync.load.batches import Batcher

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.sync.ports import Destination, ObjectSchema, Plan, StateStore


def first_batches(
    sync: Sync, plan: Plan, store: StateStore, destination: Destination, *, schema: ObjectSchema | None, count: int
) -> Iterator[tuple[str, Batch, Mapping[int, Receipt]]]:
    """Yield the first batch of each kind of change that the plan sends, as a load would cut it.

    :param schema: the fields of the destination's object, if it describes them.
    :param count: most rows of a batch.
    :returns: the kind of change, the batch, and receipts of its rows whose record could not be built.
    """
    batcher = Batcher(sync, destination.capabilities, run_id=plan.run_id, plan_id=plan.plan_id)
    if schema:
        batcher.convert(schema)
    for kind, rows in plan.ranges().items():
        if not rows:
            continue
        after = rows.start - 1
        with contextlib.closing(store.changes(plan, after=after, until=after + min(len(rows), count))) as changes:
            found = next((cut for part in changes for cut in batcher.cut(part, RangeSet())), None)
        if found:
            yield kind, *found
