"""State of an earlier version is read: ``state/742574a.tar.xz``, in a folder, in DuckDB and in Postgres.

``state/make.py`` has made it, and says which syncs and rows it has.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.testing import FrozenClock
from tests.stores.warehouses import Place, duckdb_place, postgres_place
from tests.sync.world import World

ARCHIVE = Path(__file__).parent / "state" / "742574a.tar.xz"

#: Ids of the rows of ``customers`` now, and of those that differ from what the first run of an open plan delivered.
ALL = {*range(1, 20), 120, *range(25, 37)}
CHANGED = {*range(13, 20)}
ADDED = {5, 120, *range(25, 37)}  # row 5 was rejected
REMOVED = {*range(20, 25)}

#: Mode → ids of the rows of an open plan.
PLANNED = {
    "upsert": CHANGED | ADDED,
    "insert": ADDED,
    "mirror": CHANGED | ADDED | REMOVED,
    "append": ALL,
    "update": CHANGED | ADDED,
    "delete": ADDED,
}
#: Mode → number of rows of the open plan whose answer was lost, where sending them twice is not safe.
ANSWER_LOST = {"insert": 6, "append": 8}

TRACKED = [mode for mode in PLANNED if mode != "append"]
BY_EMAIL = ["upsert", "insert", "mirror"]


@dataclass
class EarlierWorld(World):
    """A world of one sync, whose state and destination are as the earlier version left them.

    :param acknowledged: ids of the rows of the open plan that the destination has acknowledged.
    """

    acknowledged: set[int] = field(default_factory=set)

    def build(self, model: list[dict[str, Any]] | None) -> None:
        """Do nothing, as the earlier version left the model as well."""

    def sent_ids(self) -> list[int]:
        """Return the ids of all records sent since the last call, sorted."""
        ids = sorted(record["id"] for batch in self.destination.batches for record in batch.records)
        self.destination.batches.clear()
        return ids


@dataclass
class Earlier:
    """What the earlier version left in one place.

    :param place: the database of the model.
    :param warehouse: reads from it.
    :param seen: sync → what its destination held and acknowledged.
    """

    place: Place
    warehouse: Any
    store: StateStore
    seen: dict[str, Any]

    def world(self, sync: str, mode: str, **values: Any) -> EarlierWorld:
        destination = {"type": "fake"} | ({"match_on": "email"} if sync.endswith("_by_email") else {})
        world = EarlierWorld(
            clock=FrozenClock(datetime(2026, 1, 2, tzinfo=UTC)),
            acknowledged=set(self.seen[sync]["acknowledged"]),
            values={
                "name": sync,
                "mode": mode,
                "destination": destination,
                "mapping": {"id": "id", "email": "email", "name": "name"},
                **values,
            },
        )
        world.store = self.store
        world.warehouse = self.warehouse
        world.destination.rows.update({str(record["id"]): record for record in self.seen[sync]["held"]})
        return world

    def model(self) -> dict[str, dict[str, Any]]:
        rows = self.place.run("SELECT id, email, name FROM customers")
        return {str(row[0]): dict(zip(("id", "email", "name"), row, strict=True)) for row in rows}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("742574a")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(
    params=[
        pytest.param("folder", marks=pytest.mark.long),
        pytest.param("duckdb", marks=pytest.mark.slow),
        pytest.param("postgres", marks=pytest.mark.slow),
    ],
)
def earlier(request: pytest.FixtureRequest, unpacked: Path, tmp_path: Path) -> Iterator[Earlier]:
    seen = json.loads((unpacked / "destinations.json").read_text())[request.param]
    if request.param == "postgres":
        place = postgres_place(request.getfixturevalue("postgres"))
        place.run((unpacked / "tables.sql").read_text())
    else:
        place = duckdb_place(shutil.copy(unpacked / "tables.duckdb", tmp_path))
    store: Any = place.store()
    if request.param == "folder":
        store = LakeStore(str(shutil.copytree(unpacked / "folder", tmp_path / "folder")))
    warehouse = place.open_warehouse()
    yield Earlier(place, warehouse, store, seen)
    warehouse.close()
    if request.param != "folder":
        store.close()


@pytest.mark.parametrize("mode", PLANNED)
async def test_a_retry_sends_the_rest_of_its_open_plan(earlier: Earlier, mode: str) -> None:
    await check_retry(earlier.world(mode, mode), PLANNED[mode])


@pytest.mark.parametrize("mode", TRACKED)
async def test_the_next_run_sends_what_an_open_plan_has_left(earlier: Earlier, mode: str) -> None:
    await check_next_run(earlier.world(mode, mode), PLANNED[mode])


async def test_the_next_run_sends_the_rest_of_an_append_first(earlier: Earlier) -> None:
    world = earlier.world("append", "append")
    report = await world.run(run_id="run-3")
    assert world.sent_ids() == sorted([*(ALL - world.acknowledged), *ALL])
    assert report.accepted == len(ALL)
    assert not world.store.unfinished("append")
    folded = world.store.last_report("append", "run-2")
    assert folded is not None
    assert (folded.accepted, folded.unknown) == (len(ALL) - ANSWER_LOST["append"], ANSWER_LOST["append"])


async def test_a_mirror_then_equals_the_model(earlier: Earlier) -> None:
    world = earlier.world("mirror", "mirror")
    await world.run(run_id="run-3")
    assert world.destination.rows == earlier.model()


@pytest.mark.parametrize(
    ("mode", "sent"),
    [("upsert", [1, 200]), ("insert", [200]), ("mirror", [1, 2, 200]), ("update", [1, 200]), ("delete", [200])],
)
async def test_an_unchanged_sync_sends_nothing_and_then_only_changes(
    earlier: Earlier, mode: str, sent: list[int]
) -> None:
    world = earlier.world(f"done_{mode}", mode)
    assert (await world.run(run_id="run-3")).planned.total == 0
    assert world.sent_ids() == []
    earlier.place.run(
        "UPDATE customers SET name = 'changed' WHERE id = 1",
        "DELETE FROM customers WHERE id = 2",
        "INSERT INTO customers VALUES (200, 'person200@example.com', 'added')",
    )
    await world.run(run_id="run-4")
    assert world.sent_ids() == sent


async def test_a_committed_append_is_not_repeated(earlier: Earlier) -> None:
    world = earlier.world("done_append", "append")
    assert (await world.run(run_id="run-2")).accepted == len(ALL)
    assert world.sent_ids() == []


async def test_attempts_of_rejected_rows_continue(earlier: Earlier) -> None:
    """The rows 6 and 7 were rejected twice, and row 25 once."""
    world = earlier.world("refused", "upsert", retry={"max_attempts": 3})
    world.destination.dials.reject = {"6", "7", "25"}
    given_up = []
    for run_id, sent in [("run-3", [6, 7, 25]), ("run-4", [25]), ("run-5", [])]:
        given_up.append((await world.run(run_id=run_id)).given_up)
        assert world.sent_ids() == sent
    assert given_up == [0, 2, 3]


# -- syncs with another identifier than the primary key ------------------------------------------------------------


@pytest.mark.parametrize("mode", BY_EMAIL)
async def test_by_email_a_retry_sends_the_rest_of_its_open_plan(earlier: Earlier, mode: str) -> None:
    await check_retry(earlier.world(f"{mode}_by_email", mode), PLANNED[mode])


@pytest.mark.long
@pytest.mark.parametrize("mode", BY_EMAIL)
async def test_by_email_the_next_run_sends_what_an_open_plan_has_left(earlier: Earlier, mode: str) -> None:
    """Its record of an earlier version cannot tell which records the rows that left had, so none is deleted."""
    await check_next_run(earlier.world(f"{mode}_by_email", mode), PLANNED[mode] - REMOVED)


@pytest.mark.long
@pytest.mark.parametrize("mode", BY_EMAIL)
async def test_by_email_an_unchanged_sync_sends_nothing(earlier: Earlier, mode: str) -> None:
    world = earlier.world(f"done_{mode}_by_email", mode)
    assert (await world.run(run_id="run-3")).planned.total == 0
    assert world.sent_ids() == []


# -- what syncs with and without match_on promise today ------------------------------------------------------------


async def check_retry(world: EarlierWorld, planned: set[int]) -> None:
    """Run ``run-2`` again: it resumes its plan, and sends no row that was acknowledged."""
    sync = world.sync().name
    assert set() < world.acknowledged < planned
    report = await world.run(run_id="run-2")
    assert world.sent_ids() == sorted(planned - world.acknowledged)
    unknown = ANSWER_LOST.get(world.sync().mode, 0)
    assert (report.planned.total, report.accepted, report.unknown) == (len(planned), len(planned) - unknown, unknown)
    assert not world.store.unfinished(sync)


async def check_next_run(world: EarlierWorld, planned: set[int]) -> None:
    """Run ``run-3``: it folds the plan of ``run-2``, and plans the rows that were not acknowledged."""
    sync = world.sync().name
    acknowledged = set(world.acknowledged)
    report = await world.run(run_id="run-3")
    assert world.sent_ids() == sorted(planned - acknowledged)
    assert (report.accepted, report.rejected) == (len(planned - world.acknowledged), 0)
    assert not world.store.unfinished(sync)
    folded = world.store.last_report(sync, "run-2")
    assert folded is not None
    assert folded.accepted == len(acknowledged)
    assert (await world.run(run_id="run-4")).planned.total == 0
