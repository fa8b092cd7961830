"""The check of ``make lint`` that refuses several steps in one line."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "density"


def lines(code: str) -> list[int]:
    """Return the lines of the places that the check finds."""
    findings = runpy.run_path(str(SCRIPT))["findings"]
    return [line for line, _ in findings(code)]


@pytest.mark.parametrize(
    "code",
    [
        "found = [[cell for cell in row] for row in rows]",
        "found = {name: any(part for part in name) for name in names}",
        "found = [row for row in rows if all(cell for cell in row)]",
        "found = list(row for row in (line.split() for line in lines))",
        "found = {name for name in sorted({row.name for row in rows})}",
        "found = [\n    sum(cell for cell in row)\n    for row in rows\n]",
    ],
)
def test_a_comprehension_inside_another_is_found(code: str) -> None:
    assert lines(code) == [1]


@pytest.mark.parametrize(
    "code",
    [
        "name, rows = text.strip(), []",
        "self.name, self.rows = name, rows",
        "lowest, highest = 0, 9",
        "first, second = second, None",
        "first = second, third = 1, 2",
        "(first, second), third = (1, 2), 3",
    ],
)
def test_a_tuple_of_unrelated_things_is_found(code: str) -> None:
    assert lines(code) == [1]


@pytest.mark.parametrize(
    "code",
    [
        "cells = [cell for row in rows for cell in row]",
        "names = [row.name for row in rows]\nfound = {name for name in names}",
        "found = [row for row in rows] + [row for row in others]",
        "first, second = second, first",
        "self.a, self.b = self.b, self.a",
        "name, _, value = line.partition('=')",
        "first, *others = rows",
        "bounds = 0, 9",
        "for name, value in ((1, 2), (3, 4)): pass",
    ],
)
def test_one_step_at_a_time_is_not_found(code: str) -> None:
    assert lines(code) == []


def test_every_place_is_found_with_its_line() -> None:
    code = "a, b = 1, 2\n\n\ndef f():\n    return [[x for x in y] for y in z]\n"
    assert lines(code) == [1, 5]
