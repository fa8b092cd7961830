"""Output of the demo: steps with their time, tables, and nothing wider than 80 columns."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = max(60, min(80, shutil.get_terminal_size((80, 24)).columns))
_NAME = 10
_DETAIL = WIDTH - _NAME - 14
_CLEAR = "\r\033[K"


class Step:
    """A line for a step: ``… name`` while it runs (on a terminal only), ``✓ name  detail  3.2 s`` when it is done."""

    def __init__(self, name: str) -> None:
        self._started = time.monotonic()
        self.tick(name)

    def tick(self, name: str) -> None:
        """Show the running step, and its time so far."""
        if sys.stdout.isatty():
            print(f"{_CLEAR}  … {name:<{_NAME}} {self._seconds:.0f} s", end="", flush=True)

    def done(self, name: str, detail: str, seconds: float | None = None) -> None:
        """Print the step as done.

        :param seconds: its duration; default: the time since the step was created.
        """
        first, *more = textwrap.wrap(detail, _DETAIL) or [""]
        clear = _CLEAR if sys.stdout.isatty() else ""
        took = self._seconds if seconds is None else seconds
        print(f"{clear}  ✓ {name:<{_NAME}} {first:<{_DETAIL}} {took:5.1f} s", flush=True)
        for line in more:
            note(line)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started


def note(text: str) -> None:
    """Print more about the step above."""
    say(text, indent=" " * (_NAME + 5))


def heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def say(text: str, *, indent: str = "  ") -> None:
    print(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent), flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns under their heads; numbers are aligned to the right, with thousands separators."""
    texts = [list(head), *(list(map(_text, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    alignments = [">" if isinstance(cell, int | float) else "<" for cell in rows[0]]
    for number, line in enumerate(texts):
        cells = zip(line, alignments, widths, strict=True)
        print("  " + "  ".join(f"{cell:{alignment}{width}}" for cell, alignment, width in cells).rstrip())
        if not number:
            print("  " + "  ".join("─" * width for width in widths))


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
