"""``send: changed`` in every state store: which fields of which rows go out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.planning import with_model_columns
from airflow_reverse_etl.sync.ports import Capabilities, usual
from airflow_reverse_etl.testing.fakes import CrashError, FakeDestination
from tests.stores.every import STORES, opened
from tests.sync.world import World

ROW = {"id": "1", "a": "x", "b": "y", "n": 1}
MAPPING = {"id": "id", "p.a": "a", "p.b": "b", "n": "n", "kind": {"value": "person"}}


class ChangedWorld(World):
    """A world whose destination takes records with some of their fields."""

    columns = ("id", "a", "b", "n")

    def build(self, model: list[dict[str, Any]] | None) -> None:
        """Build the model with its columns."""
        if model is not None:
            self.model = model
        types = {name: pa.int64() if name == "n" else pa.string() for name in self.columns}
        self.warehouse.set("customers", pa.Table.from_pylist(self.model, pa.schema(list(types.items()))))

    def sync(self, **more: Any) -> Sync:
        """Return the sync with the model's columns."""
        return with_model_columns(super().sync(**more), "select * from customers", self.warehouse)

    async def sent_by(self, *rows: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
        """Run, and return the record of each row that was sent, by its key."""
        self.destination.batches.clear()
        await self.run(list(rows), **more)
        batches = self.destination.batches
        return {key: record for batch in batches for key, record in zip(batch.keys, batch.records, strict=True)}


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChangedWorld]:
    with opened(request.param, request, tmp_path / "state") as store:
        destination = FakeDestination(capabilities=Capabilities(usual(), always_sent=frozenset()))
        world = ChangedWorld(destination, store)
        world.values = {"mapping": MAPPING, "send": "changed"}
        yield world


async def test_an_added_row_goes_whole_and_a_changed_one_with_its_changes(world: ChangedWorld) -> None:
    whole = {"id": "1", "p": {"a": "x", "b": "y"}, "n": 1, "kind": "person"}
    assert await world.sent_by(ROW) == {"1": whole}
    assert await world.sent_by({**ROW, "b": "z"}) == {"1": {"id": "1", "p": {"b": "z"}, "kind": "person"}}
    assert await world.sent_by({**ROW, "b": "z", "a": None, "n": 2}) == {
        "1": {"id": "1", "p": {"a": None}, "n": 2, "kind": "person"}
    }
    assert await world.sent_by({**ROW, "b": "z", "a": None, "n": 2}) == {}


async def test_the_fields_that_a_destination_needs_always_go(world: ChangedWorld) -> None:
    world.destination.capabilities = Capabilities(usual(), always_sent=frozenset({"n", "p"}))
    await world.sent_by(ROW)
    assert await world.sent_by({**ROW, "b": "z"}) == {
        "1": {"id": "1", "p": {"a": "x", "b": "z"}, "n": 1, "kind": "person"}
    }


async def test_a_row_that_was_rejected_goes_whole(world: ChangedWorld) -> None:
    await world.sent_by(ROW)
    world.destination.dials.reject = {"1"}
    assert set((await world.sent_by({**ROW, "b": "z"}))["1"]) == {"id", "p", "kind"}
    assert (await world.sent_by({**ROW, "b": "zz"}))["1"]["p"] == {"a": "x", "b": "zz"}
    world.destination.dials.reject = ()
    assert (await world.sent_by({**ROW, "b": "zz"}))["1"]["n"] == 1
    assert (await world.sent_by({**ROW, "b": "y"}))["1"] == {"id": "1", "p": {"b": "y"}, "kind": "person"}


async def test_a_row_that_a_killed_run_may_have_sent_goes_whole(world: ChangedWorld) -> None:
    await world.sent_by(ROW)
    world.destination.dials.crash = {1}
    with pytest.raises(CrashError):
        await world.sent_by({**ROW, "b": "z"})
    world.destination.dials.crash = ()
    assert (await world.sent_by({**ROW, "b": "z"}))["1"]["n"] == 1


async def test_after_a_change_of_the_mapping_and_after_tracking_less_a_row_goes_whole(world: ChangedWorld) -> None:
    await world.sent_by(ROW, send="all", track={"fields": True})
    assert "n" in (await world.sent_by({**ROW, "b": "z"}))["1"], "the hashes were short"
    mapping = {**MAPPING, "m": "n"}
    assert set((await world.sent_by({**ROW, "b": "z"}, mapping=mapping))["1"]) == {*MAPPING, "m", "p"} - {"p.a", "p.b"}
    assert set((await world.sent_by(ROW, mapping=mapping))["1"]) == {"id", "p", "kind"}


async def test_rows_that_are_kept_under_another_mapping_go_whole_with_their_next_change(world: ChangedWorld) -> None:
    await world.sent_by(ROW)
    mapping = {**MAPPING, "m": "n"}
    assert await world.sent_by(ROW, mapping=mapping, on_mapping_change="keep") == {}
    assert "m" in (await world.sent_by({**ROW, "b": "z"}, mapping=mapping))["1"]


async def test_a_new_column_goes_with_the_next_change_of_a_row(world: ChangedWorld) -> None:
    world.values |= {"mapping": {"*": "*"}}
    await world.sent_by(ROW)
    world.columns = (*world.columns, "new")
    assert await world.sent_by({**ROW, "new": "v"}) == {}
    assert await world.sent_by({**ROW, "new": "v", "b": "z"}) == {"1": {**ROW, "new": "v", "b": "z"}}
    assert await world.sent_by({**ROW, "new": "v"}) == {"1": {"id": "1", "b": "y"}}


async def test_a_baseline_counts_as_delivered(world: ChangedWorld) -> None:
    assert await world.sent_by(ROW, initial="baseline") == {}
    assert set((await world.sent_by({**ROW, "n": 3}))["1"]) == {"id", "n", "kind"}


async def test_a_template_goes_when_a_column_that_it_reads_changes(world: ChangedWorld) -> None:
    world.values |= {"mapping": {"id": "id", "a": "a", "text": {"template": "{{ row.b }}!"}}}
    await world.sent_by(ROW)
    assert await world.sent_by({**ROW, "b": "z"}) == {"1": {"id": "1", "text": "z!"}}


async def test_a_destination_of_whole_records_refuses_before_a_row_is_read(world: ChangedWorld) -> None:
    world.destination.capabilities = Capabilities(usual())
    with pytest.raises(SpecError, match="send: changed: type fake takes whole records only"):
        await world.run([ROW])


@pytest.mark.parametrize("more", [{"mode": "append"}, {"track": "none"}])
def test_a_sync_without_a_record_cannot_send_changed_fields(more: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="send: changed compares with what was delivered"):
        World().sync(send="changed", **more)
