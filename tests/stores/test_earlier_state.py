"""State of an earlier version is read: ``state/742574a.tar.gz``, a folder that commit 742574a wrote.

For each of four modes it has a committed run (rows a to d with the value 1, of which d was rejected) and an interrupted
one (rows b to h with the value 2), whose answers were lost from its third batch on.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores.lake.store import LakeStore
from tests.sync.world import World, rows

STATE = Path(__file__).parent / "state" / "742574a.tar.gz"
MODEL = rows(b=2, c=2, d=2, e=2, f=2, g=2, h=2)


class EarlierWorld(World):
    """A world whose state was written by an earlier version."""

    def sync(self, **more: object) -> Sync:
        return super().sync(name=f"contacts_{self.values['mode']}", **more)


@pytest.fixture
def state(tmp_path: Path) -> LakeStore:
    with tarfile.open(STATE) as archive:
        archive.extractall(tmp_path, filter="data")
    return LakeStore(str(tmp_path))


@pytest.mark.parametrize(
    ("mode", "sent"),
    [
        ("upsert", {"b", "c", "d", "h"}),
        ("mirror", {"a", "b", "c", "d", "h"}),
        ("insert", {"d", "h"}),
        ("append", {"b", "c", "d", "e", "f", "g", "h"}),
    ],
)
async def test_the_next_run_finishes_what_the_earlier_version_began(
    state: LakeStore, mode: str, sent: set[str]
) -> None:
    world = EarlierWorld(store=state, values={"mode": mode})
    report = await world.run(MODEL, run_id="run-3")
    written = {str(record["id"]) for batch in world.destination.batches for record in batch.records}
    assert written == sent
    assert report.rejected == 0
    assert not state.unfinished(f"contacts_{mode}")
    earlier = state.last_report(f"contacts_{mode}", "run-1")
    assert earlier is not None
    assert earlier.accepted == (4 if mode == "append" else 3)


async def test_an_unchanged_sync_then_sends_nothing(state: LakeStore) -> None:
    world = EarlierWorld(store=state, values={"mode": "upsert"})
    await world.run(MODEL, run_id="run-3")
    assert (await world.run(run_id="run-4")).planned.total == 0
