"""What a check says: findings, and the report they make up. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from airflow_reverse_etl.check.usage import Place

#: ``any_change``: no edit of a model that a sync uses. ``breaking``: nothing that a sync relies on goes away or changes
#: its meaning. ``contract``: only what dbt's own contracts promise.
Policy = Literal["any_change", "breaking", "contract"]
POLICIES: tuple[Policy, ...] = ("any_change", "breaking", "contract")


class Level(StrEnum):
    """How bad. Ordered from worst to least."""

    BREAKING = "breaking"
    REVIEW = "needs review"  # it cannot be known whether it breaks anything
    WARNING = "warning"

    @property
    def rank(self) -> int:
        return list(Level).index(self)


#: Every rule, in a few words: titles of findings, and the rules of a SARIF report.
RULE_TITLES = {
    "model-missing": "A model that a sync uses is gone",
    "model-disabled": "A model that a sync uses is disabled",
    "model-unknown": "A sync names a model that is in neither version of the project",
    "model-changed": "A model that a sync uses was edited",
    "relation-moved": "The table of a model that a sync uses has another name or place",
    "version-bumped": "A sync without a pinned version would move to another version of its model",
    "model-deprecated": "A model that a sync uses is deprecated",
    "access-private": "A model that a sync uses was made private",
    "column-missing": "A column that a sync uses is gone",
    "column-type": "A column that a sync uses has another type",
    "column-meaning": "A column that a sync uses is computed differently",
    "column-unverified": "It cannot be known whether the columns that a sync uses are still there",
    "column-added": "A model that a sync uses has more columns",
    "column-removed": "A model that a sync uses has fewer columns, none of which the sync uses",
    "key-changed": "The primary key that a sync takes from dbt is another one",
    "key-test-removed": "Nothing tests the key of a sync any more",
    "contract-broken": "The contract of a model that a sync uses was weakened",
    "ephemeral": "A model that a sync uses would have no table",
    "materialization": "A model that a sync uses is materialized differently",
    "rows-changed": "A model that a sync uses may have other rows",
    "sync-removed": "The project no longer marks this model for reverse ETL",
    "sync-unread": "A part of a sync cannot be understood",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One consequence of the change for one sync.

    :param rule: a key of ``RULE_TITLES``.
    :param places: where the sync relies on it; then the model's file.
    :param contract: dbt's own contract forbids it.
    """

    rule: str
    level: Level
    sync: str
    model: str
    message: str
    places: tuple[Place, ...]
    todo: str = ""
    column: str | None = None
    contract: bool = False

    @property
    def place(self) -> Place:
        return self.places[0]

    def under(self, policy: Policy) -> Finding:
        """The finding as a policy sees it."""
        if policy == "any_change":
            return replace(self, level=Level.BREAKING)
        if policy == "contract":
            return replace(self, level=Level.BREAKING if self.contract else Level.WARNING)
        return self

    def to_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "level": self.level.value,
            "sync": self.sync,
            "model": self.model,
            "column": self.column,
            "message": self.message,
            "todo": self.todo,
            "places": [{"file": place.file, "line": place.line} for place in self.places],
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of a check.

    :param syncs: names of all syncs that were looked at.
    :param unrelated: sync → why no model of this project concerns it.
    """

    policy: Policy
    base: str
    head: str
    syncs: tuple[str, ...]
    findings: tuple[Finding, ...]
    unrelated: dict[str, str] = field(default_factory=dict)

    def of(self, level: Level) -> Sequence[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    @property
    def conclusion(self) -> Literal["failed", "needs review", "passed"]:
        if self.of(Level.BREAKING):
            return "failed"
        return "needs review" if self.of(Level.REVIEW) else "passed"

    @property
    def summary(self) -> str:
        """``"failed: 2 breaking, 1 warning, for 1 of 3 syncs"``."""
        counts = [f"{len(self.of(level))} {_plural(level, len(self.of(level)))}" for level in Level if self.of(level)]
        touched = len({finding.sync for finding in self.findings})
        if not counts:
            return f"{self.conclusion}: nothing changes for {len(self.syncs)} syncs"
        return f"{self.conclusion}: {', '.join(counts)}, for {touched} of {len(self.syncs)} syncs"

    def to_dict(self) -> dict[str, Any]:
        return {
            "conclusion": self.conclusion,
            "summary": self.summary,
            "policy": self.policy,
            "base": self.base,
            "head": self.head,
            "syncs": list(self.syncs),
            "unrelated": self.unrelated,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def _plural(level: Level, count: int) -> str:
    if level is Level.REVIEW:
        return "need review" if count > 1 else "needs review"
    return f"{level.value}s" if level is Level.WARNING and count > 1 else level.value
