"""What a model sync says about changes, and syncs that are written beside their models: real Git, real dbt."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl.assets import catalog_asset
from airflow_reverse_etl.compat import AirflowFailException
from airflow_reverse_etl.operators import DbtMetaSyncsOperator, DbtModelSyncOperator, ReverseEtlOperator
from tests.dbt.projects import keyed, manifest, model
from tests.git.servers import Origin
from tests.operators.tasks import execute

pytestmark = pytest.mark.airflow

PROJECT = "name: shop\nversion: '1.0'\nprofile: shop\n"
MODEL = "{{ config(materialized='table', schema=var('place', none)) }} select 1 as id, 'a@x.org' as email"
#: In JSON, which is YAML.
DECLARED = {"models": [{"name": "people", "columns": [
    {"name": "id", "data_type": "integer", "data_tests": ["unique", "not_null"]},
    {"name": "email", "data_type": "varchar"},
]}]}  # fmt: skip
CHANGED = {"models": [{"name": "people", "columns": [
    {"name": "id", "data_type": "bigint", "data_tests": ["not_null"]},
    {"name": "e_mail", "data_type": "varchar"},
]}]}  # fmt: skip


def sync(name: str, **more: Any) -> dict[str, Any]:
    to = {"type": "file", "url": "/nowhere", "object": name}
    return {
        "name": name,
        "model": "people",
        "source": "warehouse",
        "destination": to,
        "mapping": {"email": "email"},
    } | more


@pytest.fixture
def shop(
    tmp_path: Path, add_connection: Callable[..., None], state_url: Path, monkeypatch: pytest.MonkeyPatch
) -> Origin:
    """A repository with one model, and the connections ``git_dbt`` and ``warehouse``."""
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    origin = Origin.create(tmp_path / "git")
    files = {"dbt_project.yml": PROJECT, "models/people.sql": MODEL, "models/people.yml": json.dumps(DECLARED)}
    origin.commit({f"analytics/{name}": text for name, text in files.items()})
    add_connection("git_dbt", conn_type="git", host=str(origin.bare), extra={"allow_protocols": ["file"]})
    add_connection("warehouse", conn_type="duckdb", host=str(tmp_path / "warehouse.duckdb"))
    return origin


def read(**settings: Any) -> tuple[Any, dict[str, Any]]:
    usual = {"git_conn_id": "git_dbt", "project_path": "analytics", "profile_conn_id": "warehouse", "deps": False}
    return execute(DbtModelSyncOperator(task_id="models", **{**usual, **settings}))


@pytest.mark.long
def test_drift_of_two_commits_is_told_or_fails_as_each_sync_says(
    shop: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file's sync warns, another fails the task, again and again, until it is changed; a third does not care."""
    (tmp_path / "people.yaml").write_text(json.dumps(sync("warns")))
    strict, careless = sync("fails", drift="fail", primary_key="id"), sync("ignores", drift="ignore")
    syncs = [str(tmp_path), strict, careless]
    first, pushed = read(syncs=syncs)
    assert (first["drift"]["since"], first["drift"]["findings"]) == (None, [])
    [(asset, extra)] = pushed["events"]
    assert (asset, extra) == (catalog_asset("git_dbt", "analytics").uri, first)

    changed = {
        "analytics/models/people.yml": json.dumps(CHANGED),
        "analytics/models/people.sql": MODEL.replace("none", "'marts'"),
    }
    shop.commit(changed)
    for _ in range(2):
        capsys.readouterr()
        error, pushed = read(syncs=syncs)
        assert isinstance(error, AirflowFailException)
        assert "column email is missing; it was probably renamed to e_mail" in str(error)
        assert "'fails'" in str(error)
        assert "'warns'" not in str(error)
        found = {(finding["sync"], finding["rule"]) for finding in pushed["drift"]["findings"]}
        assert found == {
            ("fails", "relation-moved"), ("fails", "key-test-removed"), ("fails", "column-missing"),
            ("fails", "column-type"), ("fails", "column-added"), ("warns", "relation-moved"), ("warns", "key-changed"),
            ("warns", "column-missing"), ("warns", "column-added"),
        }  # fmt: skip
        assert pushed["events"] == []
        assert "warns: needs review: column email is missing" in capsys.readouterr().out

    strict["mapping"] = {"email": "e_mail"}
    second, pushed = read(syncs=syncs)
    assert second["previous"] == second["drift"]["since"] == first["commit"]
    assert {finding["sync"] for finding in second["drift"]["findings"]} == {"warns"}
    assert (second["drift"]["breaking"], second["drift"]["review"], second["drift"]["warning"]) == (2, 1, 1)
    assert pushed["events"] == [(asset, second)]
    assert len(json.dumps(second)) < 3000

    again, pushed = read(syncs=syncs)
    assert again["drift"] == {"since": None, "breaking": 0, "review": 0, "warning": 0, "findings": []}
    assert pushed["events"] == []


def test_without_syncs_every_model_is_compared_and_nothing_fails(state_url: Path, tmp_path: Path) -> None:
    """The findings told one by one are few, however many there are."""
    file = tmp_path / "manifest.json"
    names = [f"m{number}" for number in range(30)]
    for schema in ("main", "marts"):
        nodes = [node for name in names for node in (model(name, schema=schema), *keyed(name))]
        file.write_text(json.dumps(manifest(*nodes)))
        found, pushed = execute(DbtModelSyncOperator(task_id="models", source=str(file)))
        assert isinstance(found, dict), found
    assert (found["drift"]["breaking"], len(found["drift"]["findings"])) == (30, 20)
    assert {finding["rule"] for finding in found["drift"]["findings"]} == {"relation-moved"}
    [(asset, _)] = pushed["events"]
    assert asset == catalog_asset("local", str(file)).uri


def test_without_a_change_the_catalog_is_only_asked_whether_it_is_there(state_url: Path, tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest(model("people"), *keyed("people"))))

    def run(*syncs: dict[str, Any]) -> dict[str, Any]:
        found, _ = execute(DbtModelSyncOperator(task_id="models", source=str(file), syncs=syncs))
        assert isinstance(found, dict), found
        return found

    first = run()
    stored = state_url / first["catalog"]
    catalog = stored.read_bytes()
    stored.write_bytes(b"not read")
    assert run() == first
    stored.unlink()
    assert run() == first
    assert stored.read_bytes() == catalog

    run(sync("late"))  # a sync that comes later is remembered
    file.write_text(json.dumps(manifest(model("people", schema="marts"), *keyed("people"))))
    assert {found["sync"] for found in run(sync("late"))["drift"]["findings"]} == {"late"}


@pytest.mark.long
def test_in_a_dag_nothing_runs_behind_a_model_sync_that_drift_stops(
    state_url: Path,
    tmp_path: Path,
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
) -> None:
    """What was found is in XCom, the output is not; no event says that there is another catalog."""
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG

    file = tmp_path / "manifest.json"
    with DAG("stopped", schedule=None) as dag:
        models = DbtModelSyncOperator(
            task_id="models", source=str(file), syncs=[sync("strict", drift="fail", primary_key="id")], retries=3
        )
        models >> EmptyOperator(task_id="behind")
    file.write_text(json.dumps(manifest(model("people"))))
    assert task_states(run_dag(dag)) == {"models": "success", "behind": "success"}
    file.write_text(json.dumps(manifest(model("others"))))
    run = run_dag(dag)
    assert task_states(run) == {"models": "failed", "behind": "upstream_failed"}
    assert xcom(run, "models") is None
    [finding] = xcom(run, "models", key="drift")["findings"]
    assert (finding["sync"], finding["rule"]) == ("strict", "model-missing")
    assert asset_events(run.run_id) == {}


def test_a_sync_that_cannot_be_read_does_not_hold_up_the_models(
    state_url: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own task fails, and says the same."""
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(model("people"))))
    settings: dict[str, Any] = {"task_id": "models", "source": str(tmp_path / "manifest.json")}
    found, _ = execute(DbtModelSyncOperator(**settings, syncs=[{"name": "bad name"}]))
    assert isinstance(found, dict), found
    assert "Not looked at for drift" in capsys.readouterr().out
    missing, _ = execute(DbtModelSyncOperator(**settings, syncs=tmp_path / "nowhere"))
    assert "folder or file of syncs not found" in str(missing)


@pytest.mark.long
def test_a_dag_runs_the_syncs_in_its_models_meta(
    shop: Origin,
    tmp_path: Path,
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
) -> None:
    """Each in a task instance of its own, under its name; one that is not valid is red by itself."""
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG, Asset

    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as db:
        db.execute("create table people as select 1 as id, 'a@x.org' as email")
    with DAG("on_a", schedule=[Asset(name="file/local/a", uri="reverse-etl://file/local/a")]) as behind:
        EmptyOperator(task_id="nothing")
    run_dag(behind)
    with DAG("from_meta", schedule=None) as dag:
        models = DbtModelSyncOperator(
            task_id="models", git_conn_id="git_dbt", project_path="analytics", profile_conn_id="warehouse", deps=False
        )
        syncs = DbtMetaSyncsOperator(task_id="syncs", catalog=models.output)
        ReverseEtlOperator.partial(
            task_id="run", catalog=models.output, map_index_template="{{ task.sync.name }}"
        ).expand(sync=syncs.output)

    specs = [sync(name, destination={"type": "file", "url": str(tmp_path / "out"), "object": name}) for name in "ab"]
    for spec in specs:
        spec.pop("model")
        spec["mapping"]["greeting"] = {"template": "{% raw %}Dear {{ row.email }}{% endraw %}"}  # dbt renders meta
    (declared,) = json.loads(json.dumps(DECLARED))["models"]
    meta = {"meta": {"reverse_etl": [*specs, {"name": "bad", "destination": {"type": "file"}}]}}
    shop.commit({"analytics/models/people.yml": json.dumps({"models": [{**declared, "config": meta}]})})
    run = run_dag(dag)
    assert task_states(run) == {
        "models": "success", "syncs": "success", "run[0]": "success", "run[1]": "success", "run[2]": "failed",
    }  # fmt: skip
    assert [xcom(run, "run", map_index=index)["accepted"] for index in range(2)] == [1, 1]
    told = asset_events(run.run_id)
    assert told["reverse-etl://file/local/a"]["accepted"] == 1
    assert told[catalog_asset("git_dbt", "analytics").uri]["drift"]["findings"] == []
    labels = {ti.map_index: ti.rendered_map_index for ti in run.get_task_instances() if ti.task_id == "run"}
    assert (labels[0], labels[1]) == ("a", "b")
    (written,) = (path for path in (tmp_path / "out" / "a").rglob("*") if path.is_file())
    assert "Dear a@x.org" in written.read_text()


@pytest.mark.slow
def test_projects_of_one_repository_and_of_another_at_the_same_time_on_one_worker(
    shop: Origin,
    tmp_path: Path,
    state_url: Path,
    add_connection: Callable[..., None],
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
) -> None:
    """Same names everywhere, and yet: a catalog, a parse cache, a memory and a destination for each."""
    from airflow.sdk import DAG

    def project(folder: str, place: str) -> dict[str, str]:
        files = {"dbt_project.yml": PROJECT, "models/people.sql": MODEL.replace("none", f"'{place}'")}
        return {f"{folder}/{name}": text for name, text in {**files, "models/m.yml": json.dumps(DECLARED)}.items()}

    second = Origin.create(tmp_path / "second")
    shop.commit(project("other/dbt", "b"))
    second.commit(project("analytics", "c"))
    add_connection("git_second", conn_type="git", host=str(second.bare), extra={"allow_protocols": ["file"]})
    where = {
        "a": {"git_conn_id": "git_dbt", "project_path": "analytics"},
        "b": {"git_conn_id": "git_dbt", "project_path": "other/dbt"},
        "c": {"git_conn_id": "git_second", "project_path": "analytics"},
    }

    def read_all() -> dict[str, Any]:
        with ThreadPoolExecutor() as pool:
            asked = {name: pool.submit(read, deps=True, **place) for name, place in where.items()}
            return {name: found.result()[0] for name, found in asked.items()}

    def caches() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (state_url / "parse_cache").rglob("*") if path.is_file()}

    found = read_all()
    relations = {name: _relation(state_url, output) for name, output in found.items()}
    tables = {"a": "main", "b": "main_b", "c": "main_c"}
    assert relations == {name: f'"warehouse"."{schema}"."people"' for name, schema in tables.items()}
    kept = caches()
    assert len(kept) == 3

    second.commit({"analytics/models/more.sql": "select 1 as one", "analytics/models/m.yml": json.dumps(CHANGED)})
    again = read_all()
    assert {name: output["models"] for name, output in again.items()} == {"a": 1, "b": 1, "c": 2}
    assert {name: bool(output["drift"]["findings"]) for name, output in again.items()} == {
        "a": False,
        "b": False,
        "c": True,
    }
    assert sum(kept[path] != now for path, now in caches().items()) == 1

    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as db:
        for name, schema in tables.items():
            db.execute(f"create schema if not exists {schema}")
            db.execute(f"create table {schema}.people as select 1 as id, '{name}@x.org' as email")
    with DAG("two_repositories", schedule=None) as dag:
        for name, place in where.items():
            models = DbtModelSyncOperator(task_id=f"models_{name}", profile_conn_id="warehouse", **place)
            to = {"type": "file", "url": str(tmp_path / "out"), "object": name}
            spec = sync(f"from_{name}", destination=to, primary_key="id")
            ReverseEtlOperator(task_id=f"sync_{name}", sync=spec, catalog=models.output)
    run = run_dag(dag)
    for name in where:
        assert xcom(run, f"models_{name}")["catalog"] == again[name]["catalog"]
        (written,) = (path for path in (tmp_path / "out" / name).rglob("*") if path.is_file())
        assert f"{name}@x.org" in written.read_text()


def _relation(state_url: Path, output: Any) -> str:
    (people,) = json.loads((state_url / output["catalog"]).read_bytes())["models"]
    return str(people["relation"])


def asset_events(run_id: str) -> dict[str, Any]:
    """URI → extra, of what a DAG run said about assets."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        return {e.asset.uri: e.extra for e in session.query(AssetEvent).filter(AssetEvent.source_run_id == run_id)}


def test_two_syncs_of_one_name_are_refused(state_url: Path, tmp_path: Path) -> None:
    """They would have one state."""
    spec = {**sync("same"), "model": "people"}
    nodes = [model(name, meta={"reverse_etl": spec}) for name in ("people", "others")]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(*nodes)))
    found, _ = execute(DbtModelSyncOperator(task_id="models", source=str(tmp_path / "manifest.json")))
    error, _ = execute(DbtMetaSyncsOperator(task_id="syncs", catalog=found))
    assert isinstance(error, AirflowFailException)
    assert "several syncs have the name same" in str(error)
