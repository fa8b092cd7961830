"""Every example is a DAG that Airflow accepts, and does what its docstring says, against servers on this machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from tests.examples import FOLDER, load
from tests.http.local_server import Answer, serving
from tests.servers.messages import Reply, Request
from tests.servers.server import Server

pytestmark = pytest.mark.airflow

SYNCS = sorted(path for path in FOLDER.glob("syncs/**/*.yaml") if path.name != "defaults.yaml")
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_one_dag_of_its_name_that_survives_serialization(name: str) -> None:
    serialization: Any = import_module("airflow.serialization.serialized_objects")
    dag = load(name)
    forms = getattr(serialization, "DagSerialization", None) or serialization.SerializedDAG  # Airflow 3.1
    restored = forms.from_dict(forms.to_dict(dag))
    assert restored.task_dict.keys() == dag.task_dict.keys()


@pytest.mark.parametrize("path", SYNCS, ids=lambda path: path.stem)
def test_a_sync_of_the_examples_is_valid_for_its_destination(path: Path) -> None:
    from airflow_reverse_etl.destinations.registry import check_options

    assert Sync.load(path, check=check_options).name == path.stem


@pytest.fixture
def warehouse(tmp_path: Path, add_connection: Callable[..., None]) -> Callable[[str], None]:
    """``warehouse(sql)``: runs statements in the warehouse behind the connection of that name."""
    path = tmp_path / "warehouse.duckdb"
    add_connection("warehouse", conn_type="duckdb", host=str(path))

    def execute(sql: str) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute(sql)

    return execute


@pytest.mark.long
def test_scores_follow_the_warehouse_into_the_application_database(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    warehouse: Callable[[str], None],
    state_url: Path,
    tmp_path: Path,
) -> None:
    app = sqlite3.connect(tmp_path / "app.sqlite")
    app.execute("create table customer_scores (customer_id integer primary key, score real, segment text)")
    add_connection("app_database", conn_type="sqlite", host=str(tmp_path / "app.sqlite"))
    warehouse(
        "create schema marts; create table marts.customer_scores as"
        " select i as customer_id, i / 3 as score, 'a' as segment from range(1, 41) numbers(i)"
    )
    dag = load("scores_to_app_database")
    assert xcom(run_dag(dag), "scores")["accepted"] == 40
    warehouse(
        "update marts.customer_scores set segment = 'b' where customer_id = 3;"
        "delete from marts.customer_scores where customer_id = 4"
    )
    second = xcom(run_dag(dag), "scores")
    assert second["planned"] == {"added": 0, "changed": 1, "removed": 1, "invalid": 0}
    assert app.execute("select count(*) from customer_scores").fetchone() == (39,)
    assert app.execute("select * from customer_scores where customer_id = 3").fetchone() == (3, 1.0, "b")


@pytest.mark.long
def test_orders_are_written_to_files_once(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    warehouse: Callable[[str], None],
    state_url: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setenv("PARTNER_URL", str(tmp_path / "partner"))
    warehouse(
        "create schema raw; create table raw.orders as select i as order_id, 1 as customer_id,"
        " i::decimal(10, 2) as amount, timestamp '2026-02-01' as ordered_at from range(0, 11) numbers(i)"
    )
    dag = load("orders_to_files")
    assert xcom(run_dag(dag), "orders")["accepted"] == 10
    warehouse("update raw.orders set amount = 99 where order_id = 1; insert into raw.orders values (11, 1, 5, null)")
    assert xcom(run_dag(dag), "orders")["planned"]["added"] == 1
    written = [pq.read_table(path) for path in (tmp_path / "partner").rglob("*.parquet")]
    orders = sorted(order for table in written for order in table.column("order").to_pylist())
    assert orders == list(range(1, 12))


@pytest.mark.long
def test_contacts_of_a_git_project_reach_the_crm_and_announce_it(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    state_url: Path,
    tmp_path: Path,
) -> None:
    """The main example against the parts of the demo; then the DAG that is scheduled on what it wrote."""
    from dags_examples.demo.shop import CUSTOMERS, Crm, Repository, Warehouse

    shop = Warehouse(tmp_path / "shop.duckdb")
    repository = Repository(tmp_path / "repository")
    add_connection("warehouse", conn_type="duckdb", host=str(shop.path), schema="analytics")
    add_connection("git_dbt", conn_type="git", host=repository.path.as_uri(), extra={"allow_protocols": ["file"]})
    with Crm.running(tmp_path / "crm.sqlite", tmp_path / "crm.log") as crm:
        add_connection("crm", conn_type="reverse_etl_http", host=crm.url, password=crm.token)
        dag_run = run_dag(load("activate_contacts"))
        assert len(crm.contacts()) == CUSTOMERS
    assert xcom(dag_run, "contacts")["accepted"] == CUSTOMERS
    # Other tests may have written to an object of this name, too.
    event = asset_events("http/crm/contacts")[-1]
    assert event.extra["accepted"] == CUSTOMERS

    summarize: Any = load("contacts_delivered").get_task("summarize")
    lines = summarize.python_callable(triggering_asset_events=TriggeredBy(event))
    assert lines == [f"{CUSTOMERS} contacts delivered, 0 rejected"]


@pytest.mark.long
def test_an_audience_is_mirrored_once_a_person_has_approved(
    run_dag: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
    add_connection: Callable[..., None],
    warehouse: Callable[[str], None],
    state_url: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.providers.standard.operators.hitl import HITLOperator

    from dags_examples.demo.shop import Crm

    def approve(operator: HITLOperator, context: Any) -> Any:
        event = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": None}
        return operator.execute_complete(context, {**event, "responded_at": datetime.now(UTC)})

    monkeypatch.setattr(HITLOperator, "execute", approve)
    warehouse(
        "create schema marts; create table marts.audience as select i as customer_id, 'c' || i || '@example.com'"
        " as email, 'gold' as segment from range(1, 131) numbers(i)"
    )
    with Crm.running(tmp_path / "crm.sqlite", tmp_path / "crm.log") as crm:
        add_connection("crm", conn_type="reverse_etl_http", host=crm.url, password=crm.token)
        dag = load("audience_to_crm")
        run_dag(dag)
        assert len(crm.contacts()) == 130
        warehouse("delete from marts.audience where customer_id <= 5")
        second = task_states(run_dag(dag))
        assert len(crm.contacts()) == 125
        third = task_states(run_dag(dag))
    assert set(second.values()) <= {"success", "skipped"}
    assert (second["reverse_etl.approve"], second["reverse_etl.remove"]) == ("success", "success")
    assert (third["reverse_etl.approve"], third["reverse_etl.remove"]) == ("skipped", "success")


_PROPERTY = {"description": "", "groupName": "a", "label": "", "type": "string", "fieldType": "text", "options": []}


@pytest.mark.long
def test_a_shop_reaches_hubspot_with_its_markets_and_gets_the_ids_back(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    state_url: Path,
    tmp_path: Path,
) -> None:
    from dags_examples.demo.shop import CUSTOMERS, Repository, Warehouse
    from tests.servers.threads import in_thread
    from tests.servers.vendors.hubspot import TOKEN, HubSpot

    shop = Warehouse(tmp_path / "shop.duckdb")
    repository = Repository(tmp_path / "repository")
    add_connection("warehouse", conn_type="duckdb", host=str(shop.path), schema="analytics")
    add_connection("git_dbt", conn_type="git", host=repository.path.as_uri(), extra={"allow_protocols": ["file"]})
    properties = {
        "contacts": [{**_PROPERTY, "name": name} for name in ("email", "firstname", "lifetime_value")],
        "companies": [{**_PROPERTY, "name": "market_key", "hasUniqueValue": True}, {**_PROPERTY, "name": "name"}],
    }
    with in_thread(HubSpot(properties=properties)) as hubspot:
        add_connection("hubspot", conn_type="reverse_etl_hubspot", host=hubspot.url, password=TOKEN)
        dag_run = run_dag(load("shop_to_hubspot"))
    assert xcom(dag_run, "companies")["accepted"] == 5
    assert xcom(dag_run, "contacts")["accepted"] == CUSTOMERS
    assert len(hubspot.associations) == CUSTOMERS
    joined = shop.query(
        "select count(*) from analytics.hubspot_contacts ids join analytics.customers on ids.key = customer_id::text"
    )
    assert joined == [(CUSTOMERS,)]


@pytest.mark.long
def test_accounts_reach_salesforce_and_their_ids_come_back(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    warehouse: Callable[[str], None],
    state_url: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The day's accounts go in a job, for which the task waits without a worker."""
    from airflow_reverse_etl.destinations.salesforce import Salesforce as SalesforceType
    from airflow_reverse_etl.triggers import JobTrigger
    from tests.servers.threads import in_thread
    from tests.servers.vendors.salesforce import Salesforce

    waits: list[float] = []

    async def waited(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(SalesforceType, "poll_seconds", 61.0)  # longer than a worker waits
    monkeypatch.setattr(JobTrigger, "sleep", staticmethod(waited))

    warehouse(
        "create schema marts; create table marts.accounts as select 'A-' || i as account_id, 'Account ' || i as name,"
        " i * 1000 as revenue, if(i > 1, 'A-1', null) as parent_id from range(1, 1001) numbers(i)"
    )
    field = {"createable": True, "updateable": True, "nillable": True, "defaultedOnCreate": False, "type": "string"}
    fields = [
        {**field, "name": "Account_Key__c", "externalId": True, "unique": True},
        {**field, "name": "Name", "nillable": False},
        {**field, "name": "AnnualRevenue", "type": "currency"},
        {**field, "name": "ParentId", "type": "reference", "relationshipName": "Parent", "referenceTo": ["Account"]},
    ]
    with in_thread(Salesforce(key="Account_Key__c", fields=fields, polls=1)) as server:
        add_connection("salesforce", conn_type="salesforce", extra=dict(server.connection().extra))
        dag_run = run_dag(load("accounts_to_salesforce"))
    assert xcom(dag_run, "accounts")["accepted"] == 1000
    assert [len(job.rows or []) for job in server.jobs.values()] == [1000]
    assert waits, "the trigger has asked for the job"
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        found = connection.execute("select key, record_id from marts.salesforce_accounts").fetchall()
    assert sorted(found) == sorted((f"A-{number}", server.id_of(f"a-{number}")) for number in range(1, 1001))


def test_contacts_that_hubspot_has_are_enriched_and_no_other_is_created(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    warehouse: Callable[[str], None],
    state_url: Path,
) -> None:
    from tests.servers.threads import in_thread
    from tests.servers.vendors.hubspot import TOKEN, HubSpot

    warehouse(
        "create schema marts; create table marts.customer_figures as select i as customer_id,"
        " 'c' || i || '@example.com' as email, i / 3 as lifetime_value, i as orders_last_90_days"
        " from range(1, 4) numbers(i)"
    )
    names = ("email", "lifetime_value", "orders_last_90_days")
    properties = {"contacts": [{**_PROPERTY, "name": name} for name in names]}
    with in_thread(HubSpot(properties=properties)) as hubspot:
        hubspot.records.write(Operation.UPSERT, "c2@example.com", {"email": "c2@example.com", "owner": "Grace"})
        add_connection("hubspot", conn_type="reverse_etl_hubspot", host=hubspot.url, password=TOKEN)
        report = xcom(run_dag(load("enrich_hubspot")), "contacts")
    assert (report["accepted"], report["skipped"]) == (1, 2)
    assert str(hubspot.records.held["c2@example.com"]["lifetime_value"]) == "0.67"


class Mixpanel(Server):
    """Its import: events without a time are refused, the others are kept by their ``$insert_id``."""

    def answer(self, request: Request) -> Reply:
        failed = []
        for index, event in enumerate(request.json):
            properties = event["properties"]
            if not properties["time"]:
                failed.append({"index": index, "field": "properties.time", "message": "not a time"})
                continue
            self.records.write(Operation.INSERT, properties["$insert_id"], event)
        words = {"num_records_imported": len(request.json) - len(failed), "failed_records": failed}
        return Reply.of(words, 400 if failed else 200)


@pytest.mark.long
def test_each_event_reaches_analytics_once(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    warehouse: Callable[[str], None],
    state_url: Path,
) -> None:
    from tests.servers.threads import in_thread

    warehouse(
        "create schema marts; create table marts.events as select 'e-' || i as event_id, 'paid' as name,"
        " if(i = 3, null, 1767322445000 + i) as happened_at_ms, 'u1' as user_id, i as amount,"
        " timestamp '2026-01-01' + to_minutes(i::int) as loaded_at from range(1, 6) numbers(i)"
    )
    with in_thread(Mixpanel()) as mixpanel:
        add_connection("mixpanel", conn_type="reverse_etl_http", host=mixpanel.url, login="name", password="secret")
        dag = load("events_to_analytics")
        first = run_dag(dag)
        assert str(first.state) == "failed", "one event is refused, which the failure policy does not allow"
        assert sorted(mixpanel.records.held) == ["e-1", "e-2", "e-4", "e-5"]
        warehouse(
            "update marts.events set happened_at_ms = 1767322445003, loaded_at = '2026-01-01 00:20' where amount = 3;"
            "insert into marts.events values ('e-6', 'paid', 1767322445006, 'u1', 6, '2026-01-01 00:21')"
        )
        assert xcom(run_dag(dag), "events")["accepted"] == 2
    assert len(mixpanel.records.held) == 6


class Slack(Server):
    """Its ``chat.postMessage``: every answer has status 200."""

    def answer(self, request: Request) -> Reply:
        if request.headers.get("Authorization") != "Bearer xoxb-token":
            return Reply.of({"ok": False, "error": "invalid_auth"})
        return Reply.of({"ok": True, "ts": "1767322445.000100"})


@pytest.mark.long
def test_each_new_order_is_posted_once_and_none_of_the_past(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    warehouse: Callable[[str], None],
    state_url: Path,
) -> None:
    from tests.servers.threads import in_thread

    warehouse(
        "create schema marts; create table marts.orders as select i as order_id, 'Ada & Co' as customer,"
        " 1000 + i as amount from range(1, 40) numbers(i)"
    )
    with in_thread(Slack()) as slack:
        add_connection("slack", conn_type="reverse_etl_http", host=slack.url, password="xoxb-token")
        dag = load("new_orders_to_slack")
        run_dag(dag)
        assert slack.requests == []
        warehouse("insert into marts.orders values (40, 'Ada & Co', 2000), (41, 'Alan', 5)")
        assert xcom(run_dag(dag), "messages")["accepted"] == 1
        run_dag(dag)
    assert [request.json["text"] for request in slack.requests] == ["Order 40 of Ada & Co: 2000 EUR"]


class TriggeredBy:
    """What Airflow gives the tasks of a run that an asset event has started."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def __getitem__(self, asset: Any) -> list[Any]:
        return [self._event] if asset.name == self._event.asset.name else []


@pytest.mark.long
def test_a_folder_of_syncs_sends_nothing_in_dev_and_in_order_in_prod(
    tmp_path: Path,
    run_dag: Callable[..., Any],
    add_connection: Callable[..., None],
    warehouse: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow_reverse_etl import config

    warehouse("CREATE SCHEMA marts")
    for name in ("accounts", "contacts"):
        warehouse(f"CREATE TABLE marts.{name} AS SELECT 1 AS id, 'Ada' AS name")
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__STATE_URL", str(tmp_path / "state"))
    with serving(lambda received: Answer(200, {})) as crm:
        add_connection("crm", conn_type="reverse_etl_http", host=crm.url)
        for environment, sent in (("dev", []), ("prod", ["/accounts", "/contacts"])):
            monkeypatch.setenv("AIRFLOW__REVERSE_ETL__ENVIRONMENT", environment)
            config.settings.cache_clear()
            done = run_dag(load("folder_of_syncs"))
            assert str(done.state) == "success"
            assert [received.path for received in crm.received] == sent


def asset_events(name: str) -> list[Any]:
    """The events of an asset, as Airflow keeps them."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.orm import joinedload

    with create_session() as session:
        asset = session.scalar(select(AssetModel).where(AssetModel.name == name))
        assert asset is not None
        query = select(AssetEvent).where(AssetEvent.asset_id == asset.id).options(joinedload(AssetEvent.asset))
        query = query.order_by(AssetEvent.id)
        return list(session.scalars(query))
