"""The syncs in a folder: each with its file, and the line of each of its keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.folders.layers import DEFAULTS, defaults_of, stamp
from airflow_reverse_etl.spec.model import DestinationCheck, Sync
from airflow_reverse_etl.spec.yaml_file import Lines, line_of


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A file, and a line in it if known."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class SyncSource:
    """A sync and the file that defines it. ``lines`` is empty unless that is a YAML file."""

    sync: Sync
    file: str
    lines: Lines = field(default_factory=dict)

    def place(self, *keys: str) -> Place:
        """Return the place of a key of the sync, given as the path of keys that lead to it."""
        line = line_of(self.lines, keys)
        return Place(str(getattr(line, "file", self.file)), line)


def sync_files(folder: Path) -> list[Path]:
    """Return one YAML file, or the files of syncs in a folder and its subfolders.

    :raises ConfigurationError: folder or file not found.
    """
    if not folder.exists():
        raise ConfigurationError("folder or file of syncs not found", todo="check the path", file=folder)
    if folder.is_file():
        return [folder]
    files = (path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml"))
    return sorted(path for path in files if path.name not in DEFAULTS)


def read_syncs(
    folder: Path, *, check: DestinationCheck | None = None, environment: str = ""
) -> tuple[list[SyncSource], list[SpecError]]:
    """Read every sync in one YAML file, or in those of a folder and its subfolders.

    :param check: validates the destination's own keys as well.
    :param environment: which of the syncs' ``environments`` counts; empty for none.
    :returns: the valid syncs, and an error for each invalid one.
    :raises ConfigurationError: folder or file not found.
    """
    sources: list[SyncSource] = []
    errors: list[SpecError] = []
    for path in sync_files(folder):
        try:
            if check:
                found = Sync.load_file(path, check=check, environment=environment)
            else:
                found = load_known(path, environment=environment)
            sources.append(SyncSource(found[0], path.as_posix(), found[1]))
        except SpecError as error:
            errors.append(error)
    return sources, errors


def load_known(path: Path, *, environment: str = "") -> tuple[Sync, Lines]:
    """Load a sync file as :meth:`Sync.load_file`, and remember it: several tasks of a DAG have the same sync.

    :raises SpecError: lists all problems, each with ``file:line``.
    """
    return _remembered(path, environment, tuple(map(stamp, (path, *defaults_of(path.parent)))))


@lru_cache(maxsize=10_000)
def _remembered(path: Path, environment: str, stamps: tuple[object, ...]) -> tuple[Sync, Lines]:  # noqa: ARG001
    return Sync.load_file(path, environment=environment)
