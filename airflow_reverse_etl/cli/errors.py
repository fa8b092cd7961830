"""The command ``reverse-etl errors``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.output import Markdown


def errors(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="name of one error, such as CredentialsError; default: all")
    ] = "",
) -> Answer:
    """Return the page about errors, or only what it says about one of them. The package contains a copy of the page."""
    from airflow_reverse_etl.errors import ConfigurationError

    page = Path(__file__).parents[1].joinpath("errors.md").read_text(encoding="utf-8")
    sections = re.split(r"(?m)^(?=## )", page)
    if name:
        sections = [_only(section, f"`{name}`") for section in sections if f"`{name}`" in section]
    if not sections:
        raise ConfigurationError(f"error {name!r} not found", todo="leave the name out to list all errors")
    text = "".join(sections).rstrip()
    return Answer({"name": name or None, "text": text}, [Markdown(text)])


def _only(section: str, name: str) -> str:
    """Return the part of a section that is about one error.

    A table of errors has the name in the first cell of a row: of such a section, that row is enough. A table of
    problems has it in the last cell: rows about other errors are left out. Any other section is about this error as a
    whole.
    """
    blocks = section.rstrip().split("\n\n")
    tables = [_filtered(block, lambda row: row.startswith(f"| {name} |")) for block in blocks]
    if found := [table for table in tables if table]:
        return "\n\n".join(found) + "\n\n"
    kept = [_filtered(block, lambda row: row.endswith(f"| {name} |")) or block for block in blocks]
    return "\n\n".join(kept) + "\n\n"


def _filtered(block: str, wanted: Callable[[str], bool]) -> str:
    """Return a table with the wanted rows only; empty if it has none, or if the block is not a table."""
    head, *rows = block.split("\n")
    if not head.startswith("|"):
        return ""
    dashes, *rows = rows
    kept = [row for row in rows if wanted(row)]
    return "\n".join([head, dashes, *kept]) if kept else ""
