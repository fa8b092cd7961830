"""The check of a change to a dbt project against the syncs that use it. It needs neither a warehouse nor Airflow.

The check compares two manifests, and other artifacts if available (see :mod:`.lineage`), for the models and columns
that syncs use. It says "safe" only if all that a sync reads is known to be the same. Anything else is breaking, or
needs review.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from airflow_reverse_etl.check.change import ModelChange, SyncIs
from airflow_reverse_etl.check.exposures import syncs_in_meta
from airflow_reverse_etl.check.findings import CheckReport, Finding, Level, Policy
from airflow_reverse_etl.check.lineage import ColumnResolver
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.check.rules.columns import columns
from airflow_reverse_etl.check.rules.models import RULES
from airflow_reverse_etl.check.usage import Usage, usage
from airflow_reverse_etl.dbt.catalog import Model
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.folders.reading import Place, SyncSource
from airflow_reverse_etl.spec.model import SqlModel, TableModel

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy


def check_project(
    sources: Sequence[SyncSource],
    base: ProjectVersion,
    head: ProjectVersion,
    *,
    today: date,
    policy: Policy = "breaking",
    invalid: Sequence[SpecError] = (),
    privacy: PrivacyPolicy | None = None,
    environment: str = "",
) -> CheckReport:
    """Compare the project before (``base``) and after (``head``) a change, for the syncs after it.

    The syncs are those given, and those in ``meta.reverse_etl`` of the head's models. A sync that is only in the base's
    ``meta`` no longer exists.

    :param today: the day that decides whether a deprecation date has passed.
    :param invalid: errors of syncs that cannot be read, in addition to those in ``meta``.
    :param privacy: privacy policy that the syncs after the change must meet, whatever ``policy`` says.
    :param environment: which of the ``environments`` of the syncs in ``meta`` counts; empty for none.
    """
    # Compiled SQL differs from raw SQL, so it is read only if both versions have it.
    both_compiled = _is_compiled(base) and _is_compiled(head)
    other_target = _has_other_target(base, head)
    for project in (base, head):
        project.use_compiled = both_compiled
        project.other_target = other_target
    base_columns = ColumnResolver(base)
    comparison = _Comparison(base_columns, ColumnResolver(head, base_columns), today, policy, other_target=other_target)
    syncs_before, _ = syncs_in_meta(base.catalog, environment=environment)
    in_meta, errors = syncs_in_meta(head.catalog, environment=environment)
    syncs = [*in_meta, *sources]
    findings = [_invalid_sync(error) for error in (*errors, *invalid)]
    digests = {source.sync.name: source.sync.digest for source in syncs_before}
    unrelated: dict[str, str] = {}
    for position, source in enumerate(syncs):
        used = usage(source, dialect=head.dialect)
        sync_is: SyncIs = "unknown"
        if position < len(in_meta):
            sync_is = "same" if digests.get(source.sync.name) == source.sync.digest else "new"
        found = comparison.of_sync(used, sync_is)
        if isinstance(found, str):
            unrelated[source.sync.name] = found
        else:
            findings += found
    judged = [finding.under(policy) for finding in findings]
    if privacy:
        judged += _privacy(privacy, syncs, comparison.head)
    # Under any policy, a model may change once its sync is removed.
    judged += _removed_syncs(syncs_before, syncs, [*errors, *invalid])
    judged.sort(key=lambda finding: (finding.level.rank, finding.place.file, finding.place.line or 0))
    names = tuple(source.sync.name for source in syncs)
    return CheckReport(policy, base.label, head.label, names, tuple(judged), unrelated)


def _is_compiled(project: ProjectVersion) -> bool:
    return any(node.get("compiled_code") for node in project.nodes.values())


def _invalid_sync(error: SpecError) -> Finding:
    file = str(error.where.get("file") or "")
    name = str(error.where.get("sync") or "")
    message = "; ".join(error.problems) or error.what
    return Finding("sync-invalid", Level.BREAKING, name, "", message, (Place(file),), error.todo)


def _privacy(policy: PrivacyPolicy, sources: Sequence[SyncSource], head: ColumnResolver) -> Iterator[Finding]:
    """Yield a finding for each field that the privacy policy denies."""
    from airflow_reverse_etl.check.privacy.marking import Marking
    from airflow_reverse_etl.check.privacy.rule import violations

    marking = Marking(head.project, head)
    for source in sources:
        sync = source.sync
        # A run checks a connection that only a task knows.
        if "destination.connection" in sync.to_render:
            continue
        model = head.project.find(sync.model) if isinstance(sync.model, str) else None
        marks = marking.of(model.unique_id) if model else None
        for one in violations(policy, source, marks):
            name = model.unique_id if model else str(sync.model)
            places = (one.place,)
            yield Finding("privacy", Level.BREAKING, sync.name, name, one.text, places, one.todo, one.column)


def _removed_syncs(
    before: Sequence[SyncSource], after: Sequence[SyncSource], errors: Sequence[SpecError]
) -> Iterator[Finding]:
    """Yield a warning for each sync in the base's ``meta`` that no longer exists."""
    names = {source.sync.name for source in after} | {error.where.get("sync") for error in errors}
    for source in before:
        name = source.sync.name
        if name not in names:
            text = f"the sync {name} is no longer in the meta.reverse_etl of a model"
            yield Finding("sync-removed", Level.WARNING, name, str(source.sync.model), text, (source.place(),))


class _Comparison:
    """A comparison of two project versions, from which each sync gets its findings."""

    def __init__(
        self, base: ColumnResolver, head: ColumnResolver, today: date, policy: Policy, *, other_target: bool
    ) -> None:
        self.base = base
        self.head = head
        self.today = today
        self.policy = policy
        self.other_target = other_target
        self._models = [*base.project.catalog.models, *head.project.catalog.models]

    def of_sync(self, used: Usage, sync_is: SyncIs) -> list[Finding] | str:
        """Return the findings of one sync, or the reason why it reads none of this project.

        :param sync_is: the sync before the change; unknown for one in a file.
        """
        model = used.source.sync.model
        before = self.base.project.models_of(model)
        if before:
            found = self._ambiguous(used)
            for one in before:
                found += self._findings(used, one, sync_is)
            return found
        after = self.head.project.models_of(model)
        if after:
            return [*self._ambiguous(used), *self._findings_of_new(used, after)]
        if not isinstance(model, str):
            return _reason_of_no_model(model)
        # A package that neither version has is another project, unless the name looks like a typing error.
        package = model.partition(".")[0]
        packages = {known.package for known in self._models}
        if "." in model and package not in packages and not self._similar_names(model):
            return f"its model is in another project: {package}"
        return [self._unknown_model(used)]

    def _ambiguous(self, used: Usage) -> list[Finding]:
        """Return a finding if several packages have the model: a run then fails."""
        name = used.source.sync.model
        if not isinstance(name, str) or len(self.head.project.named(name)) < 2:
            return []
        packages = [f"{model.package}.{model.name}" for model in self.head.project.named(name)]
        text = f"several packages have the model {name}: the sync cannot run"
        todo = f"write one of: {', '.join(sorted(packages))}"
        place = used.source.place("model")
        return [Finding("model-ambiguous", Level.BREAKING, used.source.sync.name, name, text, (place,), todo)]

    def _findings_of_new(self, used: Usage, models: Sequence[Model]) -> list[Finding]:
        """Return the findings about models that are new: their columns only."""
        found: list[Finding] = []
        for model in models:
            names = self._used_columns(used, model, self.head)
            change = ModelChange(used, model, model, self.head, self.head, names, self.today, sync_is="new")
            for rule in RULES:
                found += rule(change)
        return found

    def _similar_names(self, model: str) -> list[str]:
        names = [known.name for known in self._models]
        return difflib.get_close_matches(model.split(".")[0], names, n=1)

    def _unknown_model(self, used: Usage) -> Finding:
        """Build the finding for a sync whose model is in neither version."""
        source = used.source
        name = str(source.sync.model)
        similar = self._similar_names(name)
        if similar:
            todo = f"did you mean {similar[0]}?"
        else:
            todo = "write package.name if it belongs to another project"
        return Finding(
            "model-unknown",
            Level.REVIEW,
            source.sync.name,
            name,
            f"model {name} not found, neither before nor after the change",
            (source.place("model"),),
            todo,
        )

    def _findings(self, used: Usage, before: Model, sync_is: SyncIs) -> list[Finding]:
        """Return the findings for one model that the sync reads."""
        after = self._after(used, before)
        if after is None:
            return [self._missing_model(used, before)]
        names = self._used_columns(used, before, self.base)
        if used.excluded is not None:
            names = {**self._of_both(used, before, after), **names}
        change = ModelChange(used, before, after, self.base, self.head, names, self.today, self.other_target, sync_is)
        found: list[Finding] = []
        for rule in RULES:
            found += rule(change)
        if sync_is == "unknown" and not change.changed:
            found += self._never_there(change)
        base = self.base.project.definition(before.unique_id)
        edited = before != after or base != self.head.project.definition(after.unique_id)
        if self.policy == "any_change" and not found and edited:
            text = f"{after.name} was edited"
            found.append(
                change.finding("model-changed", Level.WARNING, text, todo="remove the model from its syncs first")
            )
        return found

    def _never_there(self, change: ModelChange) -> list[Finding]:
        """Return a finding for each column that a sync in a file uses, and that an unchanged model certainly lacks."""
        unique_id = change.after.unique_id
        if self.head.project.selects(unique_id, [name.lower() for name in change.columns]):
            return []
        names = self.head.certain_names(unique_id)
        if names is None or all(name.lower() in names for name in change.columns):
            return []
        missing = {name: place for name, place in change.columns.items() if name.lower() not in names}
        return list(columns(replace(change, columns=missing, sync_is="new")))

    def _after(self, used: Usage, before: Model) -> Model | None:
        model = used.source.sync.model
        if isinstance(model, str):
            return self.head.project.find(model)
        return self.head.project.tables.get(before.unique_id)

    def _used_columns(self, used: Usage, model: Model, resolver: ColumnResolver) -> Mapping[str, Place]:
        """Return the columns of the model that the sync uses, with the places where it uses them."""
        sync = used.source.sync
        if not isinstance(sync.model, SqlModel):
            inferred = () if sync.primary_key or not isinstance(sync.model, str) else model.primary_key
            return {**dict.fromkeys(inferred, used.source.place("model")), **used.columns}
        # A query may read several models: keep the columns that this one has or may have.
        known = resolver.columns(model.unique_id)
        candidates = used.query_columns()
        if not known.complete:
            return candidates
        return {
            name: place
            for name, place in candidates.items()
            if name in used.certain or known.get(name, spelling=used.spellings.get(name))
        }

    def _of_both(self, used: Usage, before: Model, after: Model) -> dict[str, Place]:
        """Return the columns of both versions that the sync's ``"*"`` gives. A rule reports on the others."""
        old = self.base.columns(before.unique_id).by_name
        new = self.head.columns(after.unique_id).by_name
        place = used.source.place("mapping", str(used.source.sync.star))
        common = old.keys() & new.keys() - (used.excluded or frozenset())
        return {old[name].name: place for name in sorted(common)}

    def _missing_model(self, used: Usage, before: Model) -> Finding:
        head = self.head.project
        source = used.source
        name = before.unique_id.split(".", 2)[2]
        todo = "keep the model until its syncs are removed"
        if before.unique_id in head.disabled:
            rule = "model-disabled"
            message = f"model {name} is disabled"
        else:
            rule = "model-missing"
            message = f"model {name} is missing"
            new_name = self._new_name(before)
            if new_name:
                message += f"; it was probably renamed to {new_name}"
                todo += f", or change the sync to {new_name}"
        deprecated = before.deprecation_date and before.deprecation_date <= self.today.isoformat()
        return Finding(
            rule,
            Level.BREAKING,
            source.sync.name,
            before.unique_id,
            message,
            (source.place("model"), Place((PurePosixPath(head.folder) / before.path).as_posix())),
            todo,
            contract=before.contract and not deprecated,
        )

    def _new_name(self, before: Model) -> str | None:
        """Return the new model with the same SQL, table or path, else the one with a similar name, else None."""
        models = self.head.project.catalog.models
        new = [model for model in models if model.unique_id not in self.base.project.tables]
        # The surest sign first.
        found = [model.name for model in new if model.checksum == before.checksum]
        found += [model.name for model in new if model.relation and model.relation == before.relation]
        found += [model.name for model in new if model.path == before.path]
        found += difflib.get_close_matches(before.name, [model.name for model in new], n=1)
        return found[0] if found else None


def _reason_of_no_model(model: TableModel | SqlModel) -> str:
    if isinstance(model, TableModel):
        return "its table belongs to no model of this project"
    return "its query reads no model of this project"


def _has_other_target(base: ProjectVersion, head: ProjectVersion) -> bool:
    """Return True if every model has another database or schema.

    Manifests made for different targets are then likelier than that many moves.
    """
    common = [(model, head.models[model.unique_id]) for model in base.catalog.models if model.unique_id in head.models]
    moved = [(old.database, old.schema) != (new.database, new.schema) for old, new in common]
    return len(moved) > 1 and all(moved)
