"""SyncNotifier and SyncWatchOperator in DAG runs: what people hear of, and how often."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

from airflow_reverse_etl.compat import AirflowException, BaseNotifier, BaseOperator
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.reported_health import HealthMemory
from airflow_reverse_etl.testing.fakes import Dials, FakeDestination
from tests.operators.tasks import SYNC, context, operator

pytestmark = pytest.mark.airflow


class Channel(BaseNotifier):
    """A notifier that keeps what it sent."""

    template_fields = ("text",)
    sent: ClassVar[list[str]] = []
    down: ClassVar[bool] = False

    def __init__(self, text: str = "{{ severity }}: {{ message }}") -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Any) -> None:
        if Channel.down:
            raise OSError("the channel is down")
        Channel.sent.append(self.text)


@pytest.fixture(autouse=True)
def _empty_channel() -> None:
    Channel.sent.clear()
    Channel.down = False


def heard() -> list[str]:
    """Return what was sent since the last call."""
    sent = [*Channel.sent]
    Channel.sent.clear()
    return sent


Runs = Callable[..., list[str]]


@pytest.fixture
def runs(run_dag: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]) -> Runs:
    """Run the sync with a SyncNotifier; return what was sent."""

    def run(*, group: bool = False, critical_only: bool = False, **sync: Any) -> list[str]:
        from airflow.sdk import DAG

        from airflow_reverse_etl import reverse_etl
        from airflow_reverse_etl.notifications import SyncNotifier
        from airflow_reverse_etl.operators import ReverseEtlOperator

        alert = SyncNotifier(Channel(), critical_only=critical_only)
        arguments = {"on_success_callback": alert, "on_failure_callback": alert}
        with DAG("alerting", schedule=None, default_args=arguments) as dag:
            if group:
                reverse_etl({**SYNC, **sync}, group_id="contacts")
            else:
                ReverseEtlOperator(task_id="contacts", sync={**SYNC, **sync})
        run_dag(dag)
        return heard()

    return run


def test_a_failure_is_reported_once_with_what_to_do_and_so_is_the_recovery(
    runs: Runs, crm: FakeDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/team")
    crm.dials = Dials(reject={"2"})
    (message,) = runs()
    assert message.startswith("critical: contacts is failing.\n")
    assert "Rows: accepted 2, rejected 1, unknown 0, given_up 0." in message
    assert "rejected (1): " in message
    assert "`reverse-etl status contacts`" in message
    assert "https://airflow.example.com/team/plugin/reverse-etl/syncs/contacts" in message
    assert runs() == []
    crm.dials = Dials()
    (message,) = runs()
    assert message.startswith("info: contacts is ok (was failing since 2")
    assert runs() == []


@pytest.mark.long
def test_a_first_run_that_is_fine_disturbs_nobody(runs: Runs) -> None:
    assert runs() == []


@pytest.mark.long
def test_alerts_decide_what_needs_attention(runs: Runs, crm: FakeDestination) -> None:
    crm.dials = Dials(reject={"2"})
    lenient = {"failure": {"max_rejected": 3}}
    limits = {"warning": {"max_rejected": 0}, "critical": {"max_rejected": "80%"}}
    (message,) = runs(**lenient, alerts=limits)
    assert message.startswith(
        "warning: contacts is attention.\n1 of 3 planned rows rejected or invalid (max_rejected 0)."
    )
    assert "ok" in runs(**lenient, alerts={"warning": {"max_rejected": 2}})[0].splitlines()[0]


@pytest.mark.long
def test_only_what_is_critical_if_so_wanted(runs: Runs, crm: FakeDestination) -> None:
    crm.dials = Dials(reject={"2"})
    assert runs(critical_only=True, failure={"max_rejected": 3}) == []
    assert len(runs(critical_only=True)) == 1


@pytest.mark.long
def test_two_notifiers_report_each_for_themselves(
    run_dag: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    from airflow.sdk import DAG

    from airflow_reverse_etl.notifications import SyncNotifier
    from airflow_reverse_etl.operators import ReverseEtlOperator

    both = [SyncNotifier(Channel("team")), SyncNotifier(Channel("on call"), critical_only=True, name="on call")]
    crm.dials = Dials(reject={"2"})
    with DAG("alerting", schedule=None) as dag:
        ReverseEtlOperator(task_id="contacts", sync=SYNC, on_success_callback=both, on_failure_callback=both)
    run_dag(dag)
    run_dag(dag)
    assert heard() == ["team", "on call"]


@pytest.mark.long
def test_an_unusual_number_of_rows_is_reported(runs: Runs, customers: Callable[[str], None]) -> None:
    alerts = {"warning": {"max_row_change": "50%"}}
    assert runs(alerts=alerts) == []
    customers("INSERT INTO customers SELECT range, 'x', 'x' || range || '@x.org' FROM range(10, 20)")
    (message,) = runs(alerts=alerts)
    assert "The model has 13 rows, and usually 3 (max_row_change 50%)." in message


@pytest.mark.long
def test_a_group_is_reported_by_its_last_task_and_by_any_that_fails(
    runs: Runs, crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    assert runs(group=True) == []
    customers("ALTER TABLE customers RENAME TO clients")
    (message,) = runs(group=True)
    assert message.startswith("critical: contacts is failing (was ok")
    customers("ALTER TABLE clients RENAME TO customers")
    assert len(runs(group=True)) == 1


@pytest.mark.long
def test_a_channel_that_is_down_gets_the_message_with_the_next_run(runs: Runs, crm: FakeDestination) -> None:
    crm.dials = Dials(reject={"2"})
    Channel.down = True
    assert runs() == []
    Channel.down = False
    assert len(runs()) == 1


def test_a_task_whose_worker_was_killed_is_reported(state_url: Path) -> None:
    """The DAG processor calls then, with neither an exception nor a state."""
    from airflow_reverse_etl.notifications import SyncNotifier

    ti = SimpleNamespace(dag_id="d", task_id="t", state=None)
    SyncNotifier(Channel()).notify({"ti": ti, "task": operator()})  # type: ignore[arg-type, typeddict-item]
    assert heard()[0].startswith(
        "critical: contacts is failing.\nThe task ended without an error of its own: its process"
    )


@pytest.mark.long
def test_any_other_task_is_reported_by_its_own_name(run_dag: Callable[..., Any], state_url: Path) -> None:
    from airflow.sdk import DAG

    from airflow_reverse_etl.notifications import SyncNotifier

    class Build(BaseOperator):
        fails: ClassVar[bool] = True

        def execute(self, context: Any) -> None:
            if Build.fails:
                raise ValueError("dbt says no")

    alert = SyncNotifier(Channel())
    with DAG("alerting", schedule=None) as dag:
        Build(task_id="build", on_success_callback=alert, on_failure_callback=alert)
    run_dag(dag)
    assert heard() == ["critical: alerting.build is failing.\nDbt says no."]
    Build.fails = False
    run_dag(dag)
    (message,) = heard()
    assert message.startswith("info: alerting.build is ok (was failing")


# -- syncs that do not run ---------------------------------------------------------------------------------------------


@pytest.fixture
def watch(run_dag: Callable[..., Any], xcom: Callable[..., Any], tmp_path: Path) -> Callable[..., list[str]]:
    """Look at the sync, in a file of a folder; return the names of late ones."""

    def run(**alerts: Any) -> list[str]:
        from airflow.sdk import DAG

        from airflow_reverse_etl.notifications import SyncNotifier
        from airflow_reverse_etl.operators import SyncWatchOperator

        folder = tmp_path / "syncs"
        folder.mkdir(exist_ok=True)
        (folder / "contacts.yaml").write_text(yaml.safe_dump({**SYNC, "alerts": {"max_delay": "26h", **alerts}}))
        with DAG("watching", schedule=None) as dag:
            SyncWatchOperator(task_id="watch", syncs=[str(folder)], notifier=SyncNotifier(Channel()))
        return list(xcom(run_dag(dag), "watch"))

    return run


def test_the_maintenance_dag_watches_by_schedule_and_acts_when_it_is_triggered(
    run_dag: Callable[..., Any], task_states: Callable[[Any], dict[str, str]], runs: Runs, crm: FakeDestination
) -> None:
    from airflow_reverse_etl import reverse_etl_maintenance_dag
    from airflow_reverse_etl.compat import AirflowSkipException
    from airflow_reverse_etl.notifications import SyncNotifier

    runs()
    sync = {**SYNC, "alerts": {"max_delay": "0s"}}
    dag = reverse_etl_maintenance_dag(watch=[sync], notifier=SyncNotifier(Channel()))
    assert dag.schedule == "*/10 * * * *"
    triggered = run_dag(dag, run_conf={"sync": "contacts", "action": "rejected"})
    assert task_states(triggered) == {"maintain": "success", "watch": "skipped"}

    scheduled = {"dag_run": SimpleNamespace(run_type="scheduled")}
    with pytest.raises(AirflowSkipException):
        dag.get_task("maintain")._pre_execute_hook(scheduled)
    watch = dag.get_task("watch")
    watch._pre_execute_hook(scheduled)
    assert watch.execute(scheduled) == ["contacts"]
    assert [message.split(" (")[0] for message in heard()] == ["critical: contacts is late"]


def test_a_sync_that_cannot_be_looked_at_hides_no_other(runs: Runs, crm: FakeDestination) -> None:
    from airflow_reverse_etl.notifications import SyncNotifier
    from airflow_reverse_etl.operators import SyncWatchOperator

    runs()
    alerts = {"alerts": {"max_delay": "0s"}}
    syncs = [{**SYNC, **alerts, "name": "elsewhere", "source": "nowhere"}, {**SYNC, **alerts}]
    watch = SyncWatchOperator(task_id="watch", syncs=syncs, notifier=SyncNotifier(Channel()))
    with pytest.raises(AirflowException, match="Airflow connection not found"):
        watch.execute(context())
    assert [message.split(" (")[0] for message in heard()] == ["critical: contacts is late"]


def test_a_watch_needs_somebody_to_tell() -> None:
    from airflow_reverse_etl import reverse_etl_maintenance_dag

    with pytest.raises(ConfigurationError, match="only one of watch and notifier"):
        reverse_etl_maintenance_dag(watch=["syncs"])


@pytest.mark.long
def test_each_late_sync_has_a_message_of_its_own(
    run_dag: Callable[..., Any], crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    from airflow.sdk import DAG

    from airflow_reverse_etl.notifications import SyncNotifier
    from airflow_reverse_etl.operators import ReverseEtlOperator, SyncWatchOperator

    syncs = [{**SYNC, "name": name, "alerts": {"max_delay": "0s"}} for name in ("one", "two")]
    with DAG("watching", schedule=None) as dag:
        for sync in syncs:
            ReverseEtlOperator(task_id=sync["name"], sync=sync)
        SyncWatchOperator(task_id="watch", syncs=syncs, notifier=SyncNotifier(Channel()), trigger_rule="all_done")
        dag.get_task("one") >> dag.get_task("two") >> dag.get_task("watch")
    run_dag(dag)
    assert [message.split(" is ")[0] for message in heard()] == ["critical: one", "critical: two"]


@pytest.mark.long
def test_a_sync_that_never_ran_is_late_after_its_delay(
    watch: Callable[..., list[str]], runs: Runs, state_url: Path
) -> None:
    assert watch() == []
    memory = HealthMemory(StateFiles(str(state_url)), "", "contacts")
    version, values = memory._values.read()
    memory._values.swap(version, {**values, "first_seen": (datetime.now(UTC) - timedelta(days=2)).isoformat()})
    assert watch() == ["contacts"]
    (message,) = heard()
    assert message.startswith("critical: contacts is late.\nNo run was ever recorded")
    assert watch() == ["contacts"]
    assert heard() == [], "it was reported"
    (message,) = runs()
    assert message.startswith("info: contacts is ok (was late since")
    assert watch() == []


@pytest.mark.long
def test_a_sync_that_ran_is_late_until_it_runs_again(
    watch: Callable[..., list[str]], runs: Runs, crm: FakeDestination
) -> None:
    runs()
    assert watch() == []
    assert watch(max_delay="0s") == ["contacts"]
    (message,) = heard()
    assert message.startswith("critical: contacts is late (was ok since")
    assert watch() == []
    (message,) = heard()
    assert message.startswith("info: contacts is ok (was late since"), "nobody else reports it"


@pytest.mark.long
def test_a_sync_that_is_known_to_fail_is_not_reported_as_late(
    watch: Callable[..., list[str]], runs: Runs, crm: FakeDestination
) -> None:
    crm.dials = Dials(reject={"2"})
    runs()
    assert watch(max_delay="0s") == ["contacts"]
    assert heard() == []


# -- dbt ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stale_source_and_a_failed_test_of_dbt_are_reported_once_and_so_is_the_recovery(
    run_dag: Callable[..., Any], customers: Callable[[str], None], state_url: Path, tmp_path: Path
) -> None:
    """With real dbt: the messages name the source and the test, and have no value of a row."""
    from airflow.sdk import DAG

    from airflow_reverse_etl.notifications import SyncNotifier
    from airflow_reverse_etl.operators import DbtOperator

    project = tmp_path / "project"
    for name, text in {
        "dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: shop\n",
        "models/people.sql": "select id, email from {{ source('raw', 'customers') }}",
        "models/all.yml": (
            "sources: [{name: raw, schema: main, tables: [{name: customers, config: {loaded_at_field: loaded_at,"
            " freshness: {error_after: {count: 1, period: day}}}}]}]\n"
            "models: [{name: people, columns: [{name: email, data_tests: [unique]}]}]\n"
        ),
    }.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    alert = SyncNotifier(Channel())
    arguments = {"on_success_callback": alert, "on_failure_callback": alert}
    with DAG("shop", schedule=None, default_args=arguments) as dag:
        of_project = {"project": str(project), "profile_conn_id": "warehouse", "deps": False}
        fresh = DbtOperator(task_id="freshness", command="source freshness", **of_project)
        fresh >> DbtOperator(task_id="build", trigger_rule="all_done", **of_project)

    customers("ALTER TABLE customers ADD COLUMN loaded_at TIMESTAMP DEFAULT '2020-01-01'")
    customers("UPDATE customers SET email = 'ada@x.org'")
    run_dag(dag)
    stale, broken = heard()
    assert stale.startswith("critical: shop.freshness is failing.\n")
    assert "source.shop.raw.customers" in stale
    assert broken.startswith("critical: shop.build is failing.\n")
    assert "test.shop.unique_people_email" in broken
    assert "ada@x.org" not in stale + broken
    run_dag(dag)
    assert heard() == []
    customers("UPDATE customers SET email = id || '@x.org', loaded_at = current_timestamp")
    run_dag(dag)
    assert [message.split(" (")[0] for message in heard()] == ["info: shop.freshness is ok", "info: shop.build is ok"]
