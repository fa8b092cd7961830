"""Detection of commits on a branch that change something under a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_reverse_etl.git.repository import Repository


@dataclass(frozen=True, slots=True)
class PathVersion:
    """A commit, and a hash of everything under the path at that commit. Empty before the first poll."""

    commit: str = ""
    content: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> PathVersion:
        return cls(stored["commit"], stored["content"]) if stored else cls()


def poll(repository: Repository, *, ref: str, path: str, seen: PathVersion) -> tuple[PathVersion, bool]:
    """Return the current version of the path, and whether its content changed.

    A missing or deleted path does not count as a change. While the branch does not move, this is one ``git ls-remote``.
    """
    commit = repository.head(ref)
    if commit == seen.commit:
        return seen, False
    content = repository.content_id(commit, path=path, ref=ref)
    changed = content is not None and content != seen.content
    return PathVersion(commit, content), changed
