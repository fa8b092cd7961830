"""Tests of the check's promise on random single edits, judged by an oracle that builds both versions (``edits/``)."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from random import Random

import pytest

from airflow_reverse_etl.check.check import check_project
from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.check.project.loader import ProjectLoader
from tests.check.edits.files import write_projects
from tests.check.edits.judge import Verdict, judged, sync_of, truth_of
from tests.check.edits.kinds import edited, kinds
from tests.check.edits.oracle import Oracle
from tests.check.edits.rules import RULES
from tests.check.edits.trees import Generator, Project

#: Edits of one project; the version before is built once for all of them.
EDITS = 6
#: Rule of a finding → why it needs review although the rows agree. An alarm by any other rule fails the test.
EXPLAINED = {
    "column-meaning": "the types of an undocumented source are not known, so that a cast, or its loss, may change them",
    "column-type": "the column changes its type, and its values remain",
    "build-unproven": "a column of a source is not known, or a warehouse converts more than most",
    "column-unverified": "SQL that sqlglot cannot analyse, because it names a column that is not there",
    "sync-every-column": "a column more that the oracle's sync does not have",
    "relation-moved": "the table is in another place",
}


@dataclass
class Tally:
    """What came of many edits.

    :param truths: what the oracle says.
    :param kinds: what was edited.
    :param alarms: kind and rules of what blocks although the rows agree.
    :param mentions: edits about which the check warns, and blocks nothing, although the rows agree.
    :param wrong: each case in which the check said less than the oracle, with what reproduces it.
    """

    truths: Counter[str] = field(default_factory=Counter)
    alarms: Counter[str] = field(default_factory=Counter)
    mentions: int = 0
    wrong: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, kind: str, verdict: Verdict) -> None:
        self.truths[verdict.truth] += 1
        self.kinds[kind] += 1
        if verdict.problem == "alarm":
            self.alarms[f"{kind}: {verdict.rules}"] += 1
        elif verdict.problem == "mention":
            self.mentions += 1
        elif verdict.problem:
            self.wrong.append(f"{verdict.problem}: {name}: {kind}: {verdict.why}")

    def merge(self, other: Tally) -> None:
        self.truths += other.truths
        self.alarms += other.alarms
        self.mentions += other.mentions
        self.wrong += other.wrong
        self.kinds += other.kinds

    def __str__(self) -> str:
        same = self.truths["same"]
        judged = ", ".join(f"{name} {self.truths[name]:,}" for name in ("same", "changed", "breaking"))
        left_out = ", ".join(f"{name} {self.truths[name]:,}" for name in ("unstable", "undecided"))
        lines = [
            f"{self.truths.total():,} edits: {judged}; left out: {left_out}",
            f"the check said too little: {len(self.wrong)}",
            f"the rows agree, and it warned: {self.mentions:,}; it blocked: {self.alarms.total()} of {same:,}",
            *(f"  {times:>4} {alarm}" for alarm, times in self.alarms.most_common()),
        ]
        return "\n".join(lines)

    def check(self, *, alarms: float) -> None:
        """Assert what is promised.

        :param alarms: the greatest share of alarms among edits whose rows agree.
        """
        assert self.wrong == []
        unexplained = [alarm for alarm in self.alarms if not any(rule in alarm for rule in EXPLAINED)]
        assert unexplained == []
        assert self.alarms.total() <= alarms * self.truths["same"], (self.alarms, self.truths)


def judged_edits(seeds: range) -> Tally:
    """Judge some edits of each of the projects."""
    tally = Tally()
    oracle = Oracle()
    for seed in seeds:
        rules = list(RULES.values())[seed % len(RULES)]
        project = Generator(seed).project()
        base = oracle.build(project, rules)
        if base is None:
            tally.truths["unstable"] += EDITS
            continue
        random = Random(f"{seed} edits")
        for at in range(EDITS):
            # As dbt compiles it or only parses it; with documented sources or without.
            how = {"compiled": random.random() < 0.7, "typed": random.random() < 0.6}
            kind, after = edited(project, random)
            name = f"project {seed}, edit {at}, {rules.adapter}, {how}"
            tally.add(name, kind, judged(oracle, base, project, after, rules, how))
    oracle.close()
    return tally


@pytest.mark.long
def test_a_sample_of_edits() -> None:
    tally = judged_edits(range(8))
    tally.check(alarms=0.1)
    assert tally.truths["breaking"] > 2
    assert tally.truths["changed"] > 2


@pytest.mark.slow
def test_10_000_edits(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    parts = [range(at, at + 100) for at in range(30_000, 31_700, 100)]
    with ProcessPoolExecutor() as pool:
        for part in pool.map(judged_edits, parts):
            tally.merge(part)
    with capsys.disabled():
        print(f"\n{tally}")
    tally.check(alarms=0.02)
    assert set(tally.kinds) == set(kinds())
    # Nearly everything can be judged.
    assert tally.truths["unstable"] + tally.truths["undecided"] < 0.1 * tally.truths.total()


@pytest.mark.slow
def test_200_edits_through_dbt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parse 200 projects in one with dbt, before and after an edit of each, and check a sync of each."""
    rules = RULES["duckdb"]
    pairs = {seed: _pair(seed) for seed in range(50_000, 50_200)}
    for version in ("base", "head"):
        projects = {seed: pair[version == "head"] for seed, (_, pair) in pairs.items()}
        write_projects(tmp_path / version, projects)
    base, head = (ProjectLoader().load(str(tmp_path / version)) for version in ("base", "head"))
    syncs = [sync_of(before, rules, prefix=f"p{seed}_") for seed, (_, (before, _)) in pairs.items()]
    report = check_project(syncs, base, head, today=date(2026, 7, 1))
    oracle = Oracle()
    tally = Tally()
    for seed, (kind, (before, after)) in pairs.items():
        built = oracle.build(before, rules)
        found, why = truth_of(oracle, built, after, rules, typed=True)
        tally.add(f"project {seed}", kind, Verdict(found, _of(report, f"p{seed}_crm"), why))
    oracle.close()
    with capsys.disabled():
        print(f"\n{tally}")
    tally.check(alarms=0.02)
    assert tally.truths.total() == 200


def _pair(seed: int) -> tuple[str, tuple[Project, Project]]:
    """Return an edit with the project before and after it."""
    project = Generator(seed).project()
    kind, after = edited(project, Random(f"{seed} edits"))
    return kind, (project, after)


def _of(report: CheckReport, sync: str) -> CheckReport:
    findings = tuple(finding for finding in report.findings if finding.sync == sync)
    return CheckReport(report.policy, report.base, report.head, (sync,), findings)
