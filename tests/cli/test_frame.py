"""What all commands share, as a process: exit codes, JSON, colour, and no Airflow where none is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from airflow_reverse_etl.cli.frame import exit_code
from airflow_reverse_etl.errors import CredentialsError, GuardError, RunConflictError
from tests.cli.process import Program

COLOUR = "\x1b["


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path, blocked=("airflow",))


def test_the_version_names_this_package_airflow_and_python(program: Program) -> None:
    done = program.run("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"reverse-etl \S+, Airflow \S+, Python 3\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("arguments", [(), ("unknown",), ("errors", "--unknown"), ("rejected", "release", "s")])
def test_wrong_arguments_exit_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert Program(tmp_path).run(*arguments).returncode == 2


def test_errors_have_exit_codes() -> None:
    assert exit_code(GuardError("too much")) == 1
    assert exit_code(CredentialsError("refused")) == 2
    assert exit_code(RunConflictError("at work")) == 4


def test_an_error_is_one_json_document_and_a_text_for_the_log(program: Program) -> None:
    done = program.run("errors", "Unknown", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout) == {
        "error": "ConfigurationError",
        "message": "error 'Unknown' not found",
        "todo": "leave the name out to list all errors",
        "where": {},
    }
    assert done.stderr.startswith("reverse-etl: error 'Unknown' not found\nWhat to do: ")


def test_there_is_colour_on_a_terminal_and_none_in_a_pipe(program: Program) -> None:
    code, printed = program.on_terminal("errors", "Unknown")
    assert code == 2
    assert COLOUR in printed
    done = program.run("errors", "Unknown")
    assert COLOUR not in done.stdout + done.stderr


def test_help_fits_a_terminal_of_80_columns(program: Program) -> None:
    code, printed = program.on_terminal("rejected", "release", "--help")
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed)
    assert max(map(len, plain.splitlines())) <= 80


def test_completion_lists_the_commands(tmp_path: Path) -> None:
    asked = {"_REVERSE_ETL_COMPLETE": "complete_bash", "COMP_WORDS": "reverse-etl st", "COMP_CWORD": "1"}
    assert "state" in Program(tmp_path, **asked).run().stdout.split()


def test_the_reference_has_every_exit_code() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "reference", "cli.md").read_text()
    assert re.findall(r"(?m)^\| (\d[\d, ]*) \|", page) == ["0", "1", "2", "3", "4", "130, 143"]


def test_without_airflow_a_command_that_needs_it_says_so(tmp_path: Path) -> None:
    hidden = tmp_path / "airflow"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('No module named airflow', name='airflow')")
    done = Program(tmp_path, PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[2]}").run("state", "list")
    assert done.returncode == 2
    assert "Airflow is not installed here" in done.stderr
