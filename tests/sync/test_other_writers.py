"""A mirror on an object that other syncs write to: the register of destinations in each store, and the warning."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.ports import DestinationRegister
from tests.stores.every import EVERY_STORE
from tests.sync.world import World, on_every_store, rows

MIRROR: dict[str, Any] = {"name": "mirror", "mode": "mirror", "guards": {"min_rows": 0, "max_removed": "100%"}}
OTHER: dict[str, Any] = {"name": "other"}


@pytest.fixture
def world(world: World) -> World:
    world.destination.address = "crm contacts"
    return world


def warned(world: World) -> list[str]:
    """Return the warnings since the last call."""
    texts = [str(facts["text"]) for facts in world.observer.named("warning")]
    world.observer.events.clear()
    return texts


@on_every_store
async def test_a_mirror_names_the_other_syncs_and_when_they_wrote(world: World) -> None:
    await world.run(rows(a=1), **OTHER)
    assert warned(world) == []
    report = await world.run(rows(a=1), **MIRROR)
    [warning] = warned(world)
    [(name, day)] = report.other_writers.items()
    assert name == "other"
    assert f"other (last on {day})" in warning

    # The other sync does not delete, so it is not warned of the mirror.
    assert (await world.run(rows(a=2), **OTHER)).other_writers == {}
    assert warned(world) == []


@on_every_store
async def test_a_sync_that_moved_or_sends_nothing_is_not_named(world: World) -> None:
    await world.run(rows(a=1), **OTHER)
    world.destination.address = "crm leads"
    await world.run(rows(a=1, b=1), on_destination_change="resync", **OTHER)
    await world.run([], name="idle")
    world.destination.address = "crm contacts"
    assert (await world.run(rows(a=1), **MIRROR)).other_writers == {}
    world.destination.address = "crm leads"
    assert list((await world.run(rows(a=1), on_destination_change="keep", **MIRROR)).other_writers) == ["other"]


@pytest.mark.parametrize("store", EVERY_STORE[1:], indirect=True)
async def test_a_forgotten_sync_is_not_named(world: World) -> None:
    await world.run(rows(a=1), **OTHER)
    forgetful: Any = world.store
    forgetful.forget("other")
    assert (await world.run(rows(a=1), **MIRROR)).other_writers == {}


@on_every_store
async def test_the_register_is_written_at_most_once_a_day(world: World) -> None:
    store = world.store
    assert isinstance(store, DestinationRegister)
    now = world.clock.now()
    store.acquire("other", "a run", now=now, seconds=60)
    if isinstance(store, LakeStore):  # whose times are the storage's
        store.register_writer("other", "crm contacts", now)
        [now] = store.writers("crm contacts").values()
    seen = []
    for later in (timedelta(), timedelta(hours=23), timedelta(hours=25)):
        store.register_writer("other", "crm contacts", now + later)
        seen.append(store.writers("crm contacts")["other"])
    assert seen[0] == seen[1]
    assert seen[2] > seen[1]
