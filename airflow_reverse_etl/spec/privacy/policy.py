"""The privacy policy: a YAML file that says which marks may go to which destinations."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.field_types import Names
from airflow_reverse_etl.spec.model import DestinationSpec
from airflow_reverse_etl.spec.privacy.marks import HASHED
from airflow_reverse_etl.spec.problems import at_most, problem_text, problems_of
from airflow_reverse_etl.spec.yaml_file import line_of, read_text, read_yaml

_WHAT = "privacy policy"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AllowedDestination(_Strict):
    """Destinations, and the marks that may go there. Each key that is given must match; ``*`` stands for any text."""

    connection: Annotated[str | None, Field(min_length=1, description="Airflow connection id, such as `hubspot_*`")] = (
        None
    )
    type: Annotated[str | None, Field(min_length=1, description="type of the destination")] = None
    object: Annotated[str | None, Field(min_length=1, description="object of the destination")] = None
    allow: Annotated[
        Names,
        Field(
            min_length=1,
            description="marks that may go there: `email`, also hashed; `hashed email`, hashed only; `*`, every mark, "
            "also unknown ones",
        ),
    ]

    @model_validator(mode="after")
    def _names_a_destination(self) -> AllowedDestination:
        if not (self.connection or self.type or self.object):
            raise ValueError("names no destination; write connection, type or object")
        return self

    def matches(self, destination: DestinationSpec) -> bool:
        """Return True if this entry is about a destination."""
        for name in ("connection", "type", "object"):
            pattern = getattr(self, name)
            if pattern and not fnmatchcase(getattr(destination, name) or "", pattern):
                return False
        return True


class PrivacyPolicy(_Strict):
    """A policy for all syncs. What no entry allows is denied."""

    unknown: Annotated[
        Literal["deny", "allow"],
        Field(
            description="decision on a column whose marks are not known: of a `{sql: …}` or `{table: …}` model, or "
            "without a lineage"
        ),
    ] = "deny"
    destinations: Annotated[
        tuple[AllowedDestination, ...], Field(description="what may go where; several entries for one add up")
    ] = ()
    _file: str = PrivateAttr(default="")

    @property
    def file(self) -> str:
        """The path of the policy's file."""
        return self._file

    @classmethod
    def load(cls, path: Path) -> PrivacyPolicy:
        """Read a policy.

        :raises SpecError: the file cannot be read, or is not valid; lists all problems, each with ``file:line``.
        """
        values, lines = read_yaml(read_text(path, what=_WHAT), path, what=_WHAT)
        try:
            policy = cls.model_validate(values)
        except ValidationError as error:
            texts = []
            for where, message in problems_of(error, _known_keys):
                texts.append(problem_text(where, message, line_of(lines, where), path))
            raise SpecError(
                "the privacy policy is not valid",
                problems=at_most(texts),
                todo="correct the lines below",
                file=path,
            ) from None
        policy._file = str(path)
        return policy

    def allowed(self, destination: DestinationSpec) -> tuple[str, ...]:
        """Return the marks that may go to a destination, as they are written."""
        found: list[str] = []
        for entry in self.destinations:
            if entry.matches(destination):
                found += entry.allow
        return tuple(dict.fromkeys(found))

    def allows(self, mark: str, destination: DestinationSpec) -> bool:
        """Return True if a mark may go to a destination. A mark that may go there may do so hashed."""
        names = {mark, mark.removeprefix(HASHED)}
        patterns = [" ".join(pattern.lower().split()) for pattern in self.allowed(destination)]
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    def allows_unknown(self, destination: DestinationSpec) -> bool:
        """Return True if a column whose marks are not known may go to a destination."""
        return self.unknown == "allow" or "*" in self.allowed(destination)


def _known_keys(where: object) -> list[str]:
    shape = AllowedDestination if where else PrivacyPolicy
    return list(shape.model_fields)
