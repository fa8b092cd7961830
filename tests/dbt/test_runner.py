"""dbt as a process: environment, messages and end; with real dbt where only dbt can answer."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from airflow_reverse_etl.dbt.errors import advice
from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.dbt.parse import ProjectParser
from airflow_reverse_etl.dbt.profiles import Profile, placeholder_profile
from airflow_reverse_etl.dbt.runner import DbtProject, DbtResult, find_executable, needs_packages, split_command
from airflow_reverse_etl.errors import ConfigurationError, DbtRunError, ProjectError, ReverseEtlError
from airflow_reverse_etl.stores.files import StateFiles


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dbt_project.yml").write_text("name: shop\nversion: '1.0'\nprofile: shop\n")
    return folder


def dbt(project: Path, script: str, **settings: object) -> DbtProject:
    """Return the project with a shell script in place of dbt, which has little time to stop by itself."""
    settings = {"grace_seconds": 0.3, **settings}
    path = project.parent / "fake-dbt"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return DbtProject(project, str(path), **settings)  # type: ignore[arg-type]


def target(project: Path) -> Path:
    folder = project.parent / "target"
    folder.mkdir(exist_ok=True)
    return folder


def message(text: str, level: str = "info") -> str:
    return json.dumps({"info": {"level": level, "msg": text}, "data": {}})


# -- input of dbt ----------------------------------------------------------------------------------------------------


def test_environment_holds_nothing_of_the_worker_but_harmless_names(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A macro of the repository can read the environment, which does not contain Airflow's secrets."""
    monkeypatch.setenv("AIRFLOW_CONN_CRM", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("DBT_PASSWORD", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    lines: list[str] = []
    run = dbt(project, "env", env={"REGION": "eu"})
    run.run(["build"], target_path=target(project), on_message=lambda _, text: lines.append(text))
    names = {line.partition("=")[0] for line in lines}
    assert not names & {"AIRFLOW_CONN_CRM", "AIRFLOW_HOME", "AWS_SECRET_ACCESS_KEY", "DBT_PASSWORD"}
    assert {"PATH", "HTTPS_PROXY", "REGION", "DBT_TARGET_PATH"} <= names


def test_command_line(project: Path) -> None:
    """Target and variables are options; folders and formats are in the environment."""
    run = dbt(project, 'echo "$@"; echo $DBT_PROJECT_DIR $DBT_PROFILES_DIR', target="prod", variables={"a": 1})
    lines: list[str] = []
    run.run(["source", "freshness"], target_path=target(project), on_message=lambda _, text: lines.append(text))
    assert lines == ['source freshness --target prod --vars {"a": 1}', f"{project} {project}"]


def test_a_project_without_a_profiles_name_gets_the_profile_that_is_given(project: Path) -> None:
    (project / "dbt_project.yml").write_text("name: shop\nversion: '1.0'\n")
    lines: list[str] = []
    run = dbt(project, 'echo "$@"', profile=Profile({"type": "duckdb"}))
    run.run(["build"], target_path=target(project), on_message=lambda _, text: lines.append(text))
    assert lines == ["build --profile shop"]


def test_profile_exists_while_dbt_runs_with_secrets_in_the_environment_only(project: Path) -> None:
    profile = Profile(
        {"type": "postgres", "password": "{{ env_var('DBT_ENV_SECRET_P') }}"}, {"DBT_ENV_SECRET_P": "hidden-1"}
    )
    lines: list[str] = []
    run = dbt(
        project,
        'echo "$DBT_PROFILES_DIR"; cat "$DBT_PROFILES_DIR/profiles.yml"; echo; echo $DBT_ENV_SECRET_P',
        profile=profile,
    )
    run.run(["build"], target_path=target(project), on_message=lambda _, text: lines.append(text))
    assert not Path(lines[0]).exists()
    assert '"shop": {' in "".join(lines)
    assert lines[-1] == "***"
    assert "hidden-1" not in "".join(lines) + repr(run)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("build", ["build"]),
        ("dbt source freshness", ["source", "freshness"]),
        (["run", "-s", "a b"], ["run", "-s", "a b"]),
    ],
)
def test_commands(command: str | list[str], words: list[str]) -> None:
    assert split_command(command) == words


def test_no_command_and_no_executable() -> None:
    with pytest.raises(ConfigurationError, match="command='build'"):
        split_command("dbt")
    with pytest.raises(ConfigurationError, match="dbt_executable"):
        find_executable("/no/such/dbt")


def test_executable_next_to_this_python_is_found_without_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker started as /venv/bin/airflow has no activated environment."""
    monkeypatch.setenv("PATH", "/usr/bin")
    assert Path(find_executable("dbt")).parent == Path(sys.executable).parent


# -- output of dbt ---------------------------------------------------------------------------------------------------


def test_messages_come_while_dbt_runs(project: Path) -> None:
    """Each line arrives as it is written, JSON or not, except debug messages."""
    script = f"""echo '{message("1 of 2 OK")}'; echo '{message("noise", "debug")}'; echo plain; sleep 0.5
    echo '{message("2 of 2 ERROR", "error")}'"""
    heard: list[tuple[float, str, str]] = []
    outcome = dbt(project, script).run(
        ["build"],
        target_path=target(project),
        on_message=lambda level, text: heard.append((time.monotonic(), level, text)),
    )
    assert [(level, text) for _, level, text in heard] == [
        ("info", "1 of 2 OK"),
        ("info", "plain"),
        ("error", "2 of 2 ERROR"),
    ]
    assert heard[-1][0] - heard[0][0] > 0.4
    assert (outcome.exit_code, outcome.errors, outcome.nodes) == (0, ("2 of 2 ERROR",), ())


def test_results_and_failures(project: Path) -> None:
    rows = [
        {"unique_id": "model.shop.a", "status": "success", "message": "OK", "execution_time": 1.5},
        {"unique_id": "test.shop.t", "status": "fail", "message": "Got 1 result", "execution_time": 0.1},
        {"unique_id": "model.shop.b", "status": "skipped", "message": None, "execution_time": 0},
        {"unique_id": "test.shop.w", "status": "warn", "message": "x" * 9999, "execution_time": 0.1},
    ]  # fmt: skip
    script = f"echo '{json.dumps({'results': rows})}' > $DBT_TARGET_PATH/run_results.json; exit 1"
    outcome = dbt(project, script).run(["build"], target_path=target(project))
    assert outcome.counts == {"fail": 1, "skipped": 1, "success": 1, "warn": 1}
    assert [node.unique_id for node in outcome.failures] == ["test.shop.t"]
    assert max(len(node.message) for node in outcome.nodes) == 500
    with pytest.raises(DbtRunError, match=r"1 of 4 nodes failed\n  test.shop.t: fail: Got 1 result"):
        outcome.raise_for_failure()


def test_results_of_an_earlier_command_are_ignored(project: Path) -> None:
    """dbt that fails before it runs any node leaves an old run_results.json in place."""
    (target(project) / "run_results.json").write_text(
        json.dumps({"results": [{"unique_id": "x", "status": "success"}]})
    )
    outcome = dbt(project, "echo broken; exit 2").run(["build"], target_path=target(project))
    assert outcome.nodes == ()


def test_stale_source_fails(project: Path) -> None:
    """``source freshness`` writes sources.json instead."""
    rows = [{"unique_id": "source.shop.app.orders", "status": "error", "max_loaded_at": "2026-01-01"}]
    script = f"echo '{json.dumps({'results': rows})}' > $DBT_TARGET_PATH/sources.json; exit 1"
    outcome = dbt(project, script).run(["source", "freshness"], target_path=target(project))
    assert outcome.command == "source freshness"
    with pytest.raises(DbtRunError, match=r"source\.shop\.app\.orders"):
        outcome.raise_for_failure()


def test_usage_error_quotes_dbt(project: Path) -> None:
    """Exit code 2 and plain text mean that dbt ran nothing."""
    outcome = dbt(project, "echo 'Error: No such option: --selekt'; exit 2").run(["run"], target_path=target(project))
    with pytest.raises(DbtRunError, match="No such option: --selekt") as raised:
        outcome.raise_for_failure()
    assert "dbt --help" in raised.value.todo


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["deps"], ProjectError),
        (["parse"], ProjectError),
        (["build"], DbtRunError),
        (["source", "freshness"], DbtRunError),
    ],
)
def test_only_a_run_that_fails_may_be_retried(project: Path, command: list[str], error: type[ReverseEtlError]) -> None:
    """Before its first node, dbt connects to the warehouse; to read a project it does not."""
    outcome = dbt(project, "echo 'Database Error: no answer'; exit 2").run(command, target_path=target(project))
    with pytest.raises(error, match=f"dbt {' '.join(command)} failed with exit code 2: Database Error") as raised:
        outcome.raise_for_failure()
    assert raised.value.retry is (error is DbtRunError)


SEEN = [
    ("Could not find adapter type snowflake!", "install dbt-snowflake"),
    ('dbt expects 1 package(s) to be installed. Run "dbt deps" to install', "deps=True"),
    ("Failed to resolve 'hub.getdbt.com' ([Errno -3])", "commit dbt_packages"),
    ("Env var required but not provided: 'NOPE'", "environment variable NOPE (--env NOPE"),
    ("Required var 'day' not found in config", "vars="),
    (
        "This version of dbt is not supported. Installed version of dbt: =1.12.6",
        "a dbt of the version",
    ),
    ("Could not find profile named 'shop'", "profile_conn_id"),
    ("The profile 'shop' does not have a target named 'prod'", "target's name"),
    ('Expected a schema version of "…/v11.json"', "with this dbt"),
    ("The semantic layer requires a time spine model", "time spine"),
    ("Breaking Change to Contract Error in model customers", "new version"),
]


@pytest.mark.parametrize(("text", "todo"), SEEN)
def test_dbts_errors_become_advice(text: str, todo: str) -> None:
    assert todo in advice(text)


def test_a_traceback_of_dbt_is_reduced_to_its_error() -> None:
    lines = "\n".join(f'  File "x.py", line {n}, in f\n    g()' for n in range(400))
    error = "requests.exceptions.ConnectionError: Failed to resolve 'hub.getdbt.com'"
    text = f"Encountered an error:\nTraceback (most recent call last):\n{lines}\n{error}"
    with pytest.raises(ProjectError) as raised:
        DbtResult("deps", 2, 1.0, (text,), ()).raise_for_failure()
    assert raised.value.what.splitlines() == ["dbt deps failed with exit code 2: Encountered an error:", error]
    assert "hub" in raised.value.todo


# -- end of dbt ------------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int) -> bool:
    """Wait until a process ends: a killed one ends when it next gets the processor, which can take long."""
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


STUBBORN = "trap '' INT TERM; sleep 60 & echo $!; wait; sleep 60"


@pytest.mark.parametrize("script", ["sleep 60 & echo $!; wait", STUBBORN], ids=["obedient", "stubborn"])
def test_timeout_ends_dbt_and_its_children(project: Path, script: str) -> None:
    pids: list[int] = []
    with pytest.raises(DbtRunError, match=r"longer than 0\.4 seconds"):
        dbt(project, script).run(
            ["build"], target_path=target(project), timeout=0.4, on_message=lambda _, text: pids.append(int(text))
        )
    (pid,) = pids
    assert ends(pid)


def test_dbt_is_asked_first_so_that_it_can_cancel_its_queries(project: Path) -> None:
    # A shell's background jobs ignore SIGINT, and so would dbt. Airflow resets the signal for its tasks, as here.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    marker = project.parent / "asked"
    script = f"trap 'touch {marker}; exit 1' INT; echo ready; while :; do :; done"
    run = dbt(project, script, grace_seconds=60)  # long enough for a busy machine
    stopper = threading.Thread(target=run.stop)

    def start_stopper(_level: str, _text: str) -> None:
        stopper.start()

    try:
        with pytest.raises(DbtRunError, match="cancelled"):
            run.run(["build"], target_path=target(project), on_message=start_stopper)
    finally:
        signal.signal(signal.SIGINT, before)
    stopper.join()
    assert marker.exists()


def test_stopped_before_it_started(project: Path) -> None:
    """on_kill may come while the repository is being fetched."""
    run = dbt(project, "sleep 60")
    run.stop()
    with pytest.raises(DbtRunError, match="cancelled"):
        run.run(["build"], target_path=target(project))


def test_error_in_the_task_ends_dbt(project: Path) -> None:
    """An execution timeout of Airflow raises an exception while the task reads dbt's output."""
    pids: list[int] = []

    def fail(_level: str, text: str) -> None:
        pids.append(int(text))
        raise TimeoutError

    with pytest.raises(TimeoutError):
        dbt(project, "echo $$; sleep 60").run(["build"], target_path=target(project), on_message=fail)
    assert ends(pids[0])


# -- real dbt --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_real_parse_with_packages_and_without_secrets_or_traces(project: Path) -> None:
    """A project with a local package and a profile that needs secrets is moved, then parsed without a trace."""
    package = project.parent / "macros"
    (package / "macros").mkdir(parents=True)
    (package / "dbt_project.yml").write_text("name: macros\nversion: '1.0'\n")
    (package / "macros" / "one.sql").write_text("{% macro one() %}1{% endmacro %}")
    (project / "packages.yml").write_text("packages:\n  - local: ../macros\n")
    (project / "models").mkdir()
    (project / "models" / "a.sql").write_text("select {{ macros.one() }} as id")
    (project / "profiles.yml").write_text(
        "shop: {target: dev, outputs: {dev: {type: duckdb, path: 'x.duckdb', schema: main, "
        "settings: {secret: \"{{ env_var('SOME_PASSWORD') }}\"}}}}"
    )
    run = DbtProject(project)
    assert needs_packages(project)
    run.install_packages(movable=True)
    assert not (project / "dbt_packages" / "macros").is_symlink()
    moved = project.rename(project.parent / "moved")
    before = set(moved.rglob("*"))

    (model,) = read_manifest(DbtProject(moved).parse()).models

    assert (model.name, model.relation) == ("a", '"x"."main"."a"')
    assert set(moved.rglob("*")) == before


@pytest.mark.long
def test_real_parse_of_a_broken_project(project: Path) -> None:
    (project / "models").mkdir()
    (project / "models" / "a.sql").write_text("select {{ env_var('NOPE') }}")
    with pytest.raises(ProjectError, match="Env var required but not provided: 'NOPE'") as raised:
        DbtProject(project, profile=placeholder_profile("duckdb")).parse()
    assert "environment variable NOPE (--env NOPE" in raised.value.todo


@pytest.mark.long
def test_an_adapter_whose_sql_is_unknown_must_be_installed(project: Path) -> None:
    """No other adapter can replace it: the names of its relations would be wrong."""
    (project / "models").mkdir()
    (project / "models" / "a.sql").write_text("select 1 as id")
    (project / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: vertica, schema: s}}}")
    parser = ProjectParser(
        lambda folder, profile: DbtProject(folder, profile=profile),
        executable="dbt",
        target=None,
        schema=None,
        database=None,
        environment=dict,
        files=lambda: StateFiles("unused"),
        log=logging.getLogger(),
    )
    with pytest.raises(ProjectError, match="Could not find adapter type vertica") as raised:
        parser.manifest(project, profile=None)
    assert raised.value.todo.startswith("install dbt-vertica")
