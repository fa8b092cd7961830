"""Output of the commands: colour and fitted tables on a terminal, plain text with whole cells anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

#: Standard output, while it is kept for the answer.
_answers: ContextVar[TextIO | None] = ContextVar("_answers", default=None)

#: Style of a cell that consists of one of these words.
_STYLES = {
    "ok": "green",
    "valid": "green",
    "met": "green",
    "lifted": "yellow",
    "unfinished": "yellow",
    "not checked": "yellow",
    "given up": "yellow",
    "failed": "bold red",
    "invalid": "bold red",
    "stops": "bold red",
    "rejected": "red",
}


#: Blanks between two columns, and the least width of a column whose cells are folded.
_GAP = 2
_LEAST_FOLDED = 20


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text below a head, in columns of equal width."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Markdown:
    """Text in Markdown, which is set on a terminal, and printed as it is anywhere else."""

    text: str


def is_terminal(stream: TextIO | None = None) -> bool:
    """Return whether a person reads the output.

    :param stream: default: the one that answers are printed on.
    """
    return (stream or _answers.get() or sys.stdout).isatty()


@contextmanager
def kept_for_answers() -> Iterator[None]:
    """Keep standard output for the answer: what Airflow or a driver prints there in the block is on standard error."""
    token = _answers.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _answers.reset(token)


def console(*, stderr: bool = False) -> Console:
    """Return a console of rich, which knows the terminal's width and colours, and ``NO_COLOR``."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def show(parts: Sequence[str | Table | Markdown]) -> None:
    """Print texts and tables, with an empty line around each table that is not alone."""
    for number, part in enumerate(parts):
        if number and not (isinstance(part, str) and isinstance(parts[number - 1], str)):
            print()
        if isinstance(part, str):
            print(part.rstrip("\n"))
            continue
        if isinstance(part, Markdown):
            _show_markdown(part)
            continue
        if part.title:
            print(part.title)
        if is_terminal(sys.stdout):
            _show_fitted(part)
        else:
            print(plain(part))


def plain(table: Table) -> str:
    """Return a table as text. No cell is shortened, so that other programs can read it."""
    rows = [table.head, *table.rows]
    columns = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _show_fitted(table: Table) -> None:
    """Print a table that fits the terminal: long cells are folded, short ones never.

    Each row becomes lines of a name and its value where a table has no room.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    room = console().width - _GAP * (len(widths) - 1)
    if sum(min(width, _LEAST_FOLDED) for width in widths) > room:
        _show_expanded(table)
        return
    folded = _folded(widths, room)
    fitted = RichTable(
        box=box.SIMPLE_HEAD, header_style="bold", padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False
    )
    for at, name in enumerate(table.head):
        fitted.add_column(name, overflow="fold", no_wrap=at not in folded)
    for row in table.rows:
        fitted.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    console().print(fitted)


def _folded(widths: Sequence[int], room: int) -> set[int]:
    """Return the columns whose cells are folded: the widest ones, and as few as there is room for."""
    folded: set[int] = set()
    for at in sorted(range(len(widths)), key=lambda at: -widths[at]):
        if sum(_LEAST_FOLDED if at in folded else width for at, width in enumerate(widths)) <= room:
            break
        folded.add(at)
    return folded


def _show_expanded(table: Table) -> None:
    """Print each row as lines of a name and its value."""
    from rich.table import Table as RichTable
    from rich.text import Text

    for number, row in enumerate(table.rows):
        if number:
            print()
        lines = RichTable.grid(padding=(0, _GAP, 0, 0))
        for name, cell in zip(table.head, row, strict=True):
            lines.add_row(Text(name, "bold"), Text(cell, _STYLES.get(cell, ""), overflow="fold"))
        console().print(lines)


def _show_markdown(part: Markdown) -> None:
    if not is_terminal(sys.stdout):
        print(part.text)
        return
    from rich.markdown import Markdown as RichMarkdown

    console().print(RichMarkdown(part.text))


def print_error(text: str) -> None:
    """Print an error on standard error, behind the program's name."""
    if not is_terminal(sys.stderr):
        print(f"reverse-etl: {text}", file=sys.stderr)
        return
    from rich.text import Text

    console(stderr=True).print(Text.assemble(("reverse-etl: ", "bold red"), text))
