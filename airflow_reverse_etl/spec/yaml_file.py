"""Reader of a sync file: its values, and the line of each key, within limits that keep a bad file cheap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.field_types import MAX_DEPTH
from airflow_reverse_etl.spec.problems import at_most, problem_text, title

#: Path of a key in a YAML file → its line, from 1.
Lines = Mapping[tuple[str, ...], int]
if TYPE_CHECKING:
    _BaseLoader = yaml.SafeLoader
else:
    _BaseLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, if built in

#: Most bytes of a sync file.
MAX_BYTES = 1024 * 1024
#: Most characters that the aliases of a file may repeat. An alias of an alias repeats all that the first one does, so a
#: few lines could mean more than fits into memory.
MAX_REPEATED = 100_000


class _Loader(_BaseLoader):
    """A safe loader that names the line of every value that it cannot make."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # noqa: BLE001 - a date that does not exist, a number that is too long, and the like
            kind = node.tag.rsplit(":", 1)[-1]
            raise yaml.constructor.ConstructorError(
                problem=f"not a valid {kind}; if it is text, write it in quotes", problem_mark=node.start_mark
            ) from None


class LineOf(int):
    """A line of another file than the sync's own: of the defaults of its folder."""

    file: Path

    @classmethod
    def of(cls, line: int, file: Path) -> LineOf:
        """Return the line of a file."""
        found = cls(line)
        found.file = file
        return found


def line_of(lines: Lines, where: Sequence[str]) -> int | None:
    """Return the line of a key, or of its nearest parent."""
    for depth in range(len(where), -1, -1):
        if (line := lines.get(tuple(where[:depth]))) is not None:
            return line
    return None


def read_text(path: Path, *, what: str = "sync file") -> str:
    """Read a sync file.

    :param what: name of the file's kind in errors.
    :raises SpecError: the file cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(
            f"cannot read the {what}: {error.strerror}",
            todo="give the path of a YAML file, relative to the DAG file or absolute",
            file=path,
        ) from None
    except ValueError:  # a null character
        raise SpecError(f"the path of the {what} is not valid", todo="give the path of a YAML file") from None
    if len(data) > MAX_BYTES:
        raise SpecError(
            f"the {what} is larger than 1 MiB",
            todo="give the path of a sync file; a mapping of very many fields can be built in Python",
            file=f"{path}:1",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"the {what} is not UTF-8", todo="save it as UTF-8", file=f"{path}:{line}") from None


def read_yaml(
    text: str, path: Path, *, what: str = "sync file", empty: bool = False
) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Read the mapping in a YAML file, and the line (from 1) of each of its keys.

    :param what: name of the file's kind in errors.
    :param empty: the file may have nothing but comments.
    :raises SpecError: the text is not valid YAML, exceeds a limit, is not a mapping, or has a duplicate key.
    """
    try:
        # The events first. A loader takes all memory, or ends the process, before it could be asked for a limit.
        _check_limits(yaml.parse(text, Loader=_Loader), path, what)
        loader = _Loader(text)
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        raise SpecError(
            f"the {what} is not valid YAML: {problem}",
            todo="correct the YAML",
            file=place,
        ) from None
    if values is None and empty:
        return {}, {}
    if not isinstance(values, dict):
        raise SpecError(f"the {what} is not a mapping", todo="write keys, each with a value", file=f"{path}:1")
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
        elif isinstance(node, yaml.SequenceNode):
            for at, item in enumerate(node.value):
                walk(item, (*where, str(at)))

    assert node is not None  # it is a mapping
    walk(node, ())
    if problems:
        raise SpecError(title(len(problems)), problems=at_most(problems), todo="keep one of each", file=path)
    return values, lines


def _check_limits(events: Iterator[yaml.Event], path: Path, what: str) -> None:
    """Check the depth of a file, and how much its aliases repeat, before anything is made of it.

    :raises SpecError: a limit is exceeded, or an alias is a part of what it repeats.
    """
    sizes = _Sizes()
    for event in events:
        problem = sizes.add(event)
        if problem:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise SpecError(
                f"the {what} {problem}",
                todo="write the values out, or build the sync in Python",
                file=f"{path}:{line}",
            )


class _Sizes:
    """Depth and size of what a file's events make, with each alias counted as what it repeats."""

    def __init__(self) -> None:
        #: Anchor → size and depth of its value; None while the value is open.
        self._anchors: dict[str, tuple[int, int] | None] = {}
        #: For each open value its anchor, its size so far, and the depth of what is in it.
        self._open: list[tuple[str | None, int, int]] = []
        self._repeated = 0

    def add(self, event: yaml.Event) -> str:
        """Add an event; return the limit that it exceeds, or an empty text."""
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, 1, 0))
            if event.anchor:
                self._anchors[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size, depth = self._open.pop()
            self._close(anchor, size, depth + 1)
        elif isinstance(event, yaml.ScalarEvent):
            self._close(event.anchor, 1 + len(event.value), 0)
        elif isinstance(event, yaml.AliasEvent):
            found = self._anchors.get(str(event.anchor), (0, 0))  # a missing anchor is the loader's error
            if found is None:
                return f"repeats a part in itself: *{event.anchor}"
            self._repeated += found[0]
            self._close(None, *found)
        depth = len(self._open) + (self._open[-1][2] if self._open else 0)
        if depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} levels deep"
        if self._repeated > MAX_REPEATED:
            return f"has aliases that repeat more than {MAX_REPEATED:,} characters"
        return ""

    def _close(self, anchor: str | None, size: int, depth: int) -> None:
        """Add a complete value to the one that holds it."""
        if anchor:
            self._anchors[anchor] = (size, depth)
        if self._open:
            parent, whole, deepest = self._open[-1]
            self._open[-1] = (parent, whole + size, max(deepest, depth))
