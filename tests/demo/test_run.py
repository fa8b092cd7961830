"""The demo computes what to expect, and fails if a result differs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from airflow_reverse_etl.spec.report import Planned, RunReport
from dags_examples.demo import run, screen
from dags_examples.demo.airflow_home import AirflowHome, DemoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def row(email: str, **properties: Any) -> tuple[str, dict[str, Any]]:
    return email, properties


def test_expectations_come_from_the_model_before_and_after() -> None:
    before = {1: row("a@x.io", plan="FREE"), 2: row("b@x.io", plan="FREE"), 3: row("c@x.io", plan="FREE")}
    after = {1: row("a@x.io", plan="FREE"), 2: row("b@x.io", plan="TEAM"), 4: row("d@spam.example", plan="FREE")}
    expected = run.Expected.of(before, after)
    assert expected == run.Expected(added=1, changed=1, removed=1, rejected=1)
    assert expected.rows == 3


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AirflowHome]:
    """``home(code)``: an Airflow whose every command is this Python code."""

    def make(code: str, **options: Any) -> AirflowHome:
        (tmp_path / "airflow.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return AirflowHome(tmp_path / "home", dags=tmp_path, log=tmp_path / "tasks.log", connections={}, **options)

    return make


def test_a_failed_command_is_explained_by_its_last_exception(home: Callable[[str], AirflowHome]) -> None:
    code = (
        "print('2026-11-21T13:43:03 [info] x\\nours.SomeException: it broke\\nWhat to do: mend it\\n2026-1 y'); exit(1)"
    )
    with pytest.raises(DemoError, match=r"failed:\n\nours\.SomeException: it broke\nWhat to do: mend it\n\nMore in"):
        list(home(code).command("db", "migrate"))


def test_a_command_that_hangs_is_ended(home: Callable[..., AirflowHome]) -> None:
    with pytest.raises(DemoError, match=r"did not end within 0\.5 seconds"):
        list(home("import time; time.sleep(60)", patience=0.5).command("db", "migrate"))


def test_the_environment_of_another_airflow_is_not_used(
    home: Callable[[str], AirflowHome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "Another")
    monkeypatch.setenv("AIRFLOW_CONFIG", "/another/airflow.cfg")
    code = "import os, sys; sys.exit(any(name in os.environ for name in ('AIRFLOW__CORE__EXECUTOR', 'AIRFLOW_CONFIG')))"
    list(home(code).command("db", "migrate"))


def test_an_unexpected_result_makes_the_demo_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "BUILD", tmp_path / "demo")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(run, "demo", lambda: run._expect("accepted rows", 1200, 1199))
    assert run.main() == 1
    assert "accepted rows: expected 1200, found 1199" in capsys.readouterr().err


def test_nothing_is_wider_than_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    step = screen.Step("models")
    step.done("models", "word " * 40)
    screen.note("word " * 40)
    screen.say("word " * 40)
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= screen.WIDTH <= 80


def test_a_table_lines_up(capsys: pytest.CaptureFixture[str]) -> None:
    screen.table(["name", "count"], [["a", 1234], ["longer", 5]])
    assert capsys.readouterr().out.splitlines() == [
        "  name    count",
        "  ──────  ─────",
        "  a       1,234",
        "  longer      5",
    ]


def test_a_report_of_a_run_is_read_as_the_task_returns_it(capsys: pytest.CaptureFixture[str]) -> None:
    reason = {"code": "BLOCKED_DOMAIN", "count": 1, "message": "on the block list", "host": "crm", "status": 207}
    report = RunReport(
        run_id="run-1",
        planned=Planned(removed=3, changed=8, added=6, invalid=0),
        accepted=16,
        rejected=1,
        retryable=0,
        unknown=0,
        skipped=0,
        requests=2,
        seconds=1.0,
        reasons=[reason],
    ).to_json()
    demo = run.Demo.__new__(run.Demo)
    demo._reports = []
    demo._print_report(report, throttled=0)
    demo._check(report, run.Expected(added=6, changed=8, removed=3, rejected=1), {"rows": 17, "requests": 2})
    assert "BLOCKED_DOMAIN: on the block list" in capsys.readouterr().out


def test_it_runs_from_any_folder() -> None:
    assert str(run.ROOT) in sys.path
