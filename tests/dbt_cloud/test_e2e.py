"""In a whole Airflow (scheduler, triggerer, API server, DAG processor): a sensor, a watcher and a webhook.

One Airflow for all, and about two minutes on two cores; ``pytest -m e2e``.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest

from airflow_reverse_etl.dbt_cloud.models import RunStatus
from tests.dbt_cloud.server import DbtCloudServer
from tests.standalone import Airflow, free_port

pytestmark = [pytest.mark.airflow, pytest.mark.e2e, pytest.mark.slow]

SENSOR, WATCHER, WEBHOOK = 101, 102, 103

DAGS = f"""
from datetime import timedelta

from airflow.sdk import DAG
from airflow_reverse_etl.sensors import DbtCloudJobSensor
from airflow_reverse_etl.triggers import dbt_cloud_job

def done(job, **options):
    # Tasks may start before the API server does.
    retries = {{"retries": 9, "retry_delay": timedelta(seconds=3)}}
    return DbtCloudJobSensor(
        task_id="done", dbt_cloud_conn_id="dbt_cloud", job_id=job, poke_interval=2, **retries, **options
    )

with DAG("sensor", schedule="@once"):
    done({SENSOR})
with DAG("watcher", schedule=[dbt_cloud_job("dbt_cloud", {WATCHER}, poll_interval=2)]):
    done({WATCHER}, wait=False)
with DAG("webhook", schedule=[dbt_cloud_job("dbt_cloud", {WEBHOOK}, poll_interval=3600)]):
    done({WEBHOOK}, wait=False, consume="each", on_failure="wait")
"""

PLUGIN = "from airflow_reverse_etl.plugins.dbt_cloud_webhook import DbtCloudWebhookPlugin"


@pytest.fixture(scope="module")
def server() -> Iterator[DbtCloudServer]:
    with DbtCloudServer() as cloud:
        for job in (SENSOR, WATCHER, WEBHOOK):
            cloud.add_job(job_id=job)
        yield cloud


@pytest.fixture(scope="module")
def port() -> int:
    """Return a free port for the API server. The webhook's URL contains it before Airflow runs."""
    return free_port()


@pytest.fixture(scope="module")
def airflow(server: DbtCloudServer, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    for folder, code in {"dags": DAGS, "plugins": PLUGIN}.items():
        (home / folder).mkdir()
        if folder == "dags" or not entry_points(group="airflow.plugins", name="reverse_etl_dbt_cloud_webhook"):
            (home / folder / "e2e.py").write_text(code)  # the package may be on the path only, not installed
    secret = server.subscribe(WEBHOOK, f"http://localhost:{port}/reverse-etl/dbt-cloud/dbt_cloud")
    connection = {
        "conn_type": "dbt_cloud",
        "host": server.url,
        "login": str(server.account_id),
        "password": server.token,
        "extra": {"webhook_secret": secret},
    }
    environment = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "e2e:admin",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        "AIRFLOW__REVERSE_ETL__DBT_CLOUD_WEBHOOKS": "dbt_cloud",
    }
    with Airflow.running(home, connections={"dbt_cloud": connection}, environment=environment, port=port) as running:
        yield running


def runs_taken(airflow: Airflow, dag_id: str) -> list[int]:
    return [output["run_id"] for output in airflow.xcoms(dag_id, "done")]


def consumed(airflow: Airflow, dag_id: str) -> list[int]:
    """Return every run that a DAG took, or passed over for a newer one, as often as it did."""
    outputs = airflow.xcoms(dag_id, "done")
    return [id_ for output in outputs for id_ in (*output["superseded"], output["run_id"])]


def set_paused(airflow: Airflow, port: int, dag_id: str, *, paused: bool) -> None:
    """Pause or unpause a DAG, as the switch in the UI does."""
    ((user, password),) = json.loads(
        (airflow.home / "simple_auth_manager_passwords.json.generated").read_text()
    ).items()
    token = _send("POST", f"http://localhost:{port}/auth/token", {"username": user, "password": password})
    about = {"Authorization": f"Bearer {token['access_token']}"}

    def switched() -> bool:
        try:
            _send("PATCH", f"http://localhost:{port}/api/v2/dags/{dag_id}", {"is_paused": paused}, about)
        except urllib.error.HTTPError as error:
            if error.code != 500:  # SQLite is locked now and then
                raise
            return False
        return True

    airflow.until("the switch is taken", switched)


def _send(method: str, url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def events(airflow: Airflow, job: int) -> list[dict[str, Any]]:
    return [extra["payload"] for extra in airflow.events(f"dbt_cloud/dbt_cloud/{job}")]


def test_sensor_watcher_and_webhook(server: DbtCloudServer, airflow: Airflow) -> None:
    """Each DAG consumes its job's finished run once, with its commit. A failed run starts nothing."""
    state = airflow.home / "reverse_etl" / "dbt_cloud" / "watchers"
    ready = airflow.until("the sensor waits in the triggerer", lambda: airflow.states("sensor") == ["deferred"])
    watching = "select count(*) from asset_state_store" if airflow.has_state_store() else ""
    ready += airflow.until(
        "the watchers watch", lambda: airflow.query(watching)[0][0] >= 2 if watching else any(state.rglob("*.json"))
    )

    server.add_run(WATCHER, status=RunStatus.ERROR)
    ran = {job: server.add_run(job) for job in (SENSOR, WATCHER, WEBHOOK)}
    delivered = server.deliveries[-1]["status"]
    event = airflow.until("the watcher's event", lambda: events(airflow, WATCHER))
    airflow.until("all consumed", lambda: all(runs_taken(airflow, dag) for dag in ("sensor", "watcher", "webhook")))

    assert delivered == 200
    assert runs_taken(airflow, "sensor") == [ran[SENSOR]]
    assert runs_taken(airflow, "watcher") == [ran[WATCHER]]
    assert runs_taken(airflow, "webhook") == [ran[WEBHOOK]]
    assert [payload["run_id"] for payload in events(airflow, WATCHER)] == [ran[WATCHER]]
    assert events(airflow, WATCHER)[0]["git_sha"] == server.sha(ran[WATCHER])
    assert {payload["run_id"] for payload in events(airflow, WEBHOOK)} == {ran[WEBHOOK]}  # its watcher may repeat it
    print(f"ready after {ready:.0f} s, the watcher's event {event:.1f} s after the run finished")


def test_nothing_is_lost_while_the_consumers_are_paused(server: DbtCloudServer, airflow: Airflow, port: int) -> None:
    """Airflow starts a paused DAG for no event, not even later. After unpausing, the DAG consumes all runs that
    finished meanwhile: those announced while Airflow still watched, those the webhook delivered, and those nobody saw.
    """
    dags = ("watcher", "webhook")
    before = {dag: consumed(airflow, dag) for dag in dags}
    parsed_at = "select max(last_parsed_time) from dag"
    parsed = airflow.query(parsed_at)
    airflow.until("the DAGs are parsed again", lambda: airflow.query(parsed_at) != parsed)
    for dag in dags:
        set_paused(airflow, port, dag, paused=True)

    heard = len(events(airflow, WATCHER))
    ran = {"watcher": [server.add_run(WATCHER)]}
    airflow.until("an event for a paused DAG", lambda: len(events(airflow, WATCHER)) > heard)
    watchers = "select 1 from \"trigger\" where classpath like '%.DbtCloudJobTrigger'"
    stopped = airflow.until("the watchers are stopped", lambda: not airflow.query(watchers))
    ran["webhook"] = [server.add_run(WEBHOOK), server.add_run(WEBHOOK)]
    assert [sent["status"] for sent in server.deliveries[-2:]] == [200, 200]
    server.add_run(WEBHOOK, status=RunStatus.ERROR)
    ran["webhook"].append(server.add_run(WEBHOOK, deliver=False))
    time.sleep(3)
    assert {dag: consumed(airflow, dag) for dag in dags} == before

    for dag in dags:
        set_paused(airflow, port, dag, paused=False)
    every = {dag: before[dag] + ran[dag] for dag in dags}
    took = airflow.until("all consumed", lambda: all({*consumed(airflow, dag)} >= {*every[dag]} for dag in dags))
    time.sleep(3)  # for what is repeated
    assert {dag: consumed(airflow, dag) for dag in dags} == every
    assert runs_taken(airflow, "webhook") == every["webhook"]  # one by one
    print(f"watchers stopped {stopped:.0f} s after the pause, all consumed {took:.0f} s after its end")
