"""What a change to a dbt project would do to the syncs that use it. Needs neither a warehouse nor Airflow.

Compares two manifests (and what else is at hand, see :mod:`.columns`) for the models, and the columns, that syncs use.
What cannot be known is reported as needing review, never as safe.
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
    """Compare the project before (``base``) and after (``head``) a change, for these syncs.

    :param today: decides whether a deprecation date has passed.
    """
    base.use_compiled = head.use_compiled = _compiled(base) and _compiled(head)
    before = ColumnResolver(base)
    comparison = _Comparison(before, ColumnResolver(head, before), today, policy)
    findings: list[Finding] = []
    unrelated: dict[str, str] = {}
    for source in sources:
        used = usage(source, dialect=base.dialect)
        models = comparison.models(used)
        if isinstance(models, str):
            unrelated[source.sync.name] = models
        else:
            for model in models:
                findings += comparison.findings(used, model)
            if not models:
                findings.append(comparison.unknown(used))
    judged = sorted(
        (finding.under(policy) for finding in findings), key=lambda f: (f.level.rank, f.place.file, f.place.line or 0)
    )
    names = tuple(source.sync.name for source in sources)
    return CheckReport(policy, base.label, head.label, names, tuple(judged), unrelated)


def _compiled(project: ProjectVersion) -> bool:
    return any(node.get("compiled_code") for node in project.nodes.values())


class _Comparison:
    def __init__(self, base: ColumnResolver, head: ColumnResolver, today: date, policy: Policy) -> None:
        self.base, self.head, self.today, self.policy = base, head, today, policy
        self.other_target = _other_target(base.project, head.project)

    def models(self, used: Usage) -> Sequence[Model] | str:
        """The base's models that the sync reads; or why none of them concerns it."""
        model = used.source.sync.model
        if isinstance(model, str):
            found = self.base.project.find(model)
            if found:
                return [found]
            if self.head.project.find(model):
                return "its model is new"
            package = model.partition(".")[0]
            packages = {m.package for project in (self.base.project, self.head.project) for m in project.catalog.models}
            foreign = "." in model and package not in packages and not self._near(model)
            return f"its model is in another project: {package}" if foreign else []
        what = "its table is not one" if isinstance(model, TableModel) else "its query reads none"
        return self.base.project.models_of(model) or f"{what} of this project's models"

    def _near(self, model: str) -> list[str]:
        names = [m.name for project in (self.base.project, self.head.project) for m in project.catalog.models]
        return difflib.get_close_matches(model.split(".")[0], names, n=1)

    def unknown(self, used: Usage) -> Finding:
        source = used.source
        name = str(source.sync.model)
        near = self._near(name)
        return Finding(
            "model-unknown",
            Level.REVIEW,
            source.sync.name,
            name,
            f"the project has no model {name}, neither before nor after the change",
            (source.place("model"),),
            f"did you mean {near[0]}?" if near else "write package.name if it belongs to another project",
        )

    def findings(self, used: Usage, before: Model) -> Iterator[Finding]:
        after = self._after(used, before)
        if after is None:
            yield self._gone(used, before)
            return
        columns = self._used_columns(used, before)
        change = ModelChange(used, before, after, self.base, self.head, columns, self.today, self.other_target)
        found = [finding for rule in RULES for finding in rule(change)]
        yield from found
        if self.policy == "any_change" and not found and before != after:
            text = f"{after.name} was edited"
            yield change.finding("model-changed", Level.WARNING, text, todo="remove the model from its syncs first")

    def _after(self, used: Usage, before: Model) -> Model | None:
        model = used.source.sync.model
        return (
            self.head.project.find(model) if isinstance(model, str) else self.head.project.models.get(before.unique_id)
        )

    def _used_columns(self, used: Usage, before: Model) -> Mapping[str, Place]:
        sync = used.source.sync
        if not isinstance(sync.model, SqlModel):
            inferred = () if sync.primary_key else before.primary_key
            return {**dict.fromkeys(inferred, used.source.place("model")), **used.columns}
        known = self.base.columns(before.unique_id)
        candidates = {**(used.columns if used.star else {}), **used.mentions}
        return {n: place for n, place in candidates.items() if not known.complete or known.get(n)}

    def _gone(self, used: Usage, before: Model) -> Finding:
        head = self.head.project
        due = before.deprecation_date
        disabled = before.unique_id in head.disabled
        hint = "" if disabled else self._new_name(before)
        name = before.unique_id.split(".", 2)[2]
        source = used.source
        return Finding(
            "model-disabled" if disabled else "model-missing",
            Level.BREAKING,
            source.sync.name,
            before.unique_id,
            f"model {name} is {'disabled' if disabled else 'gone'}{f'; it is probably {hint} now' if hint else ''}",
            (source.place("model"), Place((PurePosixPath(head.folder) / before.path).as_posix())),
            "keep the model until its syncs are removed" + (f", or change the sync to {hint}" if hint else ""),
            contract=before.contract and not (due and due <= self.today.isoformat()),
        )

    def _new_name(self, before: Model) -> str | None:
        """Where a model went: the same SQL, table or path under a new id; or else one with a similar name."""
        new = [m for m in self.head.project.catalog.models if m.unique_id not in self.base.project.models]
        same = (
            [m for m in new if m.checksum == before.checksum],
            [m for m in new if m.relation and m.relation == before.relation],
            [m for m in new if m.path == before.path],
        )
        found = next((models[0].name for models in same if models), None)
        near = difflib.get_close_matches(before.name, [m.name for m in new], n=1)
        return found or (near[0] if near else None)


def _other_target(base: ProjectVersion, head: ProjectVersion) -> bool:
    """Whether every model has another database or schema: then another target is likelier than that many moves."""
    both = [(m, head.models[m.unique_id]) for m in base.catalog.models if m.unique_id in head.models]
    places = [((a.database, a.schema), (b.database, b.schema)) for a, b in both]
    return len(places) > 1 and all(a != b for a, b in places)
