"""Tables on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_reverse_etl.cli import output
from airflow_reverse_etl.cli.output import Table, show


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Table], list[str]]:
    """Return the lines that a terminal shows of a table."""
    monkeypatch.setattr(output, "is_terminal", lambda stream=None: True)
    monkeypatch.setenv("COLUMNS", "80")

    def lines(table: Table) -> list[str]:
        show([table])
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def test_only_the_widest_columns_are_folded(shown: Callable[[Table], list[str]]) -> None:
    long = "word " * 30
    found = shown(Table(("name", "code", "message"), [("a-name-of-24-characters", "X1", long)]))
    assert max(map(len, found)) <= 80
    assert found[2].startswith("a-name-of-24-characters  X1    word word")


def test_a_row_without_room_becomes_lines(shown: Callable[[Table], list[str]]) -> None:
    head = [f"column {number}" for number in range(10)]
    found = shown(Table(head, [[str(number) * 9 for number in range(10)]] * 2))
    assert found[:2] == ["column 0  000000000", "column 1  111111111"]
    assert found[10:12] == ["", "column 0  000000000"]
