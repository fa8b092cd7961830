"""Conformance suite for destinations, as a pytest class to subclass. See ``docs/how-to/write-a-destination.md``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Protocol, TypeVar

import pytest

from airflow_reverse_etl.errors import CredentialsError, UnreachableError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome
from airflow_reverse_etl.sync.ports import Destination, ReplacesObject, ResolvesConflicts
from airflow_reverse_etl.testing.fakes import CountingLimiter

T = TypeVar("T")

#: Text that breaks wrong quoting, escaping or encoding.
STRANGE_TEXT = 'Zoë O\'Neil "Zed"; -- =1+1, {{ x }} %s \\ \n\t 漢字 🚀'


class Remote(Protocol):
    """Remote side of the destination under test: a fake service, a database, a folder.

    A remote may have further methods, its powers:

    * ``bad()``: return a record that the remote refuses;
    * ``throttle(times, seconds)``: answer the next ``times`` requests with the demand to wait ``seconds``;
    * ``lose_answer()``: carry out the next request, and do not answer it;
    * ``make_unique()``: from now on, refuse a row whose name another record has; called before anything is stored;
    * ``revoke()``: refuse the credentials from now on;
    * ``async stop()``: become unreachable.
    """

    def create(self, mode: str) -> Destination:
        """Create an unopened destination.

        :param mode: mode of its sync, which has the fields ``id`` and ``name``, and is matched on ``id``; or on the
            field in ``identifier`` of the test class, in place of ``id``.
        """

    async def stored(self) -> Mapping[str, str | None]:
        """Return the rows that the remote holds now: id → name."""


def needs(what: object) -> Callable[[T], T]:
    """Mark a test as one that needs an operation of the destination, or a power of what it is run with."""

    def mark(test: T) -> T:
        test.needs = what  # type: ignore[attr-defined]
        return test

    return mark


class DestinationConformance:
    """Suite to subclass: name the subclass ``Test…``, and give it a fixture ``remote``. Needs pytest-asyncio.

    Every test sends batches to the destination, as the engine does, and checks the receipts and the rows that the
    remote holds afterwards.

    A test that needs a power of the remote is skipped if the remote does not have it.

    :cvar operations: operations that the destination supports. Tests of others are skipped.
    :cvar identifier: field on which records are matched.
    :cvar reports_conflicts: the destination answers ``conflict`` if another record has a unique value of a row. The
        remote then needs ``make_unique()``.
    :cvar replaces: the destination can replace its whole content (mode ``replace``).
    :cvar strict: fail instead, if the remote does not have a power that is not in ``impossible``.
    :cvar impossible: powers that no remote of this kind can have → why.
    """

    operations: ClassVar[frozenset[Operation]] = frozenset(Operation)
    identifier: ClassVar[str] = "id"
    reports_conflicts: ClassVar[bool] = False
    replaces: ClassVar[bool] = False
    strict: ClassVar[bool] = False
    impossible: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def remote(self) -> Remote:
        raise NotImplementedError("give the test class a fixture 'remote'")

    @pytest.fixture(autouse=True)
    def _needed(self, request: pytest.FixtureRequest, remote: Remote) -> None:
        """Skip a test, or fail it, if what it needs is missing."""
        needed = getattr(request.function, "needs", None)
        if isinstance(needed, Operation):
            if needed not in self.operations:
                pytest.skip(f"the destination does not {needed}")
        elif needed == "replaces" and not self.replaces:
            pytest.skip("the destination does not replace its whole content")
        elif needed == "replaces":
            pass
        elif needed == "make_unique" and not self.reports_conflicts:
            pytest.skip("the destination does not report conflicts")
        elif needed and needed in self.impossible:
            pytest.skip(self.impossible[needed])
        elif needed and not hasattr(remote, needed):
            if self.strict:
                pytest.fail(f"the remote has no method {needed!r}: write it, or say in `impossible` why it cannot be")
            pytest.skip(f"the remote has no method {needed!r}")

    @pytest.fixture
    async def opened(self, remote: Remote) -> Any:
        """Open destinations, with ``await opened("upsert")``, and close them at the end."""
        async with AsyncExitStack() as stack:

            async def make(mode: str, limiter: CountingLimiter | None = None) -> Destination:
                destination = remote.create(mode)
                await destination.open(limiter or CountingLimiter())
                stack.push_async_callback(destination.close)
                return destination

            yield make

    def record(self, key: str, name: str | None = "Ada") -> dict[str, Any]:
        """Build a record. Override it if the destination expects another shape."""
        return {self.identifier: key, "name": name}

    def batch(self, operation: Operation, names: Mapping[str, str | None], *, first: int = 1) -> Batch:
        """Build a batch of the rows ``id → name``."""
        keys = list(names)
        records = [
            {self.identifier: key} if operation is Operation.DELETE else self.record(key, names[key]) for key in keys
        ]
        return Batch(operation, range(first, first + len(keys)), keys, records, "run-1")

    async def test_every_row_of_an_upsert_is_accepted_and_stored(self, remote: Any, opened: Any) -> None:
        destination = await opened("upsert")
        most = destination.capabilities.operations[Operation.UPSERT].max_rows
        names = {str(number): f"name {number}" for number in range(min(7, most))}
        receipts = await destination.send(self.batch(Operation.UPSERT, names))
        assert all(receipts.of(key).outcome is Outcome.ACCEPTED for key in names)
        assert await remote.stored() == names

    async def test_an_idempotent_batch_sent_twice_has_the_result_of_once(self, remote: Any, opened: Any) -> None:
        destination = await opened("upsert")
        assert destination.capabilities.idempotent(Operation.UPSERT)
        for _ in range(2):
            receipts = await destination.send(self.batch(Operation.UPSERT, {"1": "Ada"}))
            assert receipts.of("1").outcome is Outcome.ACCEPTED
        assert await remote.stored() == {"1": "Ada"}

    async def test_a_second_upsert_replaces_the_values(self, remote: Any, opened: Any) -> None:
        destination = await opened("upsert")
        await destination.send(self.batch(Operation.UPSERT, {"1": "Ada"}))
        await destination.send(self.batch(Operation.UPSERT, {"1": "Grace"}, first=2))
        assert await remote.stored() == {"1": "Grace"}

    async def test_null_is_stored_as_null(self, remote: Any, opened: Any) -> None:
        destination = await opened("upsert")
        await destination.send(self.batch(Operation.UPSERT, {"1": None}))
        assert await remote.stored() == {"1": None}

    async def test_text_arrives_unchanged(self, remote: Any, opened: Any) -> None:
        destination = await opened("upsert")
        receipts = await destination.send(self.batch(Operation.UPSERT, {"1": STRANGE_TEXT}))
        assert receipts.of("1").outcome is Outcome.ACCEPTED
        assert await remote.stored() == {"1": STRANGE_TEXT}

    @needs(Operation.INSERT)
    async def test_insert_stores_new_rows(self, remote: Any, opened: Any) -> None:
        destination = await opened("insert")
        receipts = await destination.send(self.batch(Operation.INSERT, {"1": "Ada"}))
        assert receipts.of("1").outcome is Outcome.ACCEPTED
        assert await remote.stored() == {"1": "Ada"}

    @needs(Operation.UPDATE)
    async def test_an_update_changes_known_rows_and_skips_unknown_ones(self, remote: Any, opened: Any) -> None:
        await (await opened("upsert")).send(self.batch(Operation.UPSERT, {"1": "Ada"}))
        destination = await opened("update")
        outcomes = {}
        for key in ("1", "2"):
            receipts = await destination.send(self.batch(Operation.UPDATE, {key: "Grace"}))
            outcomes[key] = receipts.of(key).outcome
        assert outcomes == {"1": Outcome.ACCEPTED, "2": Outcome.SKIPPED}
        assert await remote.stored() == {"1": "Grace"}

    @needs(Operation.DELETE)
    async def test_a_delete_removes_rows_and_may_be_repeated(self, remote: Any, opened: Any) -> None:
        destination = await opened("mirror")
        for key in ("1", "2"):
            await destination.send(self.batch(Operation.UPSERT, {key: "Ada"}))
        for _ in range(2):
            receipts = await destination.send(self.batch(Operation.DELETE, {"1": None}, first=3))
            assert receipts.of("1").outcome is Outcome.ACCEPTED
        assert await remote.stored() == {"2": "Ada"}

    async def test_batches_may_be_sent_at_the_same_time(self, remote: Any, opened: Any) -> None:
        destination = await opened("upsert")
        pending = {number: self.batch(Operation.UPSERT, {str(number): "Ada"}, first=number) for number in range(1, 9)}
        while pending:  # a database may ask for some batches again
            answers = await asyncio.gather(*map(destination.send, pending.values()))
            outcomes = {
                number: receipts.of(str(number)).outcome for number, receipts in zip(pending, answers, strict=True)
            }
            assert set(outcomes.values()) <= {Outcome.ACCEPTED, Outcome.RETRYABLE}
            assert Outcome.ACCEPTED in outcomes.values()
            pending = {number: pending[number] for number in pending if outcomes[number] is Outcome.RETRYABLE}
        assert await remote.stored() == {str(number): "Ada" for number in range(1, 9)}

    async def test_the_limiter_is_asked_for_every_request(self, opened: Any) -> None:
        limiter = CountingLimiter()
        destination = await opened("upsert", limiter)
        receipts = await destination.send(self.batch(Operation.UPSERT, {"1": "Ada"}))
        assert receipts.requests == limiter.count > 0

    @needs("bad")
    async def test_a_bad_row_is_found_and_holds_back_no_other(self, remote: Any, opened: Any) -> None:
        bad = remote.bad()
        destination = await opened("upsert")
        batch = Batch(
            Operation.UPSERT, [1, 2, 3], ["1", "bad", "3"], [self.record("1"), bad, self.record("3")], "run-1"
        )
        found = dict(await _settle(destination, batch))
        assert {key: receipt.outcome for key, receipt in found.items()} == {
            "1": Outcome.ACCEPTED,
            "bad": Outcome.REJECTED,
            "3": Outcome.ACCEPTED,
        }
        assert found["bad"].code
        assert await remote.stored() == {"1": "Ada", "3": "Ada"}

    @needs("bad")
    async def test_a_refused_batch_has_written_nothing(self, remote: Any, opened: Any) -> None:
        bad = remote.bad()
        destination = await opened("upsert")
        if destination.capabilities.operations[Operation.UPSERT].max_rows == 1:
            pytest.skip("the destination sends single rows")
        batch = Batch(Operation.UPSERT, [1, 2], ["1", "bad"], [self.record("1"), bad], "run-1")
        receipts = await destination.send(batch)
        assert bool(await remote.stored()) is not receipts.refused_whole

    @needs("bad")
    async def test_messages_have_no_values(self, remote: Any, opened: Any) -> None:
        bad = remote.bad()
        destination = await opened("upsert")
        receipts = await destination.send(Batch(Operation.UPSERT, [1], ["bad"], [bad], "run-1"))
        receipt = receipts.of("bad")
        values = [str(value) for value in bad.values() if value is not None and len(str(value)) > 2]
        assert not any(value in receipt.code + receipt.message for value in values)
        assert len(receipt.message) <= 500

    @needs("make_unique")
    async def test_a_unique_value_of_another_record_is_a_conflict(self, remote: Any, opened: Any) -> None:
        remote.make_unique()
        destination = await opened("upsert")
        for number, name in enumerate(("Ada", "Grace"), 1):
            await destination.send(self.batch(Operation.UPSERT, {str(number): name}, first=number))
        wanted = self.batch(Operation.UPSERT, {"2": "Ada"}, first=3)
        receipt = (await destination.send(wanted)).of("2")
        assert receipt.outcome is Outcome.CONFLICT
        assert "Ada" not in receipt.code + receipt.message
        assert await remote.stored() == {"1": "Ada", "2": "Grace"}
        await destination.send(self.batch(Operation.UPSERT, {"1": "Edith"}, first=4))
        assert (await destination.send(wanted)).of("2").outcome is Outcome.ACCEPTED
        assert await remote.stored() == {"1": "Edith", "2": "Ada"}

    @needs("make_unique")
    async def test_rows_that_take_each_others_values_are_written_together(self, remote: Any, opened: Any) -> None:
        remote.make_unique()
        destination = await opened("upsert")
        if not isinstance(destination, ResolvesConflicts):
            pytest.skip("the destination does not write rows together")
        for number, name in enumerate(("Ada", "Grace", "Edith"), 1):
            await destination.send(self.batch(Operation.UPSERT, {str(number): name}, first=number))
        swapped = {"1": "Grace", "2": "Ada", "4": "Edith"}
        receipts = await destination.resolve(self.batch(Operation.UPSERT, swapped, first=4))
        assert {key: receipts.of(key).outcome for key in swapped} == {
            "1": Outcome.ACCEPTED,
            "2": Outcome.ACCEPTED,
            "4": Outcome.CONFLICT,
        }
        assert await remote.stored() == {"1": "Grace", "2": "Ada", "3": "Edith"}

    @needs("replaces")
    async def test_a_new_content_is_shown_at_once(self, remote: Any, opened: Any) -> None:
        destination = await opened("replace")
        assert isinstance(destination, ReplacesObject)
        for rows in ({"1": "Ada", "2": "Grace"}, {"2": "Edith", "3": STRANGE_TEXT, "4": None}, {}):
            before = await remote.stored()
            await destination.begin()
            for first, (key, name) in enumerate(rows.items(), 1):
                receipts = await destination.send(self.batch(Operation.INSERT, {key: name}, first=first))
                assert receipts.of(key).outcome is Outcome.ACCEPTED
                assert await remote.stored() == before
            await destination.finish()
            assert await remote.stored() == rows

    @needs("replaces")
    async def test_a_new_content_that_is_not_finished_changes_nothing(self, remote: Any, opened: Any) -> None:
        destination = await opened("replace")
        await destination.begin()
        await destination.send(self.batch(Operation.INSERT, {"1": "Ada"}))
        await destination.finish()
        for closes in (True, False):  # a load that failed, and one that was killed
            other = await opened("replace")
            await other.begin()
            await other.send(self.batch(Operation.INSERT, {"2": "Grace"}))
            if closes:
                await other.close()
            assert await remote.stored() == {"1": "Ada"}
        last = await opened("replace")
        await last.begin()
        await last.send(self.batch(Operation.INSERT, {"3": "Edith"}))
        await last.finish()
        assert await remote.stored() == {"3": "Edith"}

    @needs("throttle")
    async def test_a_throttled_batch_is_retryable_and_says_when(self, remote: Any, opened: Any) -> None:
        remote.throttle(1, 3)
        destination = await opened("upsert")
        batch = self.batch(Operation.UPSERT, {"1": "Ada"})
        receipts = await destination.send(batch)
        assert (receipts.of("1").outcome, receipts.retry_after) == (Outcome.RETRYABLE, 3)
        assert await remote.stored() == {}
        assert (await destination.send(batch)).of("1").outcome is Outcome.ACCEPTED

    @needs("lose_answer")
    async def test_a_lost_answer_is_unknown(self, remote: Any, opened: Any) -> None:
        remote.lose_answer()
        destination = await opened("upsert")
        batch = self.batch(Operation.UPSERT, {"1": "Ada"})
        assert (await destination.send(batch)).of("1").outcome is Outcome.UNKNOWN
        assert (await destination.send(batch)).of("1").outcome is Outcome.ACCEPTED
        assert await remote.stored() == {"1": "Ada"}

    @needs("revoke")
    async def test_refused_credentials_stop_the_load(self, remote: Any, opened: Any) -> None:
        remote.revoke()
        with pytest.raises(CredentialsError) as caught:
            await (await opened("upsert")).send(self.batch(Operation.UPSERT, {"1": "Ada Lovelace"}))
        assert "Ada Lovelace" not in str(caught.value)
        assert caught.value.todo

    @needs("stop")
    async def test_a_remote_out_of_reach_leaves_rows_retryable(self, remote: Any, opened: Any) -> None:
        await remote.stop()
        try:
            destination = await opened("upsert")
        except UnreachableError:
            return
        receipts = await destination.send(self.batch(Operation.UPSERT, {"1": "Ada"}))
        assert receipts.of("1").outcome is Outcome.RETRYABLE

    async def test_closing_twice_is_harmless(self, opened: Any) -> None:
        destination = await opened("upsert")
        await destination.close()
        await destination.close()


async def _settle(destination: Destination, batch: Batch) -> list[tuple[str, Any]]:
    """Send a batch as the engine does: split it if it is refused as a whole."""
    receipts = await destination.send(batch)
    if receipts.refused_whole and len(batch) > 1:
        middle = len(batch) // 2
        first = await _settle(destination, batch.only(range(middle)))
        return first + await _settle(destination, batch.only(range(middle, len(batch))))
    return [(key, receipts.of(key)) for key in batch.keys]
