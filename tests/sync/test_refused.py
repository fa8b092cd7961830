"""A destination that refuses part of a batch: rows with an answer of their own are settled, the others halved."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from airflow_reverse_etl.errors import FailurePolicyError
from airflow_reverse_etl.spec.receipts import ACCEPTED, Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import Capabilities, usual
from airflow_reverse_etl.testing import FakeDestination
from tests.sync.world import NOT_IDEMPOTENT, World, many

BAD = "k03"


class Refusing(FakeDestination):
    """Writes the first row of a batch, and refuses the others as a whole if a bad row is one of them."""

    outcome = Outcome.REJECTED

    async def send(self, batch: Batch) -> Receipts:
        await self._limiter.acquire()
        self.batches.append(batch)
        first = batch.keys[0].partition("#")[0]
        refused = BAD in [key.partition("#")[0] for key in batch.keys[1:]]
        written: Sequence[int] = [0] if refused else range(len(batch))
        list(self._write(batch.only(at for at in written if first != BAD or at)))
        if first == BAD:
            return Receipts(exceptions={batch.keys[0]: Receipt(Outcome.REJECTED, "bad", "the row is bad")})
        if refused:
            receipt = Receipt(self.outcome, "refused", "some row is bad")
            return Receipts(receipt, {batch.keys[0]: ACCEPTED}, refused_whole=True)
        return Receipts()


@pytest.fixture
def refusing(world: World) -> World:
    world.destination = Refusing(capabilities=Capabilities(usual(8)))
    world.values = {"rate": {"batch_size": 8, "concurrency": 1}}
    return world


async def test_settled_rows_are_not_sent_again_when_the_others_are_split(refusing: World) -> None:
    report = await refusing.run(many(8))
    assert (report.accepted, report.rejected) == (7, 1)
    assert sorted(refusing.destination.rows) == [f"k{at:02}" for at in range(1, 9) if at != 3]
    assert not list(refusing.destination.table.repeated())


@pytest.mark.parametrize("on_unknown", ["resend", "fail", "accept"])
async def test_a_refusal_that_may_have_written_rows_is_split_only_if_the_sync_accepts_that(
    refusing: World, on_unknown: str
) -> None:
    assert isinstance(refusing.destination, Refusing)
    refusing.destination.outcome = Outcome.UNKNOWN
    refusing.destination.capabilities = NOT_IDEMPOTENT
    refusing.values |= {"mode": "insert", "failure": {"on_unknown": on_unknown, "max_rejected": "100%"}}
    try:
        report = await refusing.run(many(8))
    except FailurePolicyError as error:
        report = error.report  # type: ignore[assignment]
    assert report.unknown >= 6, "rows that may have been written twice, or not at all, are reported"
    sent = [len(batch) for batch in refusing.destination.batches]
    assert (sent == [8]) is (on_unknown != "resend")
