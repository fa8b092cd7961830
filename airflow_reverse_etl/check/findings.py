"""Findings of a check, and its report. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from airflow_reverse_etl.spec.folders.reading import Place

#: ``any_change`` fails for every edit of a model that a sync uses, ``breaking`` for the loss or a new meaning of
#: anything that a sync relies on, ``contract`` for a violation of dbt's own contracts only.
Policy = Literal["any_change", "breaking", "contract"]
POLICIES: tuple[Policy, ...] = ("any_change", "breaking", "contract")


class Level(StrEnum):
    """Severity of a finding, in order from the worst."""

    BREAKING = "breaking"
    REVIEW = "needs review"  # the check cannot determine whether a sync breaks
    WARNING = "warning"

    @property
    def rank(self) -> int:
        return list(Level).index(self)


#: Rule → title, for findings and for the rules of a SARIF report.
RULE_TITLES = {
    "model-missing": "A model that a sync uses is missing",
    "model-disabled": "A model that a sync uses is disabled",
    "model-unknown": "A sync names a model that is in neither version of the project",
    "model-ambiguous": "A sync names a model that several packages have",
    "model-changed": "A model that a sync uses was edited",
    "relation-moved": "The table of a model that a sync uses has another name or place",
    "version-bumped": "A sync without a pinned version would move to another version of its model",
    "model-deprecated": "A model that a sync uses is deprecated",
    "access-private": "A model that a sync uses was made private",
    "column-missing": "A column that a sync uses is missing",
    "column-type": "A column that a sync uses has another type",
    "column-meaning": "A column that a sync uses is computed differently",
    "sync-every-column": "A sync sends every column of a model whose columns change, or may change",
    "column-unverified": "The check cannot verify that the columns that a sync uses still exist",
    "column-added": "A model that a sync uses has more columns",
    "column-removed": "A model that a sync uses has fewer columns, none of which the sync uses",
    "key-changed": "The primary key that a sync takes from dbt changed",
    "key-test-removed": "The tests of a sync's primary key were removed",
    "contract-broken": "The contract of a model that a sync uses was weakened",
    "ephemeral": "A model that a sync uses would have no table",
    "materialization": "A model that a sync uses is materialized differently",
    "rows-changed": "A model that a sync uses may return different rows",
    "build-unproven": "Nothing proves that a model that a sync uses can be built",
    "build-changed": "Hooks or macros that build a model that a sync uses changed",
    "sync-removed": "The project no longer marks this model for reverse ETL",
    "privacy": "A sync sends personal data to a destination that the privacy policy does not allow",
    "sync-invalid": "A sync is not valid",
    "sync-unread": "A part of a sync cannot be read",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One consequence of the change for one sync.

    :param rule: a key of ``RULE_TITLES``.
    :param places: the place in the sync that is affected, then the model's file.
    :param contract: the change violates dbt's own contract of the model.
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
        """Return the finding with the level that a policy gives it."""
        if policy == "any_change":
            return replace(self, level=Level.BREAKING)
        if policy == "contract":
            level = Level.BREAKING if self.contract else Level.WARNING
            return replace(self, level=level)
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

    :param syncs: names of all syncs that were given to the check.
    :param unrelated: sync that reads no model of this project → the reason.
    """

    policy: Policy
    base: str
    head: str
    syncs: tuple[str, ...]
    findings: tuple[Finding, ...]
    unrelated: dict[str, str] = field(default_factory=dict)

    def of(self, level: Level) -> Sequence[Finding]:
        """Return the findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    @property
    def conclusion(self) -> Literal["failed", "needs review", "passed"]:
        if self.of(Level.BREAKING):
            return "failed"
        return "needs review" if self.of(Level.REVIEW) else "passed"

    def fails(self, *, review_blocks: bool) -> bool:
        """Return True if the check failed.

        :param review_blocks: count findings that need review as failures.
        """
        return self.conclusion == "failed" or (self.conclusion == "needs review" and review_blocks)

    @property
    def summary(self) -> str:
        """Return one line, such as ``"failed: 2 breaking, 1 warning, for 1 of 3 syncs"``."""
        if not self.findings:
            return f"{self.conclusion}: nothing changes for {len(self.syncs)} syncs"
        counts: list[str] = []
        for level in Level:
            count = len(self.of(level))
            if count:
                counts.append(f"{count} {_plural(level, count)}")
        affected = len({finding.sync for finding in self.findings})
        return f"{self.conclusion}: {', '.join(counts)}, for {affected} of {len(self.syncs)} syncs"

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
    if level is Level.WARNING and count > 1:
        return "warnings"
    return level.value
