"""The layers of a sync file: the defaults of its folders, the file, and the environment that is chosen."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.problems import nearest, problem_text, title
from airflow_reverse_etl.spec.yaml_file import LineOf, Lines, read_text, read_yaml

#: Names of the file that has the defaults of a folder.
DEFAULTS = ("defaults.yaml", "defaults.yml")
#: What the root of a repository, or of a dbt project, has. Defaults above it do not count.
_ROOT_SIGNS = (".git", "dbt_project.yml")
#: Keys whose own keys are taken one by one from each layer. Any other value replaces the one before.
MERGED = ("destination", "mapping", "guards", "failure", "retry", "rate", "alerts", "airflow")
ENVIRONMENTS = "environments"
#: Keys of a sync that are the same in all environments.
FIXED = ("name", ENVIRONMENTS)

Values = dict[str, Any]
#: A path of keys, and what is wrong there.
Problem = tuple[tuple[str, ...], str]


def defaults_of(folder: Path) -> list[Path]:
    """Return the files of defaults for a folder, the outermost first: its own, and those of the folders above.

    The root of the repository, or of the dbt project, is the last folder that counts.
    """
    found: list[Path] = []
    # os.path, not pathlib: this runs for each file of a DAG. A folder that may not be searched has none.
    place = os.path.abspath(folder)  # noqa: PTH100
    while True:
        files = [os.path.join(place, name) for name in DEFAULTS]  # noqa: PTH118
        found += [Path(file) for file in files if os.path.isfile(file)][:1]  # noqa: PTH113
        above = os.path.dirname(place)  # noqa: PTH120
        if above == place or any(os.path.exists(os.path.join(place, sign)) for sign in _ROOT_SIGNS):  # noqa: PTH110, PTH118
            return found[::-1]
        place = above


def stamp(file: Path) -> tuple[str, int, int] | None:
    """Return what changes with a file; None without one."""
    try:
        found = file.stat()
    except OSError:  # reading it will tell
        return None
    return str(file), found.st_mtime_ns, found.st_size


def read_layers(path: Path) -> tuple[Values, Lines]:
    """Read a sync file over the defaults of its folders.

    :returns: the values, and the line of each key; a :class:`LineOf` if the key is in a file of defaults.
    :raises SpecError: a file is not valid YAML, or a file of defaults names a sync.
    """
    values: Values = {}
    lines: Lines = {}
    for file in defaults_of(path.parent):
        values, lines = merge(values, lines, *_read_defaults(file, stamp(file)))
    own, at = read_yaml(read_text(path), path)
    return merge(values, lines, own, at)


@lru_cache(maxsize=100)
def _read_defaults(file: Path, stamp: object) -> tuple[Values, Lines]:  # noqa: ARG001 - a changed file is read again
    given, at = read_yaml(read_text(file), file, empty=True)
    if "name" in given:
        problem = problem_text(("name",), "defaults are those of several syncs", at[("name",)], file)
        raise SpecError(title(1), problems=(problem,), todo="remove the name, or rename the file", file=file)
    return given, {where: LineOf.of(line, file) for where, line in at.items()}


def merge(
    values: Mapping[str, Any], lines: Lines, over: Mapping[str, Any], over_lines: Lines
) -> tuple[Values, dict[tuple[str, ...], int]]:
    """Return values with those of another layer over them, and the lines of both."""
    merged = dict(values)
    replaced: list[tuple[str, ...]] = []
    for key, value in over.items():
        before = merged.get(key)
        if key == ENVIRONMENTS and isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged_environments(before, value)
        elif _goes_one_by_one(key, before, value):
            merged[key] = {**before, **value}  # type: ignore[dict-item]
            replaced += [(key, str(name)) for name in value]
        else:
            merged[key] = value
            replaced.append((key,))
    kept = {where: line for where, line in lines.items() if where[:1] not in replaced and where[:2] not in replaced}
    return merged, {**kept, **over_lines}


def _goes_one_by_one(key: str, before: object, value: object) -> bool:
    if key not in MERGED or not isinstance(before, Mapping) or not isinstance(value, Mapping):
        return False
    # Another type has other keys.
    return key != "destination" or value.get("type", before.get("type")) == before.get("type")


def _merged_environments(before: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    merged = dict(before)
    for name, value in over.items():
        first = merged.get(name) or {}
        if isinstance(first, Mapping) and isinstance(value or {}, Mapping):
            merged[name] = merge(first, {}, value or {}, {})[0]
        else:
            merged[name] = value
    return merged


def in_environment(
    values: Mapping[str, Any], lines: Lines, name: str, known_keys: Callable[[Sequence[str]], Sequence[str]]
) -> tuple[Values, Lines, list[Problem]]:
    """Return the values of a sync in one environment, without ``environments``, their lines, and the problems.

    :param name: of the environment; empty for the sync as it is without one.
    :param known_keys: returns the keys that a sync may have at a path.
    """
    rest = {key: value for key, value in values.items() if key != ENVIRONMENTS}
    environments = values.get(ENVIRONMENTS)
    if environments is None:
        return rest, lines, []
    if not isinstance(environments, Mapping):
        return rest, lines, [((ENVIRONMENTS,), "must be a mapping: the name of an environment, and what differs in it")]
    problems = list(_problems(environments, known_keys))
    if not name or problems:
        return rest, lines, problems
    if name not in environments:
        known = ", ".join(map(str, environments))
        problem = f"lacks {name!r}, which [reverse_etl] environment names; it has {known or 'none'}; add `{name}: {{}}`"
        return rest, lines, [((ENVIRONMENTS,), f"{problem} if nothing differs in it")]
    place = (ENVIRONMENTS, name)
    chosen = {where[2:]: line for where, line in lines.items() if where[:2] == place and len(where) > len(place)}
    return (*merge(rest, lines, environments[name] or {}, chosen), [])


def _problems(
    environments: Mapping[Any, Any], known_keys: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[Problem]:
    """Yield what is wrong with the environments of a sync, apart from their values."""
    known = [key for key in known_keys(()) if key not in FIXED]
    for name, overrides in environments.items():
        place = (ENVIRONMENTS, str(name))
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name, re.ASCII):
            yield place, "must be a name of letters, digits and underscores"
        elif not isinstance(overrides or {}, Mapping):
            yield place, "must be a mapping of what differs in it"
        for key in overrides if isinstance(overrides, Mapping) else ():
            if key in FIXED:
                yield (*place, key), "is the same in all environments"
            elif key not in known:
                yield (*place, str(key)), f"unknown key{nearest(str(key), known)}"
