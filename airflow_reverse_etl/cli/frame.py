"""The frame of all commands: their answers as text or JSON, their errors, and the exit codes.

Exit codes, for people in ``docs/reference/cli.md``:

* 0: done, or passed.
* 1: a person must look. A change would break a sync, a sync is not valid, a guard stopped a run, or more rows failed
  than the sync allows.
* 2: the command could not be carried out: an argument, a setting or a connection is wrong.
* 3: the change needs review.
* 4: a later try helps. The warehouse or the destination did not answer, another run is at work, or rows are left.
* 130: interrupted by Ctrl-C; 143: stopped by SIGTERM.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from airflow_reverse_etl.cli.output import Markdown, Table, kept_for_answers, print_error, show
from airflow_reverse_etl.errors import AttentionError, ReverseEtlError, SpecError, TryLaterError

PASSED = 0
FAILED = 1
UNUSABLE = 2
REVIEW = 3
LATER = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a command.

    :param data: value that ``--json`` prints.
    :param shown: what is printed otherwise, in order.
    :param code: exit code.
    """

    data: Any
    shown: Sequence[str | Table | Markdown] = ()
    code: int = PASSED


_JSON = Annotated[bool, typer.Option("--json", help="print the answer, or the error, as one JSON document")]


def add_command(
    app: typer.Typer,
    name: str,
    function: Callable[..., Answer],
    *,
    help: str,  # noqa: A002 - typer's name
    grades_errors: bool = True,
) -> None:
    """Add a function as a command. It gets the option ``--json``, and its errors get an exit code.

    :param help: one line that says what the command does.
    :param grades_errors: the exit code depends on the kind of error. Otherwise it is always 2.
    """

    @wraps(function)
    def command(*, as_json: bool, **arguments: Any) -> None:
        try:
            with kept_for_answers():
                answer = function(**arguments)
        except ReverseEtlError as error:
            _report(error, as_json=as_json)
            raise typer.Exit(exit_code(error) if grades_errors else UNUSABLE) from None
        if as_json:
            print_json(answer.data)
        else:
            show(answer.shown)
        raise typer.Exit(answer.code)

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_JSON)
    parameters = [*signature.parameters.values(), option]
    # Typer reads the parameters of the command from here.
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, help=help)(command)


def exit_code(error: ReverseEtlError) -> int:
    """Return the exit code of an error: 1 if a person must look, 4 if a later try helps, else 2."""
    if isinstance(error, AttentionError):
        return FAILED
    if isinstance(error, TryLaterError):
        return LATER
    return UNUSABLE


def print_json(data: Any) -> None:
    """Print a value as JSON. Values that JSON does not have become text, as rows may have any."""
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def error_data(error: ReverseEtlError) -> dict[str, Any]:
    """Return an error as data."""
    data: dict[str, Any] = {
        "error": type(error).__name__,
        "message": error.what,
        "todo": error.todo,
        "where": error.where,
    }
    if isinstance(error, SpecError):
        data["problems"] = list(error.problems)
    if error.report is not None:
        data["report"] = error.report.to_json()
    return data


def _report(error: ReverseEtlError, *, as_json: bool) -> None:
    """Print an error: its text always on standard error, for a log; with ``--json`` as JSON on standard output, too."""
    sys.stdout.flush()
    print_error(error.with_hint())
    if as_json:
        print_json(error_data(error))
