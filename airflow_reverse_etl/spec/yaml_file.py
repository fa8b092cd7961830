"""Reader of a sync file: its values, and the line of each key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.problems import problem_text, title

#: Path of a key in a YAML file → its line, from 1.
Lines = Mapping[tuple[str, ...], int]
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, if built in


def line_of(lines: Lines, where: Sequence[str]) -> int | None:
    """Return the line of a key, or of its nearest parent."""
    for depth in range(len(where), -1, -1):
        if (line := lines.get(tuple(where[:depth]))) is not None:
            return line
    return None


def read_yaml(text: str, path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Read the mapping in a YAML file, and the line (from 1) of each of its keys.

    :raises SpecError: the text is not valid YAML, is not a mapping, or has a duplicate key.
    """
    try:
        node = yaml.compose(text, Loader=_LOADER)
        values = yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "cannot be read"
        raise SpecError(
            f"the sync file is not valid YAML: {problem}",
            todo="correct the YAML",
            file=place,
        ) from None
    if not isinstance(values, dict):
        raise SpecError("the sync file is not a mapping", todo="start it with 'name:'", file=f"{path}:1")
    lines: dict[tuple[str, ...], int] = {}
    problems: list[str] = []

    def walk(node: yaml.Node, where: tuple[str, ...]) -> None:
        lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*where, str(key.value))
                if place in lines:
                    problems.append(problem_text(place, "duplicate key", key.start_mark.line + 1, path))
                lines[place] = key.start_mark.line + 1
                walk(value, place)

    assert node is not None  # it is a mapping
    walk(node, ())
    if problems:
        raise SpecError(title(len(problems)), problems=tuple(problems), todo="keep one of each", file=path)
    return values, lines
