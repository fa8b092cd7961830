"""The check of a change to a dbt project against the syncs that use it. It needs neither a warehouse nor Airflow.

The check compares two manifests, and other artifacts if available (see :mod:`.lineage`), for the models and columns
that syncs use. Anything that cannot be determined is reported as "needs review", never as safe.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import PurePosixPath

from airflow_reverse_etl.check.change import ModelChange
from airflow_reverse_etl.check.findings import CheckReport, Finding, Level, Policy
from airflow_reverse_etl.check.lineage import ColumnResolver
from airflow_reverse_etl.check.project_version import ProjectVersion
from airflow_reverse_etl.check.rules.models import RULES
from airflow_reverse_etl.check.usage import Place, SyncSource, Usage, usage
from airflow_reverse_etl.dbt.catalog import Model
from airflow_reverse_etl.spec.model import SqlModel, TableModel


def check_project(
    sources: Sequence[SyncSource],
    base: ProjectVersion,
    head: ProjectVersion,
    *,
    today: date,
    policy: Policy = "breaking",
) -> CheckReport:
    """Compare the project before (``base``) and after (``head``) a change, for the given syncs.

    :param today: the day that decides whether a deprecation date has passed.
    """
    # Compiled SQL differs from raw SQL, so it is read only if both versions have it.
    both_compiled = _is_compiled(base) and _is_compiled(head)
    base.use_compiled = both_compiled
    head.use_compiled = both_compiled
    base_columns = ColumnResolver(base)
    comparison = _Comparison(base_columns, ColumnResolver(head, base_columns), today, policy)
    findings: list[Finding] = []
    unrelated: dict[str, str] = {}
    for source in sources:
        used = usage(source, dialect=base.dialect)
        models = comparison.models(used)
        if isinstance(models, str):
            unrelated[source.sync.name] = models
            continue
        for model in models:
            findings += comparison.findings(used, model)
        if not models:
            findings.append(comparison.unknown_model(used))
    judged = [finding.under(policy) for finding in findings]
    judged.sort(key=lambda finding: (finding.level.rank, finding.place.file, finding.place.line or 0))
    names = tuple(source.sync.name for source in sources)
    return CheckReport(policy, base.label, head.label, names, tuple(judged), unrelated)


def _is_compiled(project: ProjectVersion) -> bool:
    return any(node.get("compiled_code") for node in project.nodes.values())


class _Comparison:
    """A comparison of two project versions, from which each sync gets its findings."""

    def __init__(self, base: ColumnResolver, head: ColumnResolver, today: date, policy: Policy) -> None:
        self.base = base
        self.head = head
        self.today = today
        self.policy = policy
        self.other_target = _has_other_target(base.project, head.project)
        self._models = [*base.project.catalog.models, *head.project.catalog.models]

    def models(self, used: Usage) -> Sequence[Model] | str:
        """Return the base's models that the sync reads, or the reason why it reads none of this project.

        :returns: an empty list if the sync names a model that neither version has.
        """
        model = used.source.sync.model
        if not isinstance(model, str):
            return self.base.project.models_of(model) or _reason_of_no_model(model)
        found = self.base.project.find(model)
        if found:
            return [found]
        if self.head.project.find(model):
            return "its model is new"
        # A package that neither version has is another project, unless the name looks like a typing error.
        package = model.partition(".")[0]
        packages = {known.package for known in self._models}
        if "." in model and package not in packages and not self._similar_names(model):
            return f"its model is in another project: {package}"
        return []

    def _similar_names(self, model: str) -> list[str]:
        names = [known.name for known in self._models]
        return difflib.get_close_matches(model.split(".")[0], names, n=1)

    def unknown_model(self, used: Usage) -> Finding:
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

    def findings(self, used: Usage, before: Model) -> Iterator[Finding]:
        """Yield the findings for one model that the sync reads."""
        after = self._after(used, before)
        if after is None:
            yield self._missing_model(used, before)
            return
        columns = self._used_columns(used, before)
        change = ModelChange(used, before, after, self.base, self.head, columns, self.today, self.other_target)
        found: list[Finding] = []
        for rule in RULES:
            found += rule(change)
        yield from found
        if self.policy == "any_change" and not found and before != after:
            text = f"{after.name} was edited"
            yield change.finding("model-changed", Level.WARNING, text, todo="remove the model from its syncs first")

    def _after(self, used: Usage, before: Model) -> Model | None:
        model = used.source.sync.model
        if isinstance(model, str):
            return self.head.project.find(model)
        return self.head.project.models.get(before.unique_id)

    def _used_columns(self, used: Usage, before: Model) -> Mapping[str, Place]:
        """Return the columns of the model that the sync uses, with the places where it uses them."""
        sync = used.source.sync
        if not isinstance(sync.model, SqlModel):
            inferred = () if sync.primary_key else before.primary_key
            return {**dict.fromkeys(inferred, used.source.place("model")), **used.columns}
        # A query may read several models: keep the columns that this one has or may have.
        known = self.base.columns(before.unique_id)
        candidates = used.query_columns()
        if not known.complete:
            return candidates
        return {name: place for name, place in candidates.items() if known.get(name)}

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
        new = [model for model in models if model.unique_id not in self.base.project.models]
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
