"""Random histories of records at a destination with a second unique constraint: chains, swaps, records in the way.

The destination knows records by e-mail, and takes each handle once. It is a fake in memory or a real table.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import UNIQUE_CYCLE, Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sql.statements.unique import UniqueConstraint, rows_together
from airflow_reverse_etl.sync.ports import ConnectionInfo, Limiter, ResolvesConflicts, StateStore, usual
from airflow_reverse_etl.testing import MemoryStateStore
from tests.stores.histories import Answers, Faults, People, Remote, Row
from tests.stores.history_group import STORES, Group, opened_store
from tests.stores.warehouses import postgres_place

HANDLE = UniqueConstraint(("handle",), ("handle",), deferrable=False)


class PeopleWithHandles(People):
    """People who also take each other's handles. Their e-mails are written in one way, as a table compares them."""

    def __init__(self, number: int, rng: random.Random) -> None:
        super().__init__(number, rng)
        for _ in range(self._people):
            self._add()
        self._mend()

    def change(self, *, dirty: bool) -> None:
        super().change(dirty=dirty)
        if self._rng.random() < 0.6:
            self._rotate_handles()
        if not dirty:
            self._mend()

    def _changes(self, *, dirty: bool) -> list[Callable[[], None]]:
        return [*super()._changes(dirty=dirty), *[self._add, self._take_handle, self._rotate_handles] * 2]

    def _add(self) -> None:
        super()._add()
        if self.rows:
            self.rows[-1] = replace(self.rows[-1], handle=self._handle())

    def _take_handle(self) -> None:
        self._edit(handle=self._handle())

    def _rotate_handles(self) -> None:
        """Give some rows the handle of the next one: a chain, if the last one gets another, or else a cycle."""
        some = self._rng.sample(range(len(self.rows)), self._rng.randint(min(2, len(self.rows)), len(self.rows)))
        if some:
            handles = [self.rows[at].handle for at in some]
            handles.append(self._rng.choice((handles[0], self._handle())))
            for at, handle in zip(some, handles[1:], strict=True):
                self.rows[at] = replace(self.rows[at], handle=handle, at=self._step)

    def _mend(self) -> None:
        super()._mend()
        taken: set[str | None] = set()
        for at, row in enumerate(self.rows):
            if row.handle in taken:
                self.rows[at] = replace(row, handle=None)
            taken.add(row.handle)

    def _handle(self) -> str | None:
        return self._rng.choice((None, *(f"h{at}@{self._number}" for at in range(self._people + 2))))

    def _spelled(self, email: str) -> str:
        return email


class UniqueRemote(Remote):
    """Destination in memory that takes each handle once."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, ignore_case=False, removes_first=True)

    def fill(self, mode: str, fields: Sequence[str]) -> None:
        """Take over ``records`` as what the destination has."""

    async def _write(self, operation: Operation, plan: Answers, seq: int, record: Mapping[str, Any]) -> Receipt:
        if operation is not Operation.DELETE and any(self._holders(record)):
            return Receipt(Outcome.CONFLICT, "handle", "another record has it")
        return await super()._write(operation, plan, seq, record)

    def _holders(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Yield the names of other records with the handle of this one."""
        for name, held in self.records.items():
            if record["handle"] and held.get("handle") == record["handle"] and name != self.name(record):
                yield name

    async def resolve(self, batch: Batch) -> Receipts:
        plan = self.plans[batch.plan_id]
        waiting = {self.name(record): at for at, record in enumerate(batch.records)}

        def in_the_way(row: int) -> Iterator[tuple[UniqueConstraint, int | None]]:
            for name in self._holders(batch.records[row]):
                yield HANDLE, waiting.get(name)

        exceptions = {}
        for name, row in list(waiting.items()):
            if name not in waiting:  # written with another one
                continue
            together = rows_together(row, in_the_way)
            rows = together[0] if together else []
            handles = [batch.records[at]["handle"] for at in rows]
            if len(set(handles)) < len(handles):
                exceptions[batch.keys[row]] = Receipt(Outcome.REJECTED, UNIQUE_CYCLE, "handle")
                continue
            if not rows:
                exceptions[batch.keys[row]] = Receipt(Outcome.CONFLICT, "handle", "another record has it")
            for at in rows:
                self.records[self.name(batch.records[at])] = dict(batch.records[at])
                del waiting[self.name(batch.records[at])]
                plan.taken.add(batch.seqs[at])
        return self._recorded(batch, Receipts(exceptions=exceptions))

    def _recorded(self, batch: Batch, receipts: Receipts) -> Receipts:
        """Record the answers to a batch."""
        plan = self.plans[batch.plan_id]
        if not receipts.refused_whole:
            for seq, key in zip(batch.seqs, batch.keys, strict=True):
                plan.answers[seq] = receipts.of(key).outcome
        plan.taken.update(seq for seq in batch.seqs if plan.answers.get(seq) is Outcome.ACCEPTED)
        return receipts


class TableRemote(UniqueRemote):
    """Table with a unique handle, written by destination type ``table``. With faults, row by row."""

    def __init__(self, rng: random.Random, dialect: str, connect: Callable[[], Any]) -> None:
        super().__init__(rng)
        self._dialect = dialect
        self._connect = connect
        self._run(
            "create table people (email varchar(99) not null unique, n integer, handle varchar(99) unique,"
            " id varchar(99))"
        )

    def fill(self, mode: str, fields: Sequence[str]) -> None:
        sync = Sync.load(
            {
                "name": "people",
                "model": "people",
                "source": "warehouse",
                "mode": mode,
                "mapping": {name: name for name in fields},
                "destination": {"type": "table", "connection": "db", "object": "people", "match_on": "email"},
            }
        )
        self._table = create(sync, connection=ConnectionInfo("db", self._dialect), connect=self._connect)
        self.capabilities = replace(self._table.capabilities, operations=usual(3))
        for record in self.records.values():
            handle = f"'{record['handle']}'" if record.get("handle") else "null"
            self._run(f"insert into people (email, n, handle) values ('{record['email']}', {record['n']}, {handle})")

    def _run(self, sql: str) -> list[Any]:
        connection = self._connect()
        try:
            cursor = connection.cursor()
            cursor.execute(sql)
            rows = cursor.fetchall() if sql.startswith("select") else []
            connection.commit()
        finally:
            connection.close()
        return rows

    def _read(self) -> None:
        rows = self._run("select email, n, handle, id from people")
        self.records = {row[0]: dict(zip(("email", "n", "handle", "id"), row, strict=True)) for row in rows}

    async def open(self, limiter: Limiter) -> None:
        await super().open(limiter)
        await self._table.open(limiter)

    async def close(self) -> None:
        await self._table.close()

    async def send(self, batch: Batch) -> Receipts:
        if self.faults != Faults():
            return await super().send(batch)
        plan = self.plans[batch.plan_id]
        if batch.operation is Operation.DELETE and plan.mode == "mirror":
            for key, record in zip(batch.keys, batch.records, strict=True):
                self._check_deletion(plan, key, self.name(record))
        receipts = await self._table.send(batch)
        self._read()
        return self._recorded(batch, receipts)

    async def _write(self, operation: Operation, plan: Answers, seq: int, record: Mapping[str, Any]) -> Receipt:
        receipts = await self._table.send(Batch(operation, [seq], ["row"], [record]))
        self._read()
        receipt = receipts.of("row")
        if receipt.outcome is Outcome.ACCEPTED:
            plan.taken.add(seq)
        return receipt

    async def resolve(self, batch: Batch) -> Receipts:
        assert isinstance(self._table, ResolvesConflicts)
        receipts = await self._table.resolve(batch)
        self._read()
        return self._recorded(batch, receipts)


class UniqueGroup(Group):
    """Histories whose records have a unique handle."""

    people_type = PeopleWithHandles
    mappings = (
        {"email": "email", "n": "n", "handle": "handle"},
        {"email": "email", "n": "n", "handle": "handle", "id": "id"},
    )

    def __init__(self, store: StateStore, seed: str, *, remote: Callable[[random.Random], UniqueRemote], **more: Any):
        self._make_remote = remote
        super().__init__(store, seed, form="table", **more)
        self.values["retry"] = {"max_attempts": 1000, "max_age": "1000d"}

    def _new_remote(self, *, removes_first: bool) -> Remote:
        assert removes_first
        return self._make_remote(self.rng)

    def _populate(self, mode: str) -> None:
        super()._populate(mode)
        for number, record in enumerate(self.foreign.values()):
            if self.rng.random() < 0.5:
                record["handle"] = f"h0@{number}"
        assert isinstance(self.remote, UniqueRemote)
        self.remote.fill(mode, list(self.values["mapping"]))

    def check_foreign(self) -> None:
        for name, record in self.foreign.items():
            assert filled(self.remote.records[name]) == record, "records of others are untouched"

    def _check_upsert(self, valid: list[Row]) -> None:
        super()._check_upsert(self._free(valid))

    def _check_update(self, valid: list[Row]) -> None:
        super()._check_update(self._free(valid))

    def _held(self, row: Row) -> Any:
        return filled(super()._held(row) or {})

    def _record(self, row: Row) -> dict[str, Any]:
        return filled(super()._record(row))

    def _free(self, valid: list[Row]) -> list[Row]:
        """Return the rows that get their handle: no record that keeps it is in the way."""
        rows = {self.name(row.email): row for row in valid}
        holders = {record["handle"]: name for name, record in self.remote.records.items() if record.get("handle")}
        return [row for row in valid if not self._is_blocked(row, rows, holders)]

    def _is_blocked(self, row: Row, rows: Mapping[str, Row], holders: Mapping[str | None, str]) -> bool:
        passed = set()
        while True:
            name = self.name(row.email)
            holder = holders.get(row.handle, name)
            if holder == name or holder in passed:  # rows that only wait for each other must be written
                return False
            if holder not in rows or rows[holder].handle == row.handle:
                return True
            passed.add(holder)
            row = rows[holder]


def filled(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without its nulls."""
    return {name: value for name, value in record.items() if value is not None}


MODES = ("mirror", "upsert", "update")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    with opened_store(request.param, request, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("mode", MODES)
async def test_two_runs_without_faults_keep_the_promises_of_the_mode(store: StateStore, mode: str) -> None:
    await keep_promises(store, f"unique {mode}", UniqueRemote, histories=22, mode=mode, rounds=1)


@pytest.fixture(params=["sqlite", "postgres"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[random.Random], TableRemote]:
    def connect() -> Any:
        return sqlite3.connect(tmp_path / "people.db")

    if request.param == "postgres":
        connect = postgres_place(request.getfixturevalue("postgres")).connect
    return lambda rng: TableRemote(rng, request.param, connect)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
async def test_they_do_with_a_real_table(table: Callable[[random.Random], TableRemote], mode: str) -> None:
    await keep_promises(MemoryStateStore(), f"table {mode}", table, histories=12, mode=mode, rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(8))
async def test_they_do_in_long_histories(store: StateStore, seed: int, mode: str) -> None:
    seed_text = f"unique {mode} {seed}"
    await keep_promises(store, seed_text, UniqueRemote, histories=1 + seed, mode=mode, rounds=3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(8))
async def test_they_do_in_long_histories_with_a_real_table(
    table: Callable[[random.Random], TableRemote], seed: int, mode: str
) -> None:
    seed_text = f"table {mode} {seed}"
    await keep_promises(MemoryStateStore(), seed_text, table, histories=1 + seed, mode=mode, rounds=3)


async def keep_promises(
    store: StateStore,
    seed: str,
    remote: Callable[[random.Random], UniqueRemote],
    *,
    histories: int,
    mode: str,
    rounds: int,
) -> None:
    """Run a group of histories, and check the destination several times."""
    group = UniqueGroup(store, seed, histories=histories, mode=mode, remote=remote)
    for _ in range(rounds):
        for _ in range(group.rng.randint(2, 4)):
            group.change_model(dirty=group.rng.random() < 0.5)
            await group.try_to_run()
        group.change_model(dirty=group.rng.random() < 0.3)
        await group.settle()
        group.check()
