"""The check's verdict on a pair of projects, and the oracle's, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlglot import exp

from airflow_reverse_etl.check.check import check_project
from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.spec.folders.reading import SyncSource
from airflow_reverse_etl.spec.model import Sync
from tests.check.edits.oracle import Built, Oracle
from tests.check.edits.rules import Broken, Rules, Undecided, WrongTypes
from tests.check.edits.trees import LAST, SOURCES, Project, Read, reads, relation, text
from tests.dbt.projects import Node, keyed, manifest, model, source


@dataclass(frozen=True)
class Verdict:
    """What both say about an edit.

    :param truth: ``breaking``, ``changed`` or ``same``; or ``unstable`` or ``undecided``, which nobody can judge.
    :param why: the reason of the oracle.
    """

    truth: str
    report: CheckReport
    why: str = ""

    @property
    def problem(self) -> str:
        """Return the way in which the check is wrong, if any."""
        found = self.report.findings
        if self.truth == "breaking" and self.report.conclusion == "passed":
            return "breaking called safe"
        if self.truth == "changed" and not found:
            return "changed rows unmentioned"
        if self.truth == "same" and self.report.conclusion != "passed":
            return "alarm"
        # A warning says that rows or values may change. It stops nothing.
        return "mention" if self.truth == "same" and found else ""

    @property
    def rules(self) -> str:
        return ", ".join(sorted({f"{finding.rule} ({finding.level})" for finding in self.report.findings}))


def truth(base: Built | None, head: Built | None) -> tuple[str, str]:
    """Compare what the sync reads before and after."""
    if base is None or head is None:
        return "unstable", ""
    for name, family in base.families.items():
        after = head.families.get(name)
        if after is not None and "null" not in (family, after) and after != family:
            return "breaking", f"{name}: {family} becomes {after}"
    if head.risks > base.risks:
        return "undecided", "a cast may fail"
    return ("same" if base.rows == head.rows else "changed"), ""


def truth_of(oracle: Oracle, base: Built | None, after: Project, rules: Rules, *, typed: bool) -> tuple[str, str]:
    """Return what an edit does to the sync, and the reason.

    :param typed: the sources' columns are documented with their types. If not, nobody can know that types conflict.
    """
    try:
        return truth(base, oracle.build(after, rules))
    except WrongTypes as broken:
        return "breaking" if typed else "undecided", f"types: {broken}"
    except Broken as broken:
        return "breaking", str(broken)
    except Undecided as undecided:
        return "undecided", str(undecided)


def judged(
    oracle: Oracle, base: Built, before: Project, after: Project, rules: Rules, how: Mapping[str, Any]
) -> Verdict:
    """Compare the verdicts of oracle and check on an edit.

    :param base: the version before, as the oracle has built it.
    :param how: arguments of :func:`version`.
    """
    found, why = truth_of(oracle, base, after, rules, typed=how["typed"])
    versions = [version(project, rules.adapter, **how) for project in (before, after)]
    report = check_project([sync_of(before, rules)], *versions, today=date(2026, 7, 1))
    return Verdict(found, report, why)


def version(project: Project, dialect: str, *, compiled: bool = True, typed: bool = True) -> ProjectVersion:
    """Return a project as its manifest has it.

    :param compiled: dbt has compiled it, and not only parsed it.
    :param typed: the sources' columns are documented with their types.
    """
    nodes: list[Node] = [*_sources(dialect, typed=typed)]
    for built in project.models.values():
        parents = [f"source.shop.raw.{name}" if name in SOURCES else name for name in reads(built)]
        nodes.append(
            model(
                built.name,
                text(built, project, dialect, compiled=False),
                parents=parents,
                compiled=text(built, project, dialect, compiled=True) if compiled else None,
                schema=built.schema,
                relation_name=relation(built.name, built.schema, dialect),
                original_file_path=f"{built.folder}/{built.name}.sql",
            )
        )
    return ProjectVersion(manifest(*nodes, *keyed(LAST, project.sync.key), adapter=dialect))


def _sources(dialect: str, *, typed: bool) -> list[Node]:
    found = []
    for name, columns in SOURCES.items():
        types = {column: exp.DataType.build(kind).sql(dialect) for column, kind in columns.items()}
        found.append(source(name, types if typed else {}, relation_name=relation(name, "raw", dialect)))
    return found


def sync_of(project: Project, rules: Rules, *, prefix: str = "") -> SyncSource:
    """Return the sync in the dialect's SQL.

    :param prefix: what its name and those of the project's models begin with.
    """
    tree = project.sync
    mapping: dict[str, Any] = {field: _value(read, rules) for field, read in tree.reads.items()}
    if tree.every:
        mapping["*"] = "*"
    values: dict[str, Any] = {
        "name": f"{prefix}crm",
        "model": _model(project, rules, f"{prefix}{LAST}"),
        "source": "warehouse",
        "destination": {"type": "http"},
        "primary_key": tree.key,
        "mapping": mapping,
    }
    if tree.cursor:
        values["track"] = {"cursor": tree.cursor}
    return SyncSource(Sync.load(values), "syncs/crm.yaml")


def _model(project: Project, rules: Rules, name: str) -> Any:
    tree = project.sync
    if tree.form == "model":
        return name
    if tree.form == "table" or tree.query is None:
        return {"table": f"main.{name}"}
    query = tree.query.copy()
    for table in query.find_all(exp.Table):
        table.set("this", exp.to_identifier(name))
        table.set("db", exp.to_identifier("main"))
    return {"sql": query.sql(rules.adapter)}


def _value(read: Read, rules: Rules) -> Any:
    if not read.in_sql:
        return read.name
    name = read.name.upper() if read.quoted and rules.folds == "upper" else read.name
    column = exp.column(exp.to_identifier(name, quoted=read.quoted))
    return {"sql": exp.Coalesce(this=column, expressions=[column.copy()]).sql(rules.adapter)}
