"""Make ``742574a.tar.xz``: state of many syncs as commit 742574a wrote it, for ``test_earlier_state.py``.

It runs only with the code of that commit, from a worktree of it, with this project's Python::

    git worktree add --detach ../742574a 742574a
    PYTHONPATH=../742574a .venv/bin/python tests/stores/state/make.py

The archive has the same syncs in three places, and the model ``customers`` in the two databases::

    folder/            a ``LakeStore``. Its syncs read the model of ``tables.duckdb``
    tables.duckdb      a ``WarehouseStore`` in the schema ``reverse_etl``, and the model
    tables.sql         the same in Postgres
    destinations.json  place → sync → ``held``, the records that the destination held at the end, and
                       ``acknowledged``, the ids of the rows of an open plan that it had acknowledged

``customers`` has the columns id, email and name. Each sync maps all of them, has the primary key id, and no
``match_on``, or ``match_on: [email]`` if its name ends with ``_by_email``:

* Its first run, ``run-1``, reads the rows 1 to 24.
* Then the model changes: 13 to 18 get another name, 19 another e-mail; 20 becomes 120, with the same e-mail and name;
  21 to 24 are removed; 25 to 36 are added.
* Its second run, ``run-2``, reads the changed model.

Some names and e-mails are special: row 1 has no name, row 2 has letters beyond ASCII, row 3 an e-mail in capitals.

======================================  =======================================================================
``upsert``, ``insert``, ``mirror``,     ``run-1`` is committed, with row 5 rejected. ``run-2`` is interrupted: see
``append``, ``update``, ``delete``,     :class:`Interrupted`. Its plan is open, and sent in part.
``upsert_by_email``,
``insert_by_email``,
``mirror_by_email``
``done_<mode>``,                        Both runs are committed, with every row accepted.
``done_<upsert|insert|mirror>_by_email``
``refused``                             Mode upsert. Both runs are committed, with the rows 6, 7 and 25 rejected in
                                        each: 6 and 7 have two attempts, 25 has one.
======================================  =======================================================================

The destinations of modes ``update`` and ``delete`` hold every row of the model, earlier and changed, before ``run-1``.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pytest
from airflow_reverse_etl.sync.receipts import Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.spec import Sync

from airflow_reverse_etl.errors import IncompleteLoadError
from airflow_reverse_etl.stores.lake import LakeStore
from airflow_reverse_etl.sync.run import run
from airflow_reverse_etl.testing import Dials, FakeDestination, FrozenClock, RecordingObserver
from airflow_reverse_etl.testing.fakes import Table
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse
from tests.stores.warehouses import Place, postgres_place, postgres_server

TARGET = Path(__file__).with_name("742574a.tar.xz")
MODES = ("upsert", "insert", "mirror", "append", "update", "delete")
BY_EMAIL = ("upsert", "insert", "mirror")
OPEN = [*MODES, *(f"{mode}_by_email" for mode in BY_EMAIL)]
DONE = [f"done_{name}" for name in OPEN]
SYNCS = [*OPEN, *DONE, "refused"]
REFUSED = ("6", "7", "25")

Row = tuple[int, str, str | None]


def model(ids: range) -> dict[int, Row]:
    """Return rows of the earlier model."""
    rows: dict[int, Row] = {at: (at, f"person{at}@example.com", f"Person {at}") for at in ids}
    special: dict[int, Row] = {
        1: (1, "person1@example.com", None),
        2: (2, "person2@example.com", "Zoë 漢字"),
        3: (3, "Person3@Example.COM", "Person 3"),
    }
    return rows | {at: row for at, row in special.items() if at in ids}


EARLIER = list(model(range(1, 25)).values())
CHANGED = [
    *model(range(1, 13)).values(),
    *((at, f"person{at}@example.com", f"Person {at}, renamed") for at in range(13, 19)),
    (19, "moved19@example.com", "Person 19"),
    (120, "person20@example.com", "Person 20"),
    *model(range(25, 37)).values(),
]


class Interrupted(FakeDestination):
    """A destination of ``run-2``, named by the first row of each batch: its sequence number in the plan.

    In the plan of a mirror, 1 to 14 are added, 15 to 21 changed and 22 to 26 removed rows; the other plans have a part
    of them, or 32 rows in mode ``append``. The destination acknowledges the batches at 1, 9, 15 and 22. It writes the
    batch at 5, but its answer is lost. It never receives the batch at 13, and no answer says so. All other batches find
    no connection, so their rows were certainly not sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged: list[int] = []

    async def send(self, batch: Batch) -> Receipts:
        first = batch.seqs[0]
        if first in (1, 9, 15, 22):
            self.acknowledged += [record["id"] for record in batch.records]
            return await super().send(batch)
        if first == 5:
            await super().send(batch)
        if first in (5, 13):
            return Receipts(Receipt(Outcome.UNKNOWN, "timeout", "no answer"))
        return Receipts(Receipt(Outcome.RETRYABLE, "not_connected", "no connection"))


def sync(name: str) -> Sync:
    plain = name.removeprefix("done_").removesuffix("_by_email")
    by_email = {"match_on": ["email"]} if name.endswith("_by_email") else {}
    return Sync.load(
        {
            "name": name,
            "model": "customers",
            "source": "warehouse",
            "primary_key": "id",
            "mode": "upsert" if name == "refused" else plain,
            "destination": {"type": "fake", **by_email},
            "mapping": {"id": "id", "email": "email", "name": "name"},
            "guards": {"min_rows": 0},
            "failure": {"max_rejected": "100%"},
            "rate": {"batch_size": 4, "concurrency": 1},
        }
    )


class StandingClock(FrozenClock):
    """A clock that stands still. Waiting takes a moment, so that few leases are renewed meanwhile."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 500)


class Maker:
    """Runs of all syncs with their state in one place and their model in a database.

    The first runs are at midnight on 2026-01-01, the second ones an hour later.
    """

    def __init__(self, store: Any, source: Place) -> None:
        self.store = store
        self.source = source
        self.clock = StandingClock()
        self.tables: dict[str, Table] = {}
        self.acknowledged: dict[str, list[int]] = {}

    async def first_runs(self) -> None:
        """Run each sync once, with the earlier model."""
        for name in SYNCS:
            table = Table()
            if sync(name).mode in ("update", "delete"):
                for at, email, person in [*CHANGED, *EARLIER]:
                    table.rows[str(at)] = {"id": at, "email": email, "name": person}
            self.tables[name] = table
            rejected = ("5",) if name in OPEN else REFUSED if name == "refused" else ()
            await self._run(name, FakeDestination(Dials(reject=rejected)), "run-1")

    async def second_runs(self) -> None:
        """Run each sync again, with the changed model."""
        self.clock.advance(3600)
        for name in SYNCS:
            if name not in OPEN:
                await self._run(name, FakeDestination(Dials(reject=REFUSED if name == "refused" else ())), "run-2")
                continue
            destination = Interrupted()
            with pytest.raises(IncompleteLoadError):
                await self._run(name, destination, "run-2")
            self.acknowledged[name] = destination.acknowledged

    async def _run(self, name: str, destination: FakeDestination, run_id: str) -> None:
        destination.table = self.tables[name]
        warehouse = self.source.open_warehouse()
        try:
            await run(
                sync(name),
                query="SELECT * FROM customers",
                primary_key=("id",),
                warehouse=warehouse,
                store=self.store,
                destination=destination,
                run_id=run_id,
                observer=RecordingObserver(),
                clock=self.clock,
            )
        finally:
            warehouse.close()

    def seen(self) -> dict[str, Any]:
        """Return what the destinations held and acknowledged."""
        return {
            name: {"held": list(table.rows.values()), "acknowledged": self.acknowledged.get(name, [])}
            for name, table in self.tables.items()
        }


def build_model(place: Place, rows: list[Row]) -> None:
    def text(value: object) -> str:
        return "NULL" if value is None else f"'{value}'" if isinstance(value, str) else str(value)

    values = ", ".join(f"({', '.join(text(value) for value in row)})" for row in rows)
    create = "CREATE TABLE IF NOT EXISTS customers (id BIGINT, email TEXT, name TEXT)"
    place.run(create, "DELETE FROM customers", f"INSERT INTO customers VALUES {values}")


def run_all(makers: list[Maker], source: Place) -> None:
    build_model(source, EARLIER)
    for maker in makers:
        asyncio.run(maker.first_runs())
    build_model(source, CHANGED)
    for maker in makers:
        asyncio.run(maker.second_runs())


def dumped(place: Place) -> str:
    """Return a Postgres database as SQL. Its tables have columns and rows only: no key, index or default."""
    tables = place.run(
        "SELECT table_schema, table_name FROM information_schema.tables"
        " WHERE table_schema IN ('public', 'reverse_etl') ORDER BY 1, 2"
    )
    statements = ["CREATE SCHEMA reverse_etl"]
    connection = place.connect()
    cursor = connection.cursor()
    for schema, table in tables:
        name = f"{schema}.{table}"
        columns = place.run(
            "SELECT column_name, data_type FROM information_schema.columns"
            f" WHERE table_schema = '{schema}' AND table_name = '{table}' ORDER BY ordinal_position"
        )
        statements.append(f"CREATE TABLE {name} ({', '.join(f'{column} {kind}' for column, kind in columns)})")
        marks = ", ".join(["%s"] * len(columns))
        rows = [cursor.mogrify(f"({marks})", row).decode() for row in place.run(f"SELECT * FROM {name}")]
        if rows:
            statements.append(f"INSERT INTO {name} VALUES\n" + ",\n".join(rows))
    connection.close()
    return ";\n".join(statements) + ";\n"


def make(folder: Path) -> None:
    """Make the content of the archive in a folder."""
    database = duckdb.connect(folder / "tables.duckdb")
    place = Place("duckdb", database.cursor, lambda: DuckDBWarehouse(database.cursor()))
    lake = Maker(LakeStore(str(folder / "folder")), place)
    tables = Maker(place.store(), place)
    run_all([lake, tables], place)
    tables.store.close()
    database.close()

    with postgres_server() as uri:
        place = postgres_place(uri)
        postgres = Maker(place.store(), place)
        run_all([postgres], place)
        postgres.store.close()
        (folder / "tables.sql").write_text(dumped(place))

    seen = {"folder": lake.seen(), "duckdb": tables.seen(), "postgres": postgres.seen()}
    (folder / "destinations.json").write_text(json.dumps(seen, indent=1))


def same_everywhere(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = 1767225600
    return entry


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        make(Path(made))
        with tarfile.open(TARGET, "w:xz") as archive:
            for path in sorted(Path(made).iterdir()):
                archive.add(path, path.name, filter=same_everywhere)
