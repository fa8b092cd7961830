"""Whether a branch has a new commit that changes something under a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_reverse_etl.git.repository import Repository


@dataclass(frozen=True, slots=True)
class PathVersion:
    """A commit, and a hash of what is under the path in it. Empty: nothing has been seen."""

    commit: str = ""
    content: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> PathVersion:
        return cls(stored["commit"], stored["content"]) if stored else cls()


def poll(repository: Repository, *, ref: str, path: str, seen: PathVersion) -> tuple[PathVersion, bool]:
    """What is there now, and whether it is news. While the branch does not move, this is one ``git ls-remote``.

    A path that is not there (any more) is no news.
    """
    commit = repository.head(ref)
    if commit == seen.commit:
        return seen, False
    content = repository.content_id(commit, path=path, ref=ref)
    return PathVersion(commit, content), content is not None and content != seen.content
