"""A group of random histories that are one sync: its model, its destination, its runs, and what each mode promises."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_reverse_etl.errors import FailurePolicyError, IncompleteLoadError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.context import RunContext, RunOptions, SourceModel
from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import CrashError, MemoryStateStore, MemoryWarehouse, RecordingObserver
from tests.stores.histories import SCHEMA, Clock, Faults, PairOfStores, People, Remote, Row, folded, history_of
from tests.stores.histories import invalid_causes as causes_of
from tests.stores.warehouses import copying_store, duckdb_place, postgres_place

#: One of each kind, of which ``make test`` runs the one in memory.
STORES = [
    "memory",
    pytest.param("lake", marks=pytest.mark.long),
    pytest.param("tables in duckdb", marks=pytest.mark.slow),
    pytest.param("tables in postgres", marks=pytest.mark.slow),
]
MAPPINGS: tuple[dict[str, Any], ...] = (
    {"email": "email", "n": "n"},
    {"email": "email", "n": "n", "id": "id"},
)
DAY = 86_400
#: Limits that no run reaches.
LENIENT = {"max_rejected": 1_000_000, "max_given_up": 1_000_000}


class Group:
    """Histories that are one sync: their model, their destination, and their runs."""

    people_type = People
    mappings = MAPPINGS

    def __init__(self, store: StateStore, seed: str, *, histories: int, mode: str, form: str) -> None:
        self.rng = random.Random(seed)
        self.ignore_case = form == "http"
        self.remote = self._new_remote(removes_first=form == "table")
        self.store = PairOfStores(store, self.remote, self.rng)
        self.people = [self.people_type(number, self.rng) for number in range(histories)]
        self.clock = self.remote.clock = Clock()
        self.warehouse = MemoryWarehouse({})
        self.values: dict[str, Any] = {
            "name": seed.replace(" ", "."),
            "mode": mode,
            "mapping": self.rng.choice(self.mappings),
            "retry": {"max_attempts": self.rng.choice((2, 1000)), "max_age": "1000d"},
            "rate": {"batch_size": self.rng.randint(1, 3), "concurrency": self.rng.randint(1, 2)},
        }
        self.runs = 0
        self.unfinished = ""
        self.refusals: tuple[type[Exception], ...] = ()  # errors that a run may end with
        self.had: dict[str, set[str]] = {}  # record → keys of the rows that have named it
        self._populate(mode)

    def _new_remote(self, *, removes_first: bool) -> Remote:
        return Remote(self.rng, ignore_case=self.ignore_case, removes_first=removes_first)

    def _populate(self, mode: str) -> None:
        """Give the destination records of others, and, if the mode needs them, some that rows of the model name."""
        names = [f"foreign@{number}" for number in range(len(self.people))]
        self.foreign = {name: {"email": name, "n": 0} for name in names}
        self.remote.records.update(self.foreign)
        if mode in ("update", "delete"):
            for number, person in product(range(len(self.people)), range(3)):
                if self.rng.random() < 0.7:
                    name = f"p{person}@{number}"
                    self.remote.records[name] = {"email": name, "n": 0}
        self.populated = dict(self.remote.records)

    @property
    def sync(self) -> Sync:
        return Sync.load(
            {
                "model": "people",
                "source": "warehouse",
                "primary_key": "id",
                "destination": {"type": "fake", "match_on": "email"},
                "guards": {"min_rows": 0, "max_removed": "100%"},
                "failure": LENIENT,
                **self.values,
            }
        )

    @property
    def rows(self) -> list[Row]:
        return [row for people in self.people for row in people.rows]

    def change_model(self, *, dirty: bool) -> None:
        for people in self.people:
            people.change(dirty=dirty)
        for row in self.rows:
            self.had.setdefault(self.name(row.email), set()).add(str(row.id))

    def name(self, email: object) -> str:
        return folded(email, ignore_case=self.ignore_case)

    async def run(self, faults: Faults, options: RunOptions = RunOptions()) -> None:  # noqa: B008 - never changed
        """Run the sync, or retry its last run, once."""
        self.clock.advance(self.rng.choice((0.4, 0.9, 2.0)) * DAY)
        self.remote.faults = faults
        self.remote.dead = False
        rows = self.rows
        self.rng.shuffle(rows)
        self.store.rows = rows
        table = pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA)
        self.warehouse.set("people", table)
        run_id = self.unfinished
        if not run_id or self.rng.random() < 0.5:
            self.runs += 1
            run_id = f"run-{self.runs}"
        self.unfinished = run_id
        context = RunContext(run_id, self.store, observer=RecordingObserver(), clock=self.clock)
        source = SourceModel("SELECT * FROM people", ("id",), self.warehouse)
        with contextlib.suppress(FailurePolicyError):
            await run_sync(self.sync, source, self.remote, context, options)
        self.unfinished = ""

    async def try_to_run(self, options: RunOptions = RunOptions()) -> None:  # noqa: B008 - never changed
        """Run the sync with some faults, which may end the run."""
        with contextlib.suppress(CrashError, IncompleteLoadError, *self.refusals):
            await self.run(Faults.some(self.rng), options)

    async def settle(self) -> None:
        """Run twice without faults."""
        self.unfinished = ""
        for _ in range(2):
            await self.run(Faults())

    # -- promises ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the destination after two runs without faults."""
        self.check_foreign()
        rows = self.rows
        causes = causes_of(rows, self.values["mode"], ignore_case=self.ignore_case)
        valid = [row for row, cause in zip(rows, causes, strict=True) if not cause and not self._is_given_up(row.email)]
        getattr(self, f"_check_{self.values['mode']}")(valid)

    def check_foreign(self) -> None:
        for name, record in self.foreign.items():
            assert self.remote.records[name] == record, "records of others are untouched"

    def _check_upsert(self, valid: list[Row]) -> None:
        for row in valid:
            assert self._held(row) == self._record(row)

    def _check_mirror(self, valid: list[Row]) -> None:
        self._check_upsert(valid)
        rows = self.rows
        causes = causes_of(rows, "mirror", ignore_case=self.ignore_case)
        claimed = {self.name(row.email) for row in rows}
        invalid_keys = {str(row.id) for row, cause in zip(rows, causes, strict=True) if cause}
        for name in self.remote.records.keys() - self.foreign.keys() - claimed:
            held = bool(self.had.get(name, set()) & invalid_keys)
            assert held or self._is_given_up(name), f"{name} has left the model"

    def _check_insert(self, valid: list[Row]) -> None:
        for row in valid:
            known = any(str(row.id) in keys for name, keys in self.had.items() if name != self.name(row.email))
            assert known or self.name(row.email) in self.remote.records

    def _check_update(self, valid: list[Row]) -> None:
        assert self.remote.records.keys() == self.populated.keys()
        for row in valid:
            if self.name(row.email) in self.populated:
                assert self._held(row) == self._record(row)

    def _check_delete(self, valid: list[Row]) -> None:
        for row in valid:
            assert self.name(row.email) not in self.remote.records
        named = set(self.had)
        assert self.populated.keys() - self.remote.records.keys() <= named

    def _check_append(self, valid: list[Row]) -> None:
        for row in valid:
            assert self.remote.inserts[self.name(row.email)] >= 2

    def _held(self, row: Row) -> Any:
        return self.remote.records.get(self.name(row.email))

    def _record(self, row: Row) -> dict[str, Any]:
        return {name: getattr(row, name) for name in self.values["mapping"]}

    def _is_given_up(self, email: Any) -> bool:
        """Return whether rows of this history may be given up."""
        return self.values["retry"]["max_attempts"] == 2 and history_of(self.name(email)) in self.remote.rejected


@contextlib.contextmanager
def opened_store(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[StateStore]:
    """Open one of ``STORES``."""
    if kind == "memory":
        yield MemoryStateStore()
    elif kind == "lake":
        yield LakeStore(str(folder), memory_limit="500MB", threads=1)
    else:
        in_postgres = kind.endswith("postgres")
        tables = copying_store(postgres_place(request.getfixturevalue("postgres")) if in_postgres else duckdb_place())
        yield tables
        tables.close()
