"""The operator: what a task returns, how it fails, what it tells Airflow. Warehouse and state are real."""

from __future__ import annotations

import gc
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_reverse_etl import Sync
from airflow_reverse_etl.errors import IncompleteLoadError
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.testing.fakes import Dials, FakeDestination
from tests.operators.tasks import SYNC, context, operator, rejected

pytestmark = pytest.mark.airflow


def dag_of(**arguments: Any) -> Any:
    from airflow.sdk import DAG

    from airflow_reverse_etl.operators import ReverseEtlOperator

    with DAG("sync_dag", schedule=None) as dag:
        ReverseEtlOperator(task_id="contacts", **arguments)
    return dag


@pytest.mark.parametrize(
    "model",
    [
        {"sql": "drop table customers"},
        {"sql": "select * from customers; delete from customers"},
        {"sql": "copy customers to '{folder}/copy.csv'"},
        {"sql": "attach '{folder}/copy.duckdb'"},
        {"table": "customers; drop table customers"},
    ],
)
@pytest.mark.parametrize("planner", ["auto", "local", "warehouse"])
def test_a_model_that_is_no_select_changes_nothing_and_fails_without_a_retry(
    crm: FakeDestination, customers: Callable[[str], None], tmp_path: Path, model: dict[str, str], planner: str
) -> None:
    from airflow_reverse_etl.compat import AirflowFailException

    model = {kind: text.format(folder=tmp_path) for kind, text in model.items()}
    with pytest.raises(AirflowFailException, match="the model's query cannot be used"):
        operator(sync={**SYNC, "model": model, "planner": planner}).execute(context())
    assert not list(tmp_path.glob("copy*"))
    customers("SELECT CASE WHEN count(*) = 3 THEN 1 ELSE error('rows are gone') END FROM customers")


@pytest.mark.long
def test_a_model_over_files_fails_with_the_option_that_allows_it(
    crm: FakeDestination, customers: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_reverse_etl import config
    from airflow_reverse_etl.compat import AirflowFailException

    customers(f"COPY customers TO '{tmp_path}/customers.csv'")
    customers(f"CREATE VIEW over_files AS FROM '{tmp_path}/customers.csv'")
    task = operator(sync={**SYNC, "model": {"table": "over_files"}})
    with pytest.raises(AirflowFailException, match=r"\[reverse_etl\] duckdb_external_access"):
        task.execute(context())
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__DUCKDB_EXTERNAL_ACCESS", "True")
    config.settings.cache_clear()
    gc.collect()  # the DuckDB of the failed task, which the next would share
    assert task.execute(context())["accepted"] == 3


# -- a DAG run -------------------------------------------------------------------------------------------------------


def test_a_dag_run_sends_what_changed(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """First everything, then only the changed row; the report is the task's XCom, the counts are in the asset event."""
    dag = dag_of(sync=SYNC)
    first = run_dag(dag)
    assert str(first.state) == "success"
    report = xcom(first, "contacts")
    assert report["planned"] == {"added": 3, "changed": 0, "removed": 0, "invalid": 0}
    assert (report["accepted"], report["rejected"], report["reasons"]) == (3, 0, [])
    assert {row["greeting"] for row in crm.rows.values()} == {"Dear Ada", "Dear Bo", "Dear Cy"}

    customers("UPDATE customers SET email = 'new@x.org' WHERE id = 2")
    second = run_dag(dag)
    assert xcom(second, "contacts")["planned"] == {"added": 0, "changed": 1, "removed": 0, "invalid": 0}
    assert len(crm.table.writes) == 4

    extra = outlet_event(second)
    assert extra["sync"] == "contacts"
    assert (extra["accepted"], extra["planned"]["changed"]) == (1, 1)
    assert "reasons" not in extra


@pytest.mark.long
def test_the_conf_of_a_run_asks_for_everything_again_or_for_nothing_of_one_sync(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    dag = dag_of(sync=SYNC)
    reset = {"reverse_etl": {"contacts": {"reset": True}, "another": {"full_resync": True}}}
    assert xcom(run_dag(dag, run_conf=reset), "contacts")["accepted"] == 0
    again = {"reverse_etl": {"contacts": {"full_resync": True}}}
    assert xcom(run_dag(dag, run_conf=again), "contacts")["accepted"] == 3
    failed = run_dag(dag, run_conf={"reverse_etl": {"contacts": {"full_resync": "yes"}}})
    assert str(failed.state) == "failed"


def test_a_templated_sync_is_rendered_when_its_task_begins(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """Connections and SQL are Airflow's templates, the fields' templates are the sync's own."""
    model = {"sql": "select * from customers where id <= {{ dag_run.conf.last }}"}
    templates = {
        **SYNC,
        "templated": True,
        "model": model,
        "source": "{{ 'ware' ~ 'house' }}",
        "primary_key": "id",
        "destination": {**SYNC["destination"], "connection": "{{ dag_run.conf.crm }}"},
    }
    dag = dag_of(sync=templates)
    [task] = dag.tasks
    assert [asset.name for asset in task.outlets] == ["sync/contacts"]
    report = xcom(run_dag(dag, run_conf={"last": 2, "crm": "crm"}), "contacts")
    assert report["accepted"] == 2
    assert {row["greeting"] for row in crm.rows.values()} == {"Dear Ada", "Dear Bo"}

    failed = run_dag(dag, run_conf={})
    assert str(failed.state) == "failed"
    assert "cannot be rendered" in xcom(failed, "contacts", key="error")


def test_the_conf_of_a_run_limits_it_to_records(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    dag = dag_of(sync=SYNC)
    crm.dials = Dials(reject={"1", "2"})
    run_dag(dag)
    crm.dials = Dials()
    one = {"reverse_etl": {"contacts": {"records": [rejected("contacts")["2"]]}}}
    report = xcom(run_dag(dag, run_conf=one), "contacts")
    assert (report["accepted"], report["retryable"]) == (1, 1)
    failed = run_dag(dag, run_conf={"reverse_etl": {"contacts": {"records": ["ada@x.org"]}}})
    assert str(failed.state) == "failed"
    assert xcom(run_dag(dag), "contacts")["accepted"] == 1


@pytest.mark.long
def test_a_dag_run_may_ask_for_everything_again_or_for_nothing(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """Templated, so that whoever triggers the DAG decides."""
    dag = dag_of(sync=SYNC, reset="{{ dag_run.conf.get('reset') }}", full_resync="{{ dag_run.conf.get('again') }}")
    assert xcom(run_dag(dag, run_conf={"reset": True}), "contacts")["accepted"] == 0
    assert xcom(run_dag(dag, run_conf={}), "contacts")["planned"]["added"] == 0
    assert not crm.batches
    assert xcom(run_dag(dag, run_conf={"again": True}), "contacts")["accepted"] == 3


MIRROR = {**SYNC, "mode": "mirror", "rate": {"batch_size": 100}}
FIFTY = "INSERT INTO customers SELECT i, 'n' || i, i || '@x.org' FROM range(4, 51) AS t (i)"


@pytest.mark.long
def test_a_dag_run_may_lift_a_guard_by_its_conf(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """For that DAG run only; the conf to trigger with is in the error of the run that was stopped."""
    customers(FIFTY)
    dag = dag_of(sync=MIRROR)
    run_dag(dag)
    customers("DELETE FROM customers WHERE id > 30")
    for other in ({}, {"reverse_etl": {"others": {"lift_guards": True}}}):
        assert str(run_dag(dag, run_conf=other).state) == "failed"
    assert len(crm.rows) == 50

    lifting = {"reverse_etl": {"contacts": {"lift_guards": ["max_removed"]}}}
    assert json.dumps(lifting) in str(failure(operator(sync=MIRROR)))
    lifted = run_dag(dag, run_conf=lifting)
    assert xcom(lifted, "contacts")["planned"]["removed"] == 20
    assert len(crm.rows) == 30

    customers("DELETE FROM customers WHERE id > 10")
    assert str(run_dag(dag).state) == "failed", "the next DAG run has its guards again"
    assert len(crm.rows) == 30


@pytest.mark.parametrize(
    ("option", "lifts"),
    [
        (True, True),
        (["max_removed"], True),
        ("max_removed", True),
        ("{{ dag_run.conf['lift'] }}", True),
        ("min_rows, max_changes", False),
        ("{{ dag_run.conf['not'] }}", False),
        ("{{ none }}", False),
    ],
)
def test_a_task_may_lift_a_guard(
    option: Any, lifts: bool, crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """True, names, or a template that renders to either."""
    customers(FIFTY)
    operator(sync=MIRROR).execute(context())
    customers("DELETE FROM customers WHERE id > 30")
    where = context(dag_run=SimpleNamespace(conf={"lift": "true", "not": False}))
    task = operator(sync=MIRROR, lift_guards=option)
    task.render_template_fields(where)
    if lifts:
        assert task.execute(where)["planned"]["removed"] == 20
    else:
        assert "max_removed: 20 rows" in str(failure(task, where))


@pytest.mark.parametrize("option", ["max_rows", ["max_rows"], 1])
def test_an_unknown_guard_is_a_configuration_error(
    option: Any, crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """Which lists those that there are, and nothing is sent."""
    from airflow_reverse_etl.compat import AirflowFailException

    error = failure(operator(lift_guards=option))
    assert isinstance(error, AirflowFailException)
    assert "min_rows, max_removed, max_changes" in str(error)
    malformed = context(dag_run=SimpleNamespace(conf={"reverse_etl": {"contacts": True}}))
    assert "ConfigurationError" in str(failure(operator(), malformed))
    assert not crm.batches


def outlet_event(dag_run: Any) -> dict[str, Any]:
    """What the events of the run's assets carry: of the destination's object, and of the sync itself."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == dag_run.run_id)).all()
        of_object, of_sync = (dict(event.extra) for event in found)
        assert of_object == of_sync
        return of_sync


def test_the_link_leads_to_the_destination(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """As Airflow keeps it for the button on the task."""
    done = run_dag(dag_of(sync=SYNC))
    assert xcom(done, "contacts", key="_link_DestinationLink") == "https://crm.example.com/api"


def test_rejections_fail_the_task_with_its_report(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """The failure policy turns the task red without a retry; what was good is delivered, and the report is there."""
    crm.dials = Dials(reject={"2"})
    done = run_dag(dag_of(sync=SYNC, retries=3))
    (ti,) = done.get_task_instances()
    assert (str(done.state), str(ti.state), ti.try_number) == ("failed", "failed", 1)
    report = xcom(done, "contacts")
    assert (report["accepted"], report["rejected"]) == (2, 1)
    assert report["reasons"][0]["code"] == "rejected"
    assert len(crm.rows) == 2


def test_a_yaml_file_beside_the_dag_file(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """The path is relative to the DAG file, when it is parsed and when it runs."""
    dag = dag_of(sync="syncs/contacts.yaml")
    written = [asset.name for asset in dag.task_dict["contacts"].outlets]
    assert written == ["fake/crm/contacts", "sync/contacts_from_file"]
    assert xcom(run_dag(dag), "contacts")["accepted"] == 3


def test_a_templated_path(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """Which sync runs may depend on the DAG run."""
    dag = dag_of(sync="syncs/{{ dag_run.conf['which'] }}.yaml")
    assert xcom(run_dag(dag, run_conf={"which": "contacts"}), "contacts")["accepted"] == 3


@pytest.mark.long
def test_syncs_can_be_mapped(
    run_dag: Callable[..., Any], xcom: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """One task for each sync of a list, each with its own state."""
    from airflow.sdk import DAG

    from airflow_reverse_etl.operators import ReverseEtlOperator

    with DAG("mapped_dag", schedule=None) as dag:
        ReverseEtlOperator.partial(task_id="each").expand(sync=[SYNC, {**SYNC, "name": "others"}])
    done = run_dag(dag)
    assert [xcom(done, "each", map_index=index)["accepted"] for index in (0, 1)] == [3, 3]


# -- parsing ---------------------------------------------------------------------------------------------------------


def test_assets_are_known_when_the_dag_is_parsed() -> None:
    """Model in, destination object out, beside those that the author gives."""
    from airflow.sdk import Asset

    task = operator(sync={**SYNC, "model": "shop.customers"}, outlets=[Asset("mine")])
    assert [asset.name for asset in task.inlets] == ["dbt/warehouse/customers"]
    assert [asset.name for asset in task.outlets] == ["mine", "fake/crm/contacts", "sync/contacts"]


def test_a_missing_file_is_a_warning_when_parsed(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The DAG is there, and its log says which file is not."""
    with caplog.at_level(logging.WARNING):
        task = operator(sync="no/such/file.yaml")
    assert "no/such/file.yaml" in caplog.text + capsys.readouterr().out  # Airflow's logging differs by version
    assert task.outlets == []


def test_an_invalid_sync_is_an_import_error() -> None:
    """All problems at once, where the author sees them: in the DAG's import error."""
    from airflow_reverse_etl.errors import SpecError

    with pytest.raises(SpecError) as caught:
        operator(sync={**SYNC, "mod": "upsert", "nulls": "drop"})
    assert len(caught.value.problems) == 2


def test_row_templates_are_not_airflows() -> None:
    """Airflow renders template fields; what is inside a sync is left alone."""
    task = operator()
    task.render_template_fields({"ti": None})
    assert task.sync.mapping["greeting"].template == "Dear {{ row.name }}"


def test_the_serialized_dag_is_always_the_same(serialize_dag: Callable[[Any], dict[str, Any]]) -> None:
    """Otherwise every parse would be a new version of the DAG."""
    first, second = (serialize_dag(dag_of(sync=Sync.load(SYNC)))["dag"]["tasks"] for _ in range(2))
    assert first == second


# -- failing ---------------------------------------------------------------------------------------------------------


def failure(task: Any, where: Any = None) -> Exception:
    with pytest.raises(Exception) as caught:
        task.execute(where or context())
    return caught.value


def test_a_dbt_model_needs_a_catalog(crm: FakeDestination, customers: Callable[[str], None]) -> None:
    """The error says what to pass."""
    from airflow_reverse_etl.compat import AirflowFailException

    error = failure(operator(sync={**SYNC, "model": "customers"}))
    assert isinstance(error, AirflowFailException)
    assert "catalog=" in str(error)


def test_a_missing_connection_is_not_retried(crm: FakeDestination, state_url: Path, airflow_db: None) -> None:
    """It is named, and nothing that a driver or Airflow said is chained to it."""
    from airflow_reverse_etl.compat import AirflowFailException

    error = failure(operator(sync={**SYNC, "source": "nowhere"}))
    assert isinstance(error, AirflowFailException)
    assert "'nowhere'" in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_an_incomplete_load_is_retried(
    monkeypatch: pytest.MonkeyPatch, crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    """The task fails so that Airflow tries again, and its report is in XCom until then."""
    from airflow_reverse_etl.compat import AirflowException, AirflowFailException

    async def run(*args: Any, **kwargs: Any) -> RunReport:
        error = IncompleteLoadError("1 row could not be sent", todo="nothing")
        error.report = RunReport("r", Planned(added=3), 2, 0, 1, 0, 0, 1, 0.1)
        raise error

    monkeypatch.setattr("airflow_reverse_etl.sync.run.attempt_sync", run)
    where = context()
    error = failure(operator(), where)
    assert isinstance(error, AirflowException)
    assert not isinstance(error, AirflowFailException)
    assert where["pushed"]["return_value"]["retryable"] == 1


def test_a_killed_task_is_continued(crm: FakeDestination, customers: Callable[[str], None]) -> None:
    """on_kill lets what is in flight be answered; the next try sends the rest, and no row twice."""
    from airflow_reverse_etl.compat import AirflowException

    customers("INSERT INTO customers SELECT i, 'n' || i, i || '@x.org' FROM range(10, 60) AS t (i)")
    crm.dials = Dials(latency=0.05)
    sync = {**SYNC, "mode": "insert", "rate": {"concurrency": 1, "batch_size": 1}}
    task = operator(sync=sync)

    def kill() -> None:
        deadline = time.monotonic() + 20
        while len(crm.batches) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        task.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    error = failure(task)
    killer.join()
    assert isinstance(error, AirflowException)
    assert 5 <= len(crm.rows) < 53

    crm.dials = Dials()
    report = operator(sync=sync).execute(context())
    assert report["accepted"] == 53
    assert len(crm.rows) == 53
    assert not crm.table.repeated()


def test_on_kill_before_the_run_is_harmless() -> None:
    """Airflow may call it at any time."""
    operator().on_kill()


# -- model, run id, log ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "query"),
    [
        ({"table": "a.b"}, "SELECT * FROM a.b"),
        ({"sql": "select 1 as id;\n"}, "select 1 as id"),
    ],
)
def test_the_model_as_a_query(model: dict[str, str], query: str) -> None:
    """Without dbt, the sync has to name the primary key."""
    from airflow_reverse_etl.dbt.model_query import resolve_model
    from airflow_reverse_etl.errors import ConfigurationError

    assert resolve_model(Sync.load({**SYNC, "model": model}), None) == (query, ("id",))
    without = Sync.load({**SYNC, "model": model, "primary_key": None})
    with pytest.raises(ConfigurationError, match="primary key"):
        resolve_model(without, None)
    assert resolve_model(without.model_copy(update={"mode": "append"}), None) == (query, ())


def test_the_model_from_the_catalog() -> None:
    """Relation and primary key are dbt's; the sync's own primary key wins; an ephemeral model cannot be read."""
    from airflow_reverse_etl.dbt.model_query import resolve_model
    from airflow_reverse_etl.errors import ModelNotFoundError

    def catalog(relation: str | None) -> Any:
        return SimpleNamespace(find=lambda name: SimpleNamespace(relation=relation, primary_key=("customer_id",)))

    named = {**SYNC, "model": "customers"}
    query = 'SELECT * FROM "db"."main"."customers"'
    assert resolve_model(Sync.load(named), catalog('"db"."main"."customers"')) == (query, ("id",))
    keyless = Sync.load({**named, "primary_key": None})
    assert resolve_model(keyless, catalog('"db"."main"."customers"')) == (query, ("customer_id",))
    with pytest.raises(ModelNotFoundError, match="ephemeral"):
        resolve_model(keyless, catalog(None))


def test_the_run_id() -> None:
    """Equal over tries, different for every task instance, and safe in a file name."""
    from airflow_reverse_etl.operators.base import run_id

    ids = {run_id(*key) for key in [("d", "r", "t", -1), ("d", "r", "t", 0), ("d", "r2", "t", -1), ("dr", "", "t", -1)]}
    assert len(ids) == 4
    assert run_id("d", "r", "t", -1) in ids
    assert all(text.isalnum() for text in ids)


def test_the_log_has_progress_at_intervals() -> None:
    """One line for the first progress event, none for those right after it."""
    from airflow_reverse_etl.sync.log_observer import LogObserver

    lines: list[str] = []
    observer = LogObserver(lines.append)
    for settled in (1000, 2000, 3000):
        observer.event("progress", sync="s", settled=settled, total=5000, rejected=0, requests=settled // 100)
    observer.event("something_new", sync="s", rows=1200)
    assert lines == ["s: 1,000 of 5,000 rows settled, 0 rejected, 10 requests", "something_new sync=s rows=1,200"]


def test_a_warning_is_logged_as_one() -> None:
    from airflow_reverse_etl.sync.log_observer import LogObserver

    lines: list[str] = []
    warned: list[str] = []
    observer = LogObserver(lines.append, warned.append)
    observer.event("note", sync="s", text="first run")
    observer.event("warning", sync="s", text="2 rows are given up")
    assert (lines, warned) == (["s: first run"], ["s: 2 rows are given up"])


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"conn_type": "http", "host": "api.example.com", "port": 8443}, "https://api.example.com:8443"),
        ({"conn_type": "x", "host": "https://user:pw@api.example.com/v1"}, "https://api.example.com/v1"),
        ({"conn_type": "http", "host": "api.example.com", "schema": "http"}, "http://api.example.com"),
        ({"conn_type": "postgres", "host": "db.example.com"}, ""),
        ({"conn_type": "aws", "host": "s3://bucket"}, ""),
        ({"conn_type": "http"}, ""),
    ],
)
def test_only_web_addresses_are_linked(fields: dict[str, Any], address: str) -> None:
    """Never with credentials."""
    from airflow_reverse_etl.operators.reverse_etl import _web_address
    from airflow_reverse_etl.sync.ports import ConnectionInfo

    assert _web_address(ConnectionInfo("c", **fields)) == address


def test_a_sync_planned_in_the_warehouse_keeps_its_state_there(
    crm: FakeDestination, customers: Callable[[str], None], state_url: Path
) -> None:
    """Also when a later version of the sync says otherwise, and then nothing is sent twice."""
    first = operator(sync={**SYNC, "planner": "warehouse"}).execute(context())
    assert first["accepted"] == 3
    customers("UPDATE customers SET email = 'new@x.org' WHERE id = 2")
    second = operator(sync={**SYNC, "planner": "local"}).execute(context())
    assert (second["planned"]["changed"], second["accepted"]) == (1, 1)
    customers("SELECT run_id, accepted FROM reverse_etl.runs")
    assert not (state_url / "syncs" / "contacts" / "snapshot").exists()


@pytest.mark.parametrize("dials", [Dials(unread={1}), Dials(lose_request=range(100))], ids=["unread", "left"])
def test_a_red_task_has_counts_and_reasons_in_its_log_and_in_xcom(
    dials: Dials, crm: FakeDestination, customers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    crm.dials = dials
    task, here = operator(), context()
    log = LineLog()
    monkeypatch.setattr(type(task), "log", log)
    failure(task, here)
    report = here["pushed"]["return_value"]
    [reason] = report["reasons"]
    assert reason["count"] == 3
    assert f"accepted 0, rejected 0, retryable {report['retryable']}, unknown 0, skipped 0" in "\n".join(log.lines)
    assert f"{reason['code']} (3 rows): {reason['message']}" in "\n".join(log.lines)


class LineLog:
    """Keeps every line that is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *values: object) -> None:
        self.lines.append(text % values if values else text)

    warning = info


@pytest.mark.long
@pytest.mark.parametrize("planner", ["local", "warehouse"])
def test_a_sync_stops_in_an_environment_until_its_state_is_adopted(
    planner: str,
    crm: FakeDestination,
    customers: Callable[[str], None],
    state_url: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is sent twice by mistake. A new environment is said to be one."""
    from airflow_reverse_etl import config
    from airflow_reverse_etl.cli.main import main
    from airflow_reverse_etl.compat import AirflowFailException

    def switch(**options: str) -> None:
        for name, text in options.items():
            monkeypatch.setenv(f"AIRFLOW__REVERSE_ETL__{name.upper()}", text)
        config.settings.cache_clear()

    sync = {**SYNC, "planner": planner}
    assert operator(sync=sync).execute(context())["accepted"] == 3
    switch(environment="dev")
    error = failure(operator(sync=sync))
    assert isinstance(error, AirflowFailException)
    assert "`reverse-etl state adopt contacts`" in str(error)
    assert "environment_is_new = True" in str(error)

    switch(environment="sandbox", environment_is_new="True")
    assert operator(sync=sync).execute(context())["accepted"] == 3

    switch(environment="dev", environment_is_new="False")
    gc.collect()  # the DuckDB of a task, which the command would share
    where = ["--connection", "warehouse"] if planner == "warehouse" else []
    assert main(["state", "adopt", "contacts", *where]) == 0
    assert operator(sync=sync).execute(context())["accepted"] == 0
    if planner == "local":
        assert sorted(path.parent.parent.name for path in state_url.glob("*/syncs/contacts")) == ["dev", "sandbox"]
        assert [path.name for path in (state_url / "syncs" / "contacts").iterdir()] == ["lease"]
    # Without the environment, nothing is left.
    switch(environment="")
    assert operator(sync=sync).execute(context())["accepted"] == 3
