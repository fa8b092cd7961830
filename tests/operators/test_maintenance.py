"""One action on one sync, from what its last run left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_reverse_etl.compat import AirflowFailException
from airflow_reverse_etl.operators import ReverseEtlPlanOperator
from airflow_reverse_etl.operators.maintenance import ReverseEtlMaintenanceOperator
from airflow_reverse_etl.testing import FakeDestination
from tests.operators.tasks import SYNC, context, operator

pytestmark = pytest.mark.airflow


def maintain(*, syncs: list[str] | None = None, keys: bool = False, **params: Any) -> dict[str, Any]:
    """Return what the maintenance task returns."""
    task = ReverseEtlMaintenanceOperator(task_id="maintain", syncs=syncs, keys=keys)
    given = {"sync": "contacts", "guards": [], "records": [], "every_record": False, **params}
    ti = context()["ti"]
    ti.run_id = json.dumps(given)
    found: dict[str, Any] = task.execute({**context(), "ti": ti, "params": given, "outlet_events": Events()})
    return found


class Events:
    """Takes the events of the alias."""

    added: list[str]

    def __getitem__(self, alias: Any) -> Any:
        return self

    def add(self, asset: Any, extra: Any) -> None:
        Events.added = [*getattr(Events, "added", []), f"{asset.name} {extra['accepted']}"]


def sent(crm: FakeDestination) -> list[str]:
    """Return the keys of the rows that were sent since the last call."""
    keys = [key for batch in crm.batches for key in batch.keys]
    crm.batches.clear()
    return sorted(keys)


@pytest.fixture
def run_once(crm: FakeDestination, customers: Callable[[str], None]) -> None:
    """Let the sync's own DAG run once."""
    operator().execute(context())


def test_a_run_leaves_what_repeating_it_needs_and_no_secret(run_once: None, state_url: Path) -> None:
    found = json.loads((state_url / "recipes" / "contacts.json").read_text())
    assert found["spec"]["mapping"] == SYNC["mapping"]
    assert (found["primary_key"], found["dag_id"], found["approved"]) == (["id"], "d", False)
    assert "customers" in found["query"]
    assert "t0ken" not in json.dumps(found)
    assert "ada@x.org" not in json.dumps(found)


def test_forgotten_state_takes_it_along(run_once: None, state_url: Path) -> None:
    from airflow_reverse_etl.wiring import state_store

    state_store().forget("contacts")
    assert not (state_url / "recipes" / "contacts.json").exists()
    with pytest.raises(AirflowFailException, match="no run of this sync in a DAG has left"):
        maintain(action="full_resync")


def test_a_full_resync_sends_every_row_again(run_once: None, crm: FakeDestination) -> None:
    sent(crm)
    found = maintain(action="full_resync")
    assert sent(crm) == ["1", "2", "3"]
    assert (found["action"], found["sync"], found["report"]["accepted"]) == ("full_resync", "contacts", 3)
    assert Events.added[-2:] == ["fake/crm/contacts 3", "sync/contacts 3"]


@pytest.mark.long
def test_a_reset_sends_nothing(run_once: None, crm: FakeDestination, customers: Callable[[str], None]) -> None:
    customers("UPDATE customers SET email = 'new@x.org' WHERE id = 1")
    sent(crm)
    assert maintain(action="reset")["report"]["accepted"] == 0
    operator().execute(context())
    assert sent(crm) == []


def test_a_preview_counts_and_sends_nothing(
    run_once: None, crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    customers("UPDATE customers SET email = 'new@x.org' WHERE id = 1")
    sent(crm)
    plan = maintain(action="preview")["plan"]
    assert (plan["planned"]["changed"], plan["total"], sent(crm)) == (1, 1, [])
    assert plan["sample"] == {}
    assert maintain(action="preview", keys=True)["plan"]["sample"] == {"changed": ["1"]}


def test_a_guard_is_lifted_once(crm: FakeDestination, customers: Callable[[str], None]) -> None:
    """Also the first run, which a guard stopped, leaves what this needs."""
    sync = {**SYNC, "guards": {"max_changes": 2}}
    with pytest.raises(AirflowFailException, match="max_changes"):
        operator(sync=sync).execute(context())
    assert maintain(action="lift_guards", guards=["max_changes"])["report"]["accepted"] == 3
    with pytest.raises(AirflowFailException, match="max_changes"):
        maintain(action="full_resync")


def test_rejected_rows_are_listed_released_and_dismissed(
    crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    sync = {**SYNC, "retry": {"max_attempts": 1}, "failure": {"max_rejected": "100%", "max_given_up": "100%"}}
    crm.dials.reject = frozenset({"1"})
    operator(sync=sync).execute(context())
    found = maintain(action="rejected")
    [row] = found["rows"]
    assert found["total"] == 1
    assert (row["outcome"], row["attempts"]) == ("rejected", 1)
    assert "key" not in row
    assert maintain(action="rejected", keys=True)["rows"][0]["key"] == "1"
    assert maintain(action="dismiss", records=[row["record"]])["changed"] == 1
    assert maintain(action="release", every_record=True)["changed"] == 1
    assert maintain(action="rejected") == {"action": "rejected", "sync": "contacts", "total": 0, "rows": []}


def test_no_action_evades_the_approval_of_a_person(crm: FakeDestination, customers: Callable[[str], None]) -> None:
    task = ReverseEtlPlanOperator(task_id="plan", sync=SYNC, approval=True)
    ti = context()["ti"]
    ti.try_number = 1
    task.execute({**context(), "ti": ti})
    for action, more in {"full_resync": {}, "reset": {}, "lift_guards": {"guards": ["min_rows"]}}.items():
        with pytest.raises(AirflowFailException, match="a person approves the plans of this sync"):
            maintain(action=action, **more)
    assert maintain(action="preview")["plan"]["total"] == 3


def test_what_is_not_valid_is_listed_at_once(state_url: Path) -> None:
    with pytest.raises(AirflowFailException) as error:
        maintain(action="explode", syncs=["other"], records=["1'; DROP TABLE"])
    for text in (
        "does not work on the sync 'contacts'",
        "action is not one of",
        "something else than names of records",
    ):
        assert text in str(error.value)
    for given in ({"action": "release"}, {"action": "release", "records": ["0" * 32], "every_record": True}):
        with pytest.raises(AirflowFailException, match="one of records and every_record is needed"):
            maintain(**given)
    with pytest.raises(AirflowFailException, match="guards names no guard"):
        maintain(action="lift_guards")
    with pytest.raises(AirflowFailException, match="no run of this sync in a DAG has left"):
        maintain(action="preview")


def test_the_dag_is_one_line_and_its_form_knows_the_syncs() -> None:
    from airflow_reverse_etl import reverse_etl_maintenance_dag

    dag = reverse_etl_maintenance_dag(["b", "a"], dag_id="team_maintenance", tags=["team"])
    assert (dag.dag_id, dag.tags, dag.task_ids) == (
        "team_maintenance",
        {"team", "reverse_etl_maintenance"},
        ["maintain"],
    )
    schema = dag.params.get_param("sync").schema
    assert schema["enum"] == [None, "a", "b"]
    with pytest.raises(AirflowFailException, match="sync is not the name of a sync"):
        maintain(sync=None, action="preview")


def test_a_task_links_to_the_page_of_its_sync_and_leaves_its_error(
    crm: FakeDestination, customers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.com/air/")
    task = operator(sync={**SYNC, "guards": {"max_changes": 2}})
    given = context()
    with pytest.raises(AirflowFailException):
        task.execute(given)
    assert "max_changes: 3 rows, more than 2" in given["pushed"]["error"]
    link = task.operator_extra_links[0]
    assert (link.name, link.get_link(task, ti_key=None)) == (
        "Sync",
        "https://example.com/air/plugin/reverse-etl/syncs/contacts",
    )


def test_the_health_is_kept_where_airflow_has_a_place_for_it(
    crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    class Stores(dict[str, Any]):
        """A store for each asset of the task, in the form of Airflow 3.3."""

        def __getitem__(self, asset: Any) -> Any:
            stored = self.setdefault(asset.name, {})
            return SimpleNamespace(get=stored.get, set=stored.__setitem__)

    stores = Stores()
    operator().execute(context(asset_state_store=stores))
    health = dict.__getitem__(stores, "sync/contacts")["health"]
    assert (health["state"], health["run_id"], health["open"]) == ("ok", "r", 0)
    customers("DROP TABLE customers")
    with pytest.raises(AirflowFailException):
        operator().execute(context(asset_state_store=stores))
    health = dict.__getitem__(stores, "sync/contacts")["health"]
    assert health["state"] == "failing"
    assert "customers" in health["error"]
