"""The change of one model that a sync uses: the input of every rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath
from typing import Any, Literal

from airflow_reverse_etl.check.findings import Finding, Level
from airflow_reverse_etl.check.lineage import ColumnResolver
from airflow_reverse_etl.check.usage import Usage
from airflow_reverse_etl.dbt.catalog import Model
from airflow_reverse_etl.spec.folders.reading import Place

#: The sync before the change: the same, another one or none, or unknown.
SyncIs = Literal["same", "new", "unknown"]


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A model that a sync uses, before and after a change.

    :param before: the model before; for a model that is new, the model after the change.
    :param columns: columns of this model that the sync uses → places where it uses them.
    :param sync_is: the sync before the change, as far as it is known; one that is new or was changed may use columns
        that have never been there.
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
    sync_is: SyncIs = "unknown"

    @property
    def changed(self) -> bool:
        """Return True if what the model, or anything upstream, is made from changed."""
        return self.base.project.digest(self.before.unique_id) != self.head.project.digest(self.after.unique_id)

    def spelling(self, name: str) -> str | None:
        """Return how the warehouse must spell a used column, if it compares the name exactly."""
        return self.usage.spellings.get(name)

    def changed_nodes(self) -> Iterator[tuple[str | None, str]]:
        """Yield the ids, before and after, of the model and of each node upstream that is not made from the same.

        The id before is None for a node that is new.
        """
        base = self.base.project
        head = self.head.project
        for unique_id in (self.after.unique_id, *head.ancestors(self.after.unique_id)):
            # The model itself may have another id, such as another version.
            old_id = self.before.unique_id if unique_id == self.after.unique_id else unique_id
            if old_id not in base.nodes:
                yield None, unique_id
            elif base.digest(old_id) != head.digest(unique_id):
                yield old_id, unique_id

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
