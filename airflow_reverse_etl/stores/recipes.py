"""Recipes: with what the last run of a sync in a DAG left, the maintenance DAG repeats it.

A recipe has no secret: connections are named, and looked up when it is used. It is kept under the state URL, whichever
store has the sync's state, so that it is found by the sync's name alone::

    <url>/recipes/<sync>.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.privacy.marks import ModelMarks
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.state import read_stored

#: Number of the form in which recipes are stored. Older code refuses newer ones.
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """Input of a run.

    :param spec: the sync as its author wrote it, in JSON.
    :param query: the model as a SELECT in the source's dialect.
    :param primary_key: column names; may be empty in mode ``append`` only.
    :param approved: a person approves each plan of the sync before it is sent.
    :param dag_id: DAG of the run.
    :param marks: marks of personal data of the model's columns; None if they are not known.
    """

    spec: dict[str, Any]
    query: str
    primary_key: tuple[str, ...]
    approved: bool
    dag_id: str
    marks: ModelMarks | None = None

    @classmethod
    def of(
        cls,
        sync: Sync,
        query: str,
        primary_key: tuple[str, ...],
        *,
        approved: bool,
        dag_id: str,
        marks: ModelMarks | None = None,
    ) -> Recipe:
        """Return the recipe of a run."""
        # What the author left out stays out: a later version may have other defaults.
        spec = sync.as_written.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return cls(spec, query, primary_key, approved, dag_id, marks)


class Recipes:
    """The recipes of all syncs.

    :param files: of the state URL, with the environment's folder.
    """

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def save(self, sync: str, recipe: Recipe) -> None:
        """Keep the recipe of the last run. Writes only what has changed."""
        data = json.dumps(
            {
                "format": _FORMAT,
                "spec": recipe.spec,
                "query": recipe.query,
                "primary_key": list(recipe.primary_key),
                "approved": recipe.approved,
                "dag_id": recipe.dag_id,
                "marks": recipe.marks and recipe.marks.to_json(),
            }
        ).encode()
        if self._files.read(_path(sync)) != data:
            self._files.write(_path(sync), data)

    def read(self, sync: str) -> Recipe:
        """Return the recipe of a sync.

        :raises ConfigurationError: no run of the sync has left one, or a newer version of this package did.
        :raises StateError: the file is damaged.
        """
        data = self._files.read(_path(sync))
        if data is None:
            raise ConfigurationError(
                "no run of this sync in a DAG has left what a maintenance run needs",
                todo="check the name, or let the sync's own DAG run once",
                sync=sync,
            )
        todo = "run the sync's own DAG, which writes it again"
        values = read_stored(data, dict, "the recipe of a sync", todo=todo, sync=sync)
        if values.get("format") != _FORMAT:
            raise ConfigurationError(
                "a newer version of airflow_reverse_etl has run this sync", todo="upgrade this worker", sync=sync
            )
        return read_stored(data, _recipe, "the recipe of a sync", todo=todo, sync=sync)


def _recipe(values: dict[str, Any]) -> Recipe:
    return Recipe(
        spec=dict(values["spec"]),
        query=str(values["query"]),
        primary_key=tuple(map(str, values["primary_key"])),
        approved=bool(values["approved"]),
        dag_id=str(values["dag_id"]),
        marks=ModelMarks.from_json(values["marks"]) if values.get("marks") else None,
    )


def _path(sync: str) -> str:
    return f"recipes/{sync}.json"
