"""Tests of the command line: exit codes, output, and the modules that it must not load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_reverse_etl import errors
from airflow_reverse_etl.cli.main import main
from tests.dbt.projects import keyed, manifest, model

SYNC = """\
name: customers_to_crm
model: customers
source: warehouse
destination: {type: http}
mapping:
  email: email
"""
ROOT = Path(__file__).parents[2]


def write(folder: Path, sql: str, **more: Any) -> str:
    (folder / "target").mkdir(parents=True)
    found = manifest(model("customers", sql, **more), *keyed("customers"))
    (folder / "target" / "manifest.json").write_text(json.dumps(found))
    return str(folder / "target" / "manifest.json")


def python(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs" / "customers.yaml").write_text(SYNC)
    write(tmp_path / "base", "select 1 as id, 'x' as email")
    write(tmp_path / "same", "select 1 as id, 'x' as email, 2 as two")
    write(tmp_path / "gone", "select 1 as id, 'x' as mail")
    write(tmp_path / "opaque", "select {{ columns() }}")
    return tmp_path


def check(head: str, *more: str) -> int:
    return main(["check", "--base", "base/target/manifest.json", "--head", head, "--syncs", "syncs", *more])


@pytest.mark.parametrize(
    ("head", "more", "code"),
    [
        ("same", (), 0),
        ("gone", (), 1),
        ("opaque", (), 3),
        ("opaque", ("--allow-review",), 0),
        ("gone", ("--allow-review",), 1),
        ("same", ("--policy", "any_change"), 1),
    ],
)
def test_exit_codes(here: Path, head: str, more: tuple[str, ...], code: int) -> None:
    assert check(head, *more) == code


def test_the_text_report_has_file_line_and_advice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("gone")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "syncs/customers.yaml:6: breaking: column email of customers is missing; it was probably renamed to mail"
    )
    assert last.startswith("failed: 1 breaking, for 1 of 1 syncs")


def test_several_outputs_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("gone", "--output", "json", "--output", "junit=junit.xml", "--output", "sarif=check.sarif")
    assert json.loads(capsys.readouterr().out)["conclusion"] == "failed"
    assert "column email" in Path("junit.xml").read_text()
    assert json.loads(Path("check.sarif").read_text())["version"] == "2.1.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "nowhere", "--syncs", "syncs"], "not a manifest, a folder or a ref"),
        (["--base", "base", "--head", "base", "--syncs", "missing"], "folder or file of syncs not found"),
        (["--base", "base", "--head", "base"], "no syncs found"),
        (["--base", "syncs/customers.yaml", "--syncs", "syncs"], "customers.yaml cannot be read"),
        (["--base", "base", "--head", "base", "--syncs", "syncs", "--output", "pdf"], "output format 'pdf' not found"),
        (["--base", "base", "--head", "base", "--syncs", "syncs", "--env", "NOT_SET_HERE"], "NOT_SET_HERE"),
    ],
)
def test_a_check_that_cannot_be_made_exits_with_2_and_never_passes(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["check", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_every_unreadable_sync_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        (here / "syncs" / f"{name}.yml").write_text("name: x\nmodel: customers\n")
    assert check("same") == 1
    printed = capsys.readouterr().out
    assert "2 breaking" in printed
    assert "syncs/a.yml:1" in printed
    assert "syncs/b.yml:1" in printed


def test_syncs_in_a_models_meta_are_checked_too(here: Path) -> None:
    values = yaml.safe_load(SYNC)
    del values["model"]
    head = write(here / "meta", "select 1 as id", meta={"reverse_etl": values})
    assert main(["check", "--base", "base", "--head", head]) == 1


def test_exposures_are_yaml_that_dbt_reads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exposures", "--project", "base", "--syncs", "syncs", "--owner", "data@example.com"]) == 0
    (found,) = yaml.safe_load(capsys.readouterr().out)["exposures"]
    assert (found["name"], found["depends_on"]) == ("customers_to_crm", ["ref('customers')"])
    assert found["owner"] == {"email": "data@example.com"}
    assert [c["column_name"] for c in found["meta"]["referenced_columns"]] == ["id", "email"]


def test_schema_prints_the_json_schema_of_a_sync_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "mapping" in json.loads(capsys.readouterr().out)["required"]


@pytest.mark.parametrize("error", [errors.SpecError, errors.CredentialsError, errors.ProjectError, errors.GuardError])
def test_an_errors_last_line_is_a_command_that_explains_it(
    error: type[errors.ReverseEtlError], capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = error("it is not there").with_hint().splitlines()[-1].removeprefix("More: ").split()
    assert program == "reverse-etl"
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert f"\n| `{error.__name__}` |" in told
    assert len(re.findall(r"(?m)^\| `\w+Error` \|", told)) == 1  # no other error
    assert ("\n## dbt\n" in told) == (error is errors.ProjectError)
    assert ("passphrase does not unlock the SSH key" in told) == (error is errors.CredentialsError)


def test_all_errors_are_explained_and_others_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["errors"]) == 0
    assert "\n## dbt\n" in capsys.readouterr().out
    assert main(["errors", "Credentials"]) == 2
    assert "'Credentials'" in capsys.readouterr().err


def test_check_runs_with_airflow_blocked_and_starts_within_a_second(here: Path) -> None:
    """Measure processor time, which a busy machine does not distort, without the start of the interpreter."""
    code = f"""
import sys, time
started = time.process_time()
class Block:
    def find_spec(self, name, *_):
        assert name.split('.')[0] not in ('airflow', 'duckdb', 'pyarrow', 'dbt', 'deltalake', 'aiohttp', 'git'), name
sys.meta_path.insert(0, Block())
from airflow_reverse_etl.cli.main import main
code = main({["check", "--base", "base", "--head", "gone", "--syncs", "syncs"]!r})
print(time.process_time() - started)
sys.exit(code)
"""
    done = python(code)
    assert done.returncode == 1, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 1


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    start = "import sys\nfrom airflow_reverse_etl.cli.main import main\n"
    done = python(start + "try: main(['-h'])\nfinally: print(list(sys.modules))")
    assert done.returncode == 0, done.stderr
    assert not {"pydantic", "sqlglot", "requests", "yaml", "airflow"} & set(done.stdout.splitlines()[-1].split("'"))
