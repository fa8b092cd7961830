"""The command ``reverse-etl validate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_reverse_etl.cli.frame import FAILED, PASSED, Answer
from airflow_reverse_etl.cli.options import PrivacyFile, Project, policy_of, version_of

if TYPE_CHECKING:
    from airflow_reverse_etl.check.project.version import ProjectVersion
    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.errors import ReverseEtlError, SpecError
    from airflow_reverse_etl.spec.folders.reading import SyncSource
    from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy


@dataclass(slots=True)
class Finding:
    """Result of the check of one file.

    :param checked: the parts that were checked: ``file``, ``model``, ``privacy``, ``columns``, ``fields``.
    :param problems: reasons why the sync is not valid.
    :param unchecked: the other parts, each with the reason.
    :param notes: what a reader may not expect, and is valid.
    """

    file: str
    sync: str | None = None
    checked: list[str] = field(default_factory=lambda: ["file"])
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "not valid" if self.problems else "valid"

    def to_json(self) -> dict[str, Any]:
        """Return it as data."""
        return {
            "file": self.file,
            "sync": self.sync,
            "valid": not self.problems,
            "checked": self.checked,
            "problems": self.problems,
            "unchecked": self.unchecked,
            "notes": self.notes,
        }

    def lines(self) -> Iterator[str]:
        """Yield its lines of text."""
        yield f"{self.file}: {self.verdict}; checked: {', '.join(self.checked)}"
        for problem in self.problems:
            yield f"  - {problem}"
        for reason in self.unchecked:
            yield f"  - not checked: {reason}"
        for note in self.notes:
            yield f"  - note: {note}"


def validate(
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="files of syncs, or folders of them")],
    project: Project = None,
    connect: Annotated[
        bool,
        typer.Option(
            "--connect",
            help="also ask the warehouse for the model's columns, and the destination for its fields; what cannot be "
            "reached is named, and fails nothing. No row is read or sent",
        ),
    ] = False,
    privacy: PrivacyFile = None,
) -> Answer:
    """Check syncs: each file, its model in the dbt project, its columns and its fields.

    :raises ConfigurationError: file or folder not found, or it has no syncs.
    """
    from airflow_reverse_etl.errors import ConfigurationError
    from airflow_reverse_etl.spec.folders.order import problems_between

    sources, invalid = _read(paths)
    if not sources and not invalid:
        raise ConfigurationError("no syncs found", todo="pass YAML files of syncs, or a folder that has some")
    findings = [_of_invalid(error) for error in invalid]
    policy = policy_of(privacy)
    version = version_of(project)
    catalog = version.catalog if version else None
    between: dict[str, list[str]] = {}
    for source, problem in problems_between(sources):
        between.setdefault(source.file, []).append(problem)
    for source in sources:
        finding = Finding(source.file, source.sync.name)
        findings.append(finding)
        finding.problems += between.get(source.file, [])
        finding.problems += _in_other_environments(source.file)
        finding.notes += _notes(source)
        known = _check_model(source, catalog, finding)
        if policy:
            _check_privacy(source, policy, version, finding)
        if source.sync.to_render:
            finding.unchecked.append(f"{' and '.join(source.sync.to_render)}: Airflow renders it when a task begins")
        elif known and connect:
            _check_remotes(source, catalog, finding)
    findings.sort(key=lambda finding: finding.file)
    return _answer(findings)


def _read(paths: Sequence[str]) -> tuple[list[SyncSource], list[SpecError]]:
    from airflow_reverse_etl.cli.airflow import environment
    from airflow_reverse_etl.destinations.registry import check_options
    from airflow_reverse_etl.spec.folders.reading import read_syncs

    sources: list[SyncSource] = []
    invalid: list[SpecError] = []
    for path in paths:
        found, errors = read_syncs(Path(path), check=check_options, environment=environment())
        sources += found
        invalid += errors
    return sources, invalid


def _in_other_environments(file: str) -> list[str]:
    """Return the problems that a sync has in the environments that are not chosen."""
    from airflow_reverse_etl.cli.airflow import environment
    from airflow_reverse_etl.destinations.registry import check_options
    from airflow_reverse_etl.errors import SpecError
    from airflow_reverse_etl.spec.folders.layers import ENVIRONMENTS, read_layers
    from airflow_reverse_etl.spec.model import Sync

    problems: list[str] = []
    for name in read_layers(Path(file))[0].get(ENVIRONMENTS) or ():
        if name != environment():
            try:
                Sync.load_file(Path(file), check=check_options, environment=name)
            except SpecError as error:
                problems += [f"{problem} (environment {name})" for problem in error.problems]
    return problems


def _notes(source: SyncSource) -> list[str]:
    """Return what does not hold for a sync in a dbt project if its folder is mapped at run time."""
    given = [name for name in ("schedule", "pool", "retries", "partitions", "approve") if _is_set(source, name)]
    in_project = any((folder / "dbt_project.yml").is_file() for folder in Path(source.file).absolute().parents)
    if not given or not in_project:
        return []
    keys = ", ".join(f"airflow.{name}" for name in given)
    return [f"{keys}: not used where sync_group(project=…) maps the folder at run time: one task has all its syncs"]


def _is_set(source: SyncSource, name: str) -> bool:
    return name in source.sync.airflow.model_fields_set


def _of_invalid(error: SpecError) -> Finding:
    """Return the finding of a file that cannot be read as a sync."""
    file, _, line = error.where.get("file", "").rpartition(":")
    if not line.isdecimal():
        file = error.where.get("file", "")
    return Finding(file, problems=list(error.problems) or [str(error)])


def _check_model(source: SyncSource, catalog: Catalog | None, finding: Finding) -> bool:
    """Check the model and its primary key; return whether the model is known."""
    if isinstance(source.sync.model, str) and catalog is None:
        finding.unchecked.append("model: pass the dbt project as --project")
        return False
    from airflow_reverse_etl.cli.session import model_of

    with _noted(source, finding, "model"):
        model_of(source.sync, catalog)
    return "model" in finding.checked


def _check_privacy(source: SyncSource, policy: PrivacyPolicy, version: ProjectVersion | None, finding: Finding) -> None:
    """Check what the sync sends against the privacy policy."""
    from airflow_reverse_etl.check.privacy.marking import marks_of
    from airflow_reverse_etl.check.privacy.rule import violations

    if isinstance(source.sync.model, str) and version is None:
        finding.unchecked.append("privacy: pass the dbt project as --project")
    elif "destination.connection" in source.sync.to_render:
        finding.unchecked.append("privacy: the destination's connection is rendered when a task begins")
    else:
        finding.checked.append("privacy")
        finding.problems += [str(one) for one in violations(policy, source, marks_of(source.sync, version))]


def _check_remotes(source: SyncSource, catalog: Catalog | None, finding: Finding) -> None:
    """Ask the warehouse for the model's columns, and the destination for its fields, as a run does."""
    from airflow_reverse_etl.cli.airflow import wiring
    from airflow_reverse_etl.cli.session import model_of, run_context, wait_for
    from airflow_reverse_etl.stores.choose import closing_store
    from airflow_reverse_etl.sync.fields.inspection import inspect
    from airflow_reverse_etl.sync.planning import statement_for, with_model_columns
    from airflow_reverse_etl.sync.ports import PlanRequest

    sync = source.sync
    wired = wiring()
    query, primary_key = model_of(sync, catalog)
    with _noted(source, finding, "columns"):
        warehouse = wired.open_warehouse(sync.source)
        try:
            sync = with_model_columns(sync, query, warehouse)
            request = PlanRequest(sync, query, primary_key, "validate", datetime.now(UTC))
            statement_for(request, warehouse, None, snapshot_rows=0, planner="duckdb")
        finally:
            warehouse.close()
    if sync.star:
        finding.unchecked.append("fields: the mapping has every column of a model whose columns are not known")
        return
    with _noted(source, finding, "fields"):
        destination = wired.destination_of(sync)
        context = run_context(sync, query=None)
        with closing_store(context.store):
            wait_for(inspect(sync, destination, context))


@contextmanager
def _noted(source: SyncSource, finding: Finding, part: str) -> Iterator[None]:
    """Note the result of a check: a problem of the sync, or a reason why the part could not be checked."""
    from airflow_reverse_etl.errors import CredentialsError, ReverseEtlError, TryLaterError

    try:
        yield
        finding.checked.append(part)
    except (CredentialsError, TryLaterError) as error:
        finding.unchecked.append(f"{part}: {_one_line(error)}")
    except ReverseEtlError as error:
        finding.checked.append(part)
        place = source.place("model") if part == "model" else source.file
        problems: Sequence[str] = getattr(error, "problems", ()) or [_one_line(error)]
        finding.problems += [f"{place}: {problem}" for problem in problems]


def _one_line(error: ReverseEtlError) -> str:
    return f"{error.what}; {error.todo}" if error.todo else error.what


def _answer(findings: Sequence[Finding]) -> Answer:
    wrong = sum(1 for finding in findings if finding.problems)
    lines = [line for finding in findings for line in finding.lines()]
    lines.append(f"{len(findings):,} checked: {len(findings) - wrong:,} valid, {wrong:,} not valid")
    data = {"valid": not wrong, "syncs": [finding.to_json() for finding in findings]}
    return Answer(data, lines, FAILED if wrong else PASSED)
