"""The change of one model that a sync uses: the input of every rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath
from typing import Any

from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import ColumnResolver
from airflow_reverse_etl.check.usage import Place, Usage
from airflow_reverse_etl.dbt.catalog import Model


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A model that a sync uses, before and after a change.

    :param columns: columns of this model that the sync uses → places where it uses them.
    :param today: the day that decides whether a deprecation date has passed.
    :param other_target: no model of the project kept its database and schema.
    """

    usage: Usage
    before: Model
    after: Model
    base: ColumnResolver
    head: ColumnResolver
    columns: Mapping[str, Place]
    today: date
    other_target: bool = False

    @property
    def sql_changed(self) -> bool:
        """Return True if the SQL of the model, or of anything upstream, changed."""
        return self.base.project.digest(self.before.unique_id) != self.head.project.digest(self.after.unique_id)

    @property
    def version_changed(self) -> bool:
        """Return True if the sync, which pins no version, would move to another version of the model."""
        return self.before.version != self.after.version

    def finding(self, rule: str, level: Level, message: str, *, place: Place | None = None, **more: Any) -> Finding:
        """Build a finding about this model.

        :param place: the affected place in the sync; default: its ``model``.
        """
        source = self.usage.source
        model_file = (PurePosixPath(self.head.project.folder) / self.after.path).as_posix()
        places = (place or source.place("model"), Place(model_file))
        return Finding(rule, level, source.sync.name, self.before.unique_id, message, places, **more)
