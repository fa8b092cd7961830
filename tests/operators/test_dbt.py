"""The dbt operators in real Airflow, with real Git and real dbt on DuckDB."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl.assets import model_asset
from airflow_reverse_etl.compat import AirflowException, AirflowFailException
from airflow_reverse_etl.dbt.runner import DbtProject
from airflow_reverse_etl.operators.dbt import DbtOperator
from airflow_reverse_etl.operators.dbt_models import DbtModelSyncOperator
from tests.git.servers import HttpServer, Origin
from tests.operators.tasks import execute, fake_dbt

pytestmark = pytest.mark.airflow

PROJECT = Path(__file__).parents[2] / "dags_examples" / "dbt_project"


@pytest.fixture
def shop(tmp_path: Path) -> Origin:
    """The example project in a repository, in the folder ``analytics``."""
    origin = Origin.create(tmp_path / "git")
    files = {f"analytics/{p.relative_to(PROJECT)}": p.read_text() for p in PROJECT.rglob("*") if p.is_file()}
    origin.commit({**files, "other/dbt_project.yml": "name: other\n"})
    return origin


@pytest.fixture
def connections(tmp_path: Path, shop: Origin, add_connection: Callable[..., None], state_url: Path) -> Path:
    """``git_dbt`` and ``warehouse``, with raw data for the example project; returns DuckDB's file."""
    path = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("""
            create schema raw;
            create table raw.customers as select i as customer_id, 'C' || i || '@example.com' as email, 'Ada' as
              first_name, 'DE' as country, 'pro' as plan, timestamp '2026-01-01' as created_at from range(1, 11) t(i);
            create table raw.orders as select i as order_id, 1 + i % 10 as customer_id, 10::decimal(10, 2) as amount,
              timestamp '2026-02-01' as ordered_at from range(30) t(i);
        """)
    add_connection("git_dbt", conn_type="git", host=str(shop.bare), extra={"allow_protocols": ["file"]})
    add_connection("warehouse", conn_type="duckdb", host=str(path))
    return path


@pytest.fixture
def checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkouts"
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(folder))
    return folder


@pytest.mark.long
def test_from_a_commit_to_built_models(
    connections: Path,
    checkouts: Path,
    shop: Origin,
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
    state_url: Path,
) -> None:
    """A DAG syncs the models, then builds that very commit; its output is small; the built models are asset events."""
    from airflow.sdk import DAG

    with DAG("built", schedule=None) as dag:
        models = DbtModelSyncOperator(
            task_id="models", git_conn_id="git_dbt", project_path="analytics", profile_conn_id="warehouse"
        )
        DbtOperator(task_id="build", project=models.output, profile_conn_id="warehouse", vars={"day": "{{ ds }}"})
        assert model_asset("customers", "warehouse") not in dag.get_task("build").outlets  # known once it is built

    run = run_dag(dag)

    assert task_states(run) == {"models": "success", "build": "success"}
    synced = xcom(run, "models")
    commit = shop.commit({})
    assert synced["commit"] != commit
    assert len(json.dumps(synced)) < 1000
    assert (synced["project"], synced["models"], synced["project_path"]) == ("analytics", 3, "analytics")
    stored = json.loads((state_url / synced["catalog"]).read_bytes())
    (model,) = [m for m in stored["models"] if m["name"] == "customers"]
    assert model["relation"] == '"warehouse"."main"."customers"'
    assert model["primary_key"] == ["customer_id"]
    with duckdb.connect(str(connections), read_only=True) as db:
        assert db.execute(f"select count(*), sum(orders) from {model['relation']}").fetchall() == [(10, 30)]
    built = xcom(run, "build")
    assert built["commit"] == synced["commit"]
    assert built["counts"] == {"pass": 6, "success": 3}
    assert (built["nodes"], built["failures"], built["exit_code"]) == (9, [], 0)
    assert model_asset("customers", "warehouse").uri in _asset_events()


def _asset_events() -> set[str]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        return {event.asset.uri for event in session.query(AssetEvent)}


def test_unchanged_head_costs_one_ls_remote(
    connections: Path, checkouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second sync of a commit runs neither fetch nor dbt, and says the same."""
    settings = {"git_conn_id": "git_dbt", "project_path": "analytics", "profile_conn_id": "warehouse"}
    manifest = (Path(__file__).parents[1] / "dbt" / "manifests" / "v12-1.12.6.json").absolute()
    once = fake_dbt(tmp_path, f'echo "$1" >> {tmp_path}/calls; cp {manifest} "$DBT_TARGET_PATH/manifest.json"')
    first, _ = execute(DbtModelSyncOperator(task_id="models", dbt_executable=once, **settings))
    from git.cmd import Git

    commands: list[str] = []
    original = Git.execute
    monkeypatch.setattr(
        Git, "execute", lambda self, command, **kw: (commands.append(command), original(self, command, **kw))[1]
    )

    second, _ = execute(DbtModelSyncOperator(task_id="models", dbt_executable=once, **settings))

    assert second == first
    assert (tmp_path / "calls").read_text() == "parse\n"
    assert [command[command.index("git") + 1] for command in commands] == ["ls-remote"]


def test_other_settings_are_another_catalog(connections: Path, checkouts: Path, tmp_path: Path) -> None:
    """The same commit in another schema has other relations: it is parsed again."""
    manifest = (Path(__file__).parents[1] / "dbt" / "manifests" / "v11-1.7.20.json").absolute()
    dbt = fake_dbt(tmp_path, f'cp {manifest} "$DBT_TARGET_PATH/manifest.json"')
    places = set()
    for schema in ("dev", "prod"):
        output, _ = execute(
            DbtModelSyncOperator(
                task_id="models", git_conn_id="git_dbt", project_path="analytics", dbt_executable=dbt,
                profile_conn_id="warehouse", schema=schema,
            )
        )  # fmt: skip
        places.add(output["catalog"])  # type: ignore[index]
    assert len(places) == 2


def test_variables_by_name_and_the_database_without_a_profile(
    connections: Path, checkouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's own values are passed on; another value is another catalog, unless it is a secret's."""
    manifest = (Path(__file__).parents[1] / "dbt" / "manifests" / "v11-1.7.20.json").absolute()
    script = f'echo $REGION $API_TOKEN >> {tmp_path}/seen; cp "$DBT_PROFILES_DIR"/profiles.yml {tmp_path}'
    dbt = fake_dbt(tmp_path, f'{script}; cp {manifest} "$DBT_TARGET_PATH/manifest.json"')

    def read(region: str, token: str) -> Any:
        monkeypatch.setenv("REGION", region)
        monkeypatch.setenv("API_TOKEN", token)
        settings: dict[str, Any] = {"git_conn_id": "git_dbt", "project_path": "analytics", "database": "LAKE"}
        names = ["REGION", "API_TOKEN"]
        return execute(DbtModelSyncOperator(task_id="models", dbt_executable=dbt, env=names, **settings))[0]

    first = read("eu", "one")
    assert isinstance(first, dict), first
    assert read("us", "one")["catalog"] != first["catalog"]
    assert read("eu", "two")["catalog"] == first["catalog"]
    assert (tmp_path / "seen").read_text() == "eu one\nus one\n"
    assert "LAKE.duckdb" in (tmp_path / "profiles.yml").read_text()
    monkeypatch.delenv("REGION")
    error, _ = execute(DbtModelSyncOperator(task_id="models", git_conn_id="git_dbt", env=["REGION"]))
    assert isinstance(error, AirflowFailException)
    assert "not set on this worker: REGION" in str(error)


@pytest.mark.long
def test_without_a_profile_relations_carry_no_database(connections: Path, checkouts: Path, state_url: Path) -> None:
    """Nobody says where the models are: the reader's connection decides on the database."""
    output, _ = execute(DbtModelSyncOperator(task_id="models", git_conn_id="git_dbt", project_path="analytics"))
    assert isinstance(output, dict), output
    stored = json.loads((state_url / output["catalog"]).read_bytes())
    assert {m["relation"] for m in stored["models"] if m["name"] == "customers"} == {'"main"."customers"'}


@pytest.mark.slow
def test_adapter_that_is_not_installed_and_what_is_kept_between_parses(
    connections: Path, checkouts: Path, shop: Origin, state_url: Path, add_connection: Callable[..., None]
) -> None:
    """dbt-duckdb stands in for dbt-snowflake, relations are Snowflake's; dbt parses on from what it kept."""
    snow = {"account": "a", "database": "ANALYTICS", "warehouse": "w"}
    add_connection("snow", conn_type="snowflake", login="u", password="pa55word-of-snow", schema="PROD", extra=snow)
    settings = {"git_conn_id": "git_dbt", "project_path": "analytics", "profile_conn_id": "snow"}
    first, _ = execute(DbtModelSyncOperator(task_id="models", **settings))
    assert isinstance(first, dict), first
    stored = json.loads((state_url / first["catalog"]).read_bytes())
    assert stored["adapter"] == "snowflake"
    assert {m["relation"] for m in stored["models"] if m["name"] == "customers"} == {"ANALYTICS.PROD.customers"}
    (kept,) = (path for path in (state_url / "parse_cache").rglob("*") if path.is_file())
    before = kept.read_bytes()

    settled = (PROJECT / "dbt_project.yml").read_text() + "\nquoting: {identifier: true}\n"
    vips = {"analytics/models/marts/vips.sql": "select * from {{ ref('customers') }}"}
    shop.commit({**vips, "analytics/dbt_project.yml": settled})
    second, _ = execute(DbtModelSyncOperator(task_id="models", **settings))
    assert isinstance(second, dict), second
    assert (second["models"], second["previous"]) == (4, first["commit"])
    assert kept.read_bytes() != before
    stored = json.loads((state_url / second["catalog"]).read_bytes())
    assert {m["relation"] for m in stored["models"] if m["name"] == "customers"} == {'ANALYTICS.PROD."customers"'}
    assert not [p for p in state_url.rglob("*") if p.is_file() and b"pa55word-of-snow" in p.read_bytes()]

    rolled_back, _ = execute(DbtModelSyncOperator(task_id="models", ref=first["commit"], **settings))
    assert isinstance(rolled_back, dict), rolled_back
    rules = {finding["rule"] for finding in rolled_back["drift"]["findings"]}
    assert rules == {"relation-moved", "model-missing"}
    drift = rolled_back["drift"]
    assert rolled_back == {**first, "ref": first["commit"], "previous": second["commit"], "drift": drift}


MANIFEST = Path(__file__).parents[1] / "dbt" / "manifests" / "v12-1.12.6.json"


def test_models_from_a_manifest_file(state_url: Path, tmp_path: Path) -> None:
    """No Git and no dbt; only the models that are asked for; another manifest is another catalog."""
    file = tmp_path / "manifest.json"
    file.write_bytes(MANIFEST.read_bytes())
    operator = DbtModelSyncOperator(task_id="models", source=str(file), select=["customers", "tag:nothing"])
    first, _ = execute(operator)
    assert isinstance(first, dict), first
    stored = json.loads((state_url / first["catalog"]).read_bytes())
    assert {model["name"] for model in stored["models"]} == {"customers"}
    assert "git_conn_id" not in first
    assert execute(operator)[0] == first
    file.write_text(file.read_text() + "\n")
    second, _ = execute(operator)
    assert isinstance(second, dict), second
    assert second["previous"] == first["commit"] != second["commit"]
    error, _ = execute(DbtOperator(task_id="b", project=first))
    assert "has no repository" in str(error)
    error, _ = execute(DbtModelSyncOperator(task_id="models", source=str(tmp_path / "nope.json")))
    assert "the file was not found" in str(error)


def test_models_from_a_url(state_url: Path, http: HttpServer, add_connection: Callable[..., None]) -> None:
    """With the connection's token, which goes to its host only; signatures in the URL are not repeated."""
    (http.root / "origin.git" / "objects" / "info").mkdir(exist_ok=True)
    folder = http.root / "origin.git" / "objects" / "info"
    (folder / "http-alternates").write_bytes(MANIFEST.read_bytes())  # a file that git http-backend hands out as it is
    url = f"{http.url()}/objects/info/http-alternates"
    add_connection("artifacts", conn_type="reverse_etl_http", host=http.url(""), login=http.user, password=http.token)
    output, _ = execute(DbtModelSyncOperator(task_id="m", source=f"{url}?sig=s1gned", source_conn_id="artifacts"))
    assert isinstance(output, dict), output
    assert output["source"] == url
    assert output["models"] > 0
    refused, _ = execute(DbtModelSyncOperator(task_id="m", source=f"{url}?sig=s1gned"))
    assert isinstance(refused, AirflowFailException)
    assert "s1gned" not in str(refused)
    other, _ = execute(
        DbtModelSyncOperator(task_id="m", source="https://example.invalid/m", source_conn_id="artifacts")
    )
    assert "the source's host is not the connection's host" in str(other)
    http.status = 503
    later, _ = execute(DbtModelSyncOperator(task_id="m", source=url, source_conn_id="artifacts"))
    assert isinstance(later, AirflowException)
    assert not isinstance(later, AirflowFailException)


def test_wrong_project_path_names_those_that_exist(connections: Path, checkouts: Path) -> None:
    """Nothing that a retry would help: the task fails at once, and says what to write."""
    error, _ = execute(DbtModelSyncOperator(task_id="models", git_conn_id="git_dbt", project_path="main/analytics"))
    assert isinstance(error, AirflowFailException)
    assert "without the branch's name: 'analytics'" in str(error)
    error, _ = execute(DbtModelSyncOperator(task_id="models", git_conn_id="git_dbt", project_path="dbt"))
    assert "analytics/dbt_project.yml, other/dbt_project.yml" in str(error)


def test_failing_dbt_is_red_and_still_reports(
    connections: Path, tmp_path: Path, add_connection: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts and failures with dbt's messages are pushed, progress is logged, the password is nowhere."""
    password = "pa55word-of-postgres"
    results = {"results": [
        {"unique_id": "model.p.a", "status": "success", "message": "OK", "execution_time": 0.1},
        {"unique_id": "model.p.b", "status": "error", "message": f"no table for {password}", "execution_time": 0.1},
    ]}  # fmt: skip
    line = json.dumps({"info": {"level": "info", "msg": f"1 of 2 OK created model a with {password}"}})
    dbt = fake_dbt(
        tmp_path,
        f"""echo '{line}'; echo "password is $DBT_ENV_SECRET_PASSWORD"; cat $DBT_PROFILES_DIR/profiles.yml
        echo '{json.dumps(results)}' > $DBT_TARGET_PATH/run_results.json; exit 1""",
    )
    add_connection("pg", conn_type="postgres", host="db", login="u", password=password, schema="d")

    error, pushed = execute(
        DbtOperator(
            task_id="b", project=str(PROJECT), command="run", profile_conn_id="pg", dbt_executable=dbt, target="prod"
        )
    )

    assert isinstance(error, AirflowException)
    assert not isinstance(error, AirflowFailException)  # a lost connection fails dbt too: retries may help
    assert "model.p.b: error: no table for ***" in str(error)
    summary = pushed["return_value"]
    assert summary["counts"] == {"error": 1, "success": 1}
    assert summary["failures"] == [{"unique_id": "model.p.b", "status": "error", "message": "no table for ***"}]
    assert (summary["target"], summary["exit_code"]) == ("prod", 1)
    log = capsys.readouterr().out
    assert "1 of 2 OK created model a" in log
    assert "password is ***" in log
    assert "env_var('DBT_ENV_SECRET_PASSWORD')" in log  # what is on disk
    assert password not in log + str(error) + json.dumps(pushed)


@pytest.mark.parametrize(("command", "error"), [("parse", AirflowFailException), ("build", AirflowException)])
def test_a_project_that_dbt_cannot_read_is_not_retried(tmp_path: Path, command: str, error: type[Exception]) -> None:
    """Only a run may be: dbt may have lost its connection."""
    dbt = fake_dbt(tmp_path, "echo 'Compilation Error'; exit 2")
    raised, _ = execute(DbtOperator(task_id="b", project=str(PROJECT), command=command, dbt_executable=dbt))
    assert type(raised) is error
    assert f"dbt {command} failed with exit code 2: Compilation Error" in str(raised)


def test_killed_task_stops_dbt(connections: Path, tmp_path: Path) -> None:
    """on_kill ends dbt and what it started, even when it does not listen, and the task is red."""

    class Impatient(DbtOperator):
        def _project(self, path: Path, context: Any, **settings: Any) -> DbtProject:
            return super()._project(path, context, grace_seconds=0.2, **settings)

    dbt = fake_dbt(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; trap '' INT; wait")
    operator = Impatient(task_id="b", project=str(PROJECT), profile_conn_id="warehouse", dbt_executable=dbt)

    def kill_when_started() -> None:
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            time.sleep(0.01)
        operator.on_kill()

    killer = threading.Thread(target=kill_when_started)
    killer.start()
    error, _ = execute(operator)
    killer.join()
    assert "was stopped: it was cancelled" in str(error)
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_env_is_templated_but_never_stored() -> None:
    """What Airflow stores and shows of a task are its template fields: ``env`` is none of them."""
    assert "env" not in DbtOperator.template_fields
    assert "env" not in DbtModelSyncOperator.template_fields
