"""What dbt tasks keep for the next run, for their retries and for syncs behind them: with real dbt on DuckDB."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl.compat import AirflowSkipException
from airflow_reverse_etl.dbt.run_state import gate_evidence, gate_reasons, without_state
from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.operators import DbtOperator, DbtPipeline, ReverseEtlOperator
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.wiring import state_files
from tests.dbt.projects import keyed, manifest, model
from tests.git.servers import Origin, git
from tests.operators.tasks import context, execute, fake_dbt

pytestmark = pytest.mark.airflow

TABLE = "{{ config(materialized='table') }}"


@pytest.fixture
def project(tmp_path: Path, state_url: Path, add_connection: Callable[..., None]) -> Path:
    """``a`` (with a test), and ``b`` on it, which needs the table ``raw``."""
    folder = tmp_path / "project"
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text("name: shop\nversion: '1.0'\nprofile: shop\n")
    (folder / "models" / "a.sql").write_text("{{ config(materialized='table') }} select 1 as id")
    (folder / "models" / "b.sql").write_text(
        "{{ config(materialized='table') }} select a.id from {{ ref('a') }} a, raw"
    )
    (folder / "models" / "m.yml").write_text("models: [{name: a, columns: [{name: id, tests: [unique]}]}]")
    add_connection("warehouse", conn_type="duckdb", host=str(tmp_path / "w.duckdb"))
    return folder


def sql(project: Path, statement: str) -> None:
    with duckdb.connect(str(project.parent / "w.duckdb")) as db:
        db.execute(statement)


def build(project: Path, **settings: Any) -> DbtOperator:
    return DbtOperator(task_id="build", project=str(project), profile_conn_id="warehouse", deps=False, **settings)


def reasons(files: StateFiles, gate: Sequence[Mapping[str, Any]], unique_id: str) -> tuple[str, ...]:
    return gate_reasons(gate, gate_evidence(files, gate), unique_id)


@pytest.mark.slow
def test_retry_of_what_failed_only_and_the_gate(project: Path, state_url: Path) -> None:
    """The next tries run ``b`` alone; their outputs tell of the whole run; a cleared task begins again."""
    failed, pushed = execute(build(project, retry_failed_only=True))
    assert "model.shop.b" in str(failed)
    first = pushed["return_value"]
    files = state_files()
    assert reasons(files, [first], "model.shop.a") == ()
    assert "was not built: error" in reasons(files, [first], "model.shop.b")[0]
    compiled, _ = execute(build(project, command="docs generate", select="a"))
    assert isinstance(compiled, dict), compiled
    assert compiled["counts"]["success"] > 0  # dbt says so of what it compiled: it opens no gate, and closes none
    assert reasons(files, [compiled], "model.shop.a") == ("dbt has built and tested nothing",)
    assert reasons(files, [first, compiled], "model.shop.a") == ()
    (kept,) = (state_url / "dbt_failed").rglob("run_results.json")
    assert "does not exist" not in kept.read_text()

    failed, pushed = execute(build(project, retry_failed_only=True), try_number=2)
    assert "Table with name raw does not exist" in str(failed)
    assert pushed["return_value"]["counts"] == {"error": 1, "pass": 1, "success": 1}
    sql(project, "create table raw as select 1 as x")
    third, _ = execute(build(project, retry_failed_only=True), try_number=3)
    assert isinstance(third, dict), third
    assert third["command"] == "retry"
    assert third["counts"] == {"pass": 1, "success": 2}
    assert reasons(files, [third], "model.shop.b") == ()
    cleared, _ = execute(build(project, retry_failed_only=True), try_number=3, max_tries=3)
    assert isinstance(cleared, dict), cleared
    assert cleared["command"] == "build"


@pytest.mark.slow
def test_only_what_changed_since_the_last_success(project: Path) -> None:
    """Everything while nothing has succeeded; then the modified models, the rest from where it is; in a retry, too."""
    sql(project, "create table raw as select 1 as x")
    slim: dict[str, Any] = {"select": "state:modified+", "state": "last_successful", "exclude": None}
    first, _ = execute(build(project, **slim))
    assert isinstance(first, dict), first
    assert first["nodes"] == 3
    nothing, _ = execute(build(project, **slim))
    assert isinstance(nothing, dict), nothing
    assert nothing["nodes"] == 0

    (project / "models" / "b.sql").write_text(f"{TABLE} select a.id from {{{{ ref('a') }}}} a, later")
    slim |= {"state": "last_successful:default", "schema": "ci", "target": "ci"}
    failed, _ = execute(build(project, **slim, defer_to_state=True, retry_failed_only=True))
    assert "Table with name later does not exist" in str(failed)
    sql(project, "create table later as select 1 as x")
    changed, _ = execute(build(project, **slim, defer_to_state=True, retry_failed_only=True), try_number=2)
    assert isinstance(changed, dict), changed
    assert (changed["command"], changed["counts"]) == ("retry", {"success": 1})
    sql(project, "select id from ci.b")


def test_selection_while_there_is_nothing_to_compare_with() -> None:
    """All counts as new: only what narrows otherwise stays."""
    assert without_state(["tag:crm,state:modified+", "a"]) == ["tag:crm", "a"]
    assert without_state(["1+state:modified", "a"]) == without_state([]) == []


def test_one_model_is_no_state_of_the_project(tmp_path: Path, state_url: Path) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: shop")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(model("a"))))
    dbt = fake_dbt(tmp_path, f'cp {tmp_path}/manifest.json "$DBT_TARGET_PATH"')
    done, _ = execute(DbtOperator(task_id="b", project=str(tmp_path), dbt_executable=dbt, select="a"))
    assert isinstance(done, dict), done
    assert not list((state_url / "dbt_state").rglob("manifest.json"))


def test_artifacts_are_pushed_to_a_branch(
    tmp_path: Path,
    origin: Origin,
    state_url: Path,
    monkeypatch: pytest.MonkeyPatch,
    add_connection: Callable[..., None],
) -> None:
    """After success, with the commit in the message; a project that is not from Git says so."""
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    add_connection("git_dbt", conn_type="git", host=str(origin.bare), extra={"allow_protocols": ["file"]})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(model("a"))))
    dbt = fake_dbt(tmp_path, f'cp {tmp_path}/manifest.json "$DBT_TARGET_PATH"')
    commit = git(origin.work, "rev-parse", "HEAD")
    project = {
        "project": "analytics", "commit": commit, "ref": "main", "git_conn_id": "git_dbt", "project_path": "analytics",
    }  # fmt: skip
    settings: dict[str, Any] = {"command": "run", "dbt_executable": dbt, "deps": False, "push_branch": "artifacts"}
    done, _ = execute(DbtOperator(task_id="b", project=project, **settings))
    assert isinstance(done, dict), done
    assert git(origin.bare, "log", "-1", "--format=%s", "artifacts") == f"dbt run of {commit}"
    assert json.loads(git(origin.bare, "show", "artifacts:dbt_artifacts/manifest.json"))["nodes"]
    (tmp_path / "dbt_project.yml").write_text("name: shop")
    refused, _ = execute(DbtOperator(task_id="b", project=str(tmp_path), **settings))
    assert "no repository to push to" in str(refused)


def test_pipeline_is_a_group_in_order(project: Path, serialize_dag: Callable[[Any], dict[str, Any]]) -> None:
    from airflow.sdk import DAG

    with DAG("p", schedule=None) as dag:
        before, after = DbtOperator(task_id="before", project="x"), DbtOperator(task_id="after", project="x")
        dbt = DbtPipeline(project="p", select="tag:crm", dbt={"profile_conn_id": "warehouse", "target": "prod"})
        before >> dbt >> after
    serialize_dag(dag)
    order = ["before", "dbt.freshness", "dbt.snapshot", "dbt.run", "dbt.test", "dbt.docs", "after"]
    assert [task.task_id for task in dag.topological_sort()] == order
    assert (dbt.steps["freshness"].select, dbt.steps["run"].select) == (None, "tag:crm")
    assert dbt.steps["docs"].command == "docs generate"
    assert [output.operator.task_id for output in dbt.outputs] == order[1:-1]
    with pytest.raises(SpecError, match="is not a step"):
        DbtPipeline("other", project="p", steps=["tests"])


def test_pipeline_completes_with_its_tests(tmp_path: Path, state_url: Path) -> None:
    """What the next ``state:modified+`` compares with is not moved on by a run whose tests were not seen to pass."""
    from airflow.sdk import DAG

    (tmp_path / "dbt_project.yml").write_text("name: shop")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(model("a"))))
    dbt = fake_dbt(tmp_path, f'cp {tmp_path}/manifest.json "$DBT_TARGET_PATH"')
    kept = []
    for steps in (("run", "test"), ("run",)):
        with DAG("p", schedule=None):
            dbt_of = {"dbt_executable": dbt, "target": steps[-1]}
            pipeline = DbtPipeline("dbt", project=str(tmp_path), steps=steps, dbt=dbt_of)
        for step in pipeline.steps.values():
            assert isinstance(execute(step)[0], dict)
            kept.append(len(list((state_url / "dbt_state").rglob("manifest.json"))))
    assert kept == [0, 1, 2]


def test_gate_of_a_sync(state_url: Path, tmp_path: Path) -> None:
    """Skipped with the reason; without a dbt result; a gate without a catalog is a mistake."""
    from airflow_reverse_etl.operators import DbtModelSyncOperator

    parsed = manifest(model("customers"), *keyed("customers"))
    (tmp_path / "manifest.json").write_text(json.dumps(parsed))
    catalog, _ = execute(DbtModelSyncOperator(task_id="models", source=str(tmp_path / "manifest.json")))
    row = {"unique_id": "model.shop.customers", "status": "error", "execution_time": 0, "message": ""}
    (tmp_path / "run_results.json").write_text(json.dumps({"results": [row]}))
    dbt = fake_dbt(tmp_path, f'cp {tmp_path}/*.json "$DBT_TARGET_PATH"; exit 1')
    (tmp_path / "dbt_project.yml").write_text("name: shop")
    _, pushed = execute(DbtOperator(task_id="b", project=str(tmp_path), dbt_executable=dbt))
    spec = {
        "name": "s", "model": "customers", "source": "w", "primary_key": "id",
        "destination": {"type": "file", "path": "x"}, "mapping": {"id": "id"},
    }  # fmt: skip
    sync = Sync.load(spec)
    for gate, words in ((pushed["return_value"], "was not built: error"), ([None], "produced no result")):
        operator = ReverseEtlOperator(task_id="s", sync=sync, catalog=catalog, gate=gate)  # type: ignore[arg-type]
        given = context()
        with pytest.raises(AirflowSkipException, match=words):
            operator._check_gate(sync, given)
        shown = [node.get("status") for node in given["pushed"]["picture"]["nodes"]]
        assert shown == (["error"] if "error" in words else [None]), "the page shows why"
    with pytest.raises(ConfigurationError, match="needs a dbt model and its catalog"):
        ReverseEtlOperator(task_id="s", sync=sync, gate=[])._check_gate(sync, context())
