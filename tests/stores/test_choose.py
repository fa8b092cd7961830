"""The place where a sync is planned: as ``planner`` says, unless its state is elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores import choose
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.stores.warehouse.store import WarehouseStore
from airflow_reverse_etl.sync.ports import PlanRequest
from tests.stores.warehouses import Place, duckdb_place

QUERY = "SELECT * FROM m"


def sync_of(planner: str) -> Sync:
    values = {"name": "s", "model": "m", "source": "w", "destination": {"type": "file"}, "mapping": {"a": "id"}}
    return Sync.load({**values, "planner": planner})


class Places:
    """Both stores, and the lines that were logged."""

    def __init__(self, folder: Path) -> None:
        self.place: Place = duckdb_place()
        self.place.run("CREATE TABLE m AS SELECT * FROM range(10) AS t(id)")
        self.warehouse: WarehouseStore | None = self.place.store()
        self.lake = LakeStore(str(folder))
        self.said: list[str] = []
        self.has_state_to_adopt = False

    def chosen(self, planner: str, query: str | None = QUERY, **more: Any) -> Any:
        return choose.choose_store(
            sync_of(planner),
            query,
            lake=self.lake,
            open_warehouse_store=lambda: self.warehouse,
            has_state_to_adopt=lambda: self.has_state_to_adopt,
            log=self.said.append,
            **more,
        )

    def plan_in(self, store: Any) -> None:
        warehouse = self.place.open_warehouse()
        store.plan(PlanRequest(sync_of("auto"), QUERY, ("id",), "r", datetime(2026, 1, 1, tzinfo=UTC)), warehouse)
        warehouse.close()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_a_new_sync_is_planned_where_it_asks(places: Places) -> None:
    assert places.chosen("local") is places.lake
    assert places.chosen("warehouse") is places.warehouse
    assert places.said == []


def test_auto_takes_the_warehouse_for_large_models_and_says_why(places: Places) -> None:
    assert places.chosen("auto") is places.lake
    assert places.chosen("auto", large=10) is places.warehouse
    assert ["only 10 rows" in places.said[0], "10 rows or more" in places.said[1]] == [True, True]


def test_auto_plans_locally_where_it_may_not_write(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: WarehouseStore) -> None:
        raise CredentialsError("permission denied", todo="GRANT something")

    monkeypatch.setattr(WarehouseStore, "make_tables", denied)
    assert places.chosen("auto", large=10) is places.lake
    assert "GRANT something" in places.said[0]
    with pytest.raises(CredentialsError):
        places.chosen("warehouse")


@pytest.mark.parametrize("planner", ["auto", "warehouse", "local"])
@pytest.mark.parametrize("where", ["lake", "warehouse"])
def test_a_sync_stays_where_its_state_is(places: Places, planner: str, where: str) -> None:
    store = getattr(places, where)
    places.plan_in(store)
    assert places.chosen(planner) is store
    assert places.chosen(planner, None) is store, "tasks that load and commit find it, too"
    assert bool(places.said) == ({"lake": "warehouse", "warehouse": "local"}[where] == planner)


def test_a_source_that_cannot_plan_is_planned_locally_or_refused(places: Places) -> None:
    places.warehouse = None
    assert places.chosen("auto") is places.lake
    with pytest.raises(ConfigurationError, match="planner: local"):
        places.chosen("warehouse")


@pytest.mark.parametrize("planner", ["auto", "warehouse", "local"])
@pytest.mark.parametrize("can_plan", [True, False])
def test_a_sync_with_state_to_adopt_stops(places: Places, planner: str, *, can_plan: bool) -> None:
    places.has_state_to_adopt = True
    if not can_plan:
        places.warehouse = None
    for query in (QUERY, None):
        with pytest.raises(ConfigurationError, match="state without an environment") as caught:
            places.chosen(planner, query)
        assert "`reverse-etl state adopt s`" in str(caught.value)
        assert "[reverse_etl] environment_is_new = True" in str(caught.value)


@pytest.mark.parametrize("where", ["lake", "warehouse"])
def test_a_sync_with_state_of_its_own_has_nothing_to_adopt(places: Places, where: str) -> None:
    store = getattr(places, where)
    places.plan_in(store)
    places.has_state_to_adopt = True
    assert places.chosen("auto") is store
