"""A model that a sync uses, before and after: what every rule of a check looks at."""

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
    """A model that a sync uses, before and after.

    :param columns: the sync's columns of this model → where it uses them.
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
    def changed(self) -> bool:
        """Whether the model's SQL, or anything upstream of it, did."""
        return self.base.project.digest(self.before.unique_id) != self.head.project.digest(self.after.unique_id)

    @property
    def bumped(self) -> bool:
        return self.before.version != self.after.version

    def finding(self, rule: str, level: Level, message: str, *, place: Place | None = None, **more: Any) -> Finding:
        source = self.usage.source
        model = Place((PurePosixPath(self.head.project.folder) / self.after.path).as_posix())
        places = (place or source.place("model"), model)
        return Finding(rule, level, source.sync.name, self.before.unique_id, message, places, **more)
