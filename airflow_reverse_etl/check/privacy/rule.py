"""The rule of the privacy policy: where a sync sends a marked column to a destination that may not have it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_reverse_etl.check.usage import field_columns
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.folders.reading import Place, SyncSource
from airflow_reverse_etl.spec.model import STAR, DestinationSpec, EveryColumn, FieldSource, HashField, Sync
from airflow_reverse_etl.spec.privacy.marks import ColumnMarks, Mark, ModelMarks
from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy
from airflow_reverse_etl.spec.problems import at_most


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a sync that the policy denies.

    :param text: the column, its mark, where the mark comes from, and the destination.
    :param todo: what to do.
    """

    place: Place
    column: str | None
    text: str
    todo: str

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place.file else ""
        return f"{place}{self.text}; {self.todo}"


def check_privacy(policy: PrivacyPolicy | None, sync: Sync, marks: ModelMarks | None) -> None:
    """Make sure that a run may send what its sync maps.

    :param policy: None if no policy is set.
    :param marks: of the sync's model; None if they are not known.
    :raises SpecError: the policy denies a field; lists all of them.
    """
    if policy is None:
        return
    found = [str(violation) for violation in violations(policy, SyncSource(sync, ""), marks)]
    if found:
        raise SpecError(
            "the sync sends personal data to a destination that the privacy policy does not allow",
            problems=at_most(found),
            todo="do one of what is listed below; nothing was read or sent",
            sync=sync.name,
            file=policy.file,
        )


def violations(policy: PrivacyPolicy, source: SyncSource, marks: ModelMarks | None) -> list[Violation]:
    """Return every field of a sync that the policy denies.

    :param marks: of the sync's model; None if they are not known.
    """
    sync = source.sync
    if marks is None:
        reason = "its model is not one of a dbt catalog" if isinstance(sync.model, str) else "its model is not dbt's"
        marks = ModelMarks(others=ColumnMarks(unknown=reason))
    found: list[Violation] = []
    for target, field in sync.mapping.items():
        place = source.place("mapping", target)
        for column, carried in _carried(source, target, field, marks):
            hashed = isinstance(field, HashField)
            key = f"mapping.{target}"
            found += _denied(policy, sync.destination, key, column, carried, place=place, hashed=hashed)
    # A destination may get it with each record, as HubSpot does, or with a removal.
    place = source.place("primary_key")
    for column in sync.primary_key or marks.primary_key:
        carried = ColumnMarks(marks.of(column).marks)
        found += _denied(policy, sync.destination, "primary_key", column, carried, place=place, hashed=False)
    return found


def _carried(
    source: SyncSource, target: str, field: FieldSource, marks: ModelMarks
) -> Iterator[tuple[str | None, ColumnMarks]]:
    """Yield the columns that a field sends, each with its marks. None: columns that nobody can name."""
    if isinstance(field, EveryColumn):
        yield from _of_every_column(source.sync, target, field, marks)
        return
    names, problem = field_columns(source.sync, target, marks.dialect)
    for name in names:
        yield name, marks.of(name)
    if problem:
        yield None, ColumnMarks(unknown=problem)


def _of_every_column(
    sync: Sync, target: str, field: EveryColumn, marks: ModelMarks
) -> Iterator[tuple[str | None, ColumnMarks]]:
    excluded = {name.lower() for name in field.exclude}
    prefix = target.removesuffix(STAR)
    fields = {name.lower() for name in sync.mapping}
    for column, carried in marks.columns.items():
        if column not in excluded and (prefix + column).lower() not in fields:
            yield column, carried
    yield None, marks.others


def _denied(
    policy: PrivacyPolicy,
    destination: DestinationSpec,
    key: str,
    column: str | None,
    carried: ColumnMarks,
    *,
    place: Place,
    hashed: bool,
) -> Iterator[Violation]:
    subject = f"column {column}" if column else "a column"
    where = _described(destination)
    for mark in carried.marks:
        sent = mark.hashed if hashed else mark
        if not policy.allows(sent.name, destination):
            text = f"{key} sends {subject} to {where}, and {subject} is marked {mark.name!r} ({mark.origin})"
            yield Violation(place, column, text, _todo(policy, destination, mark, sent))
    if carried.unknown and not policy.allows_unknown(destination):
        text = f"{key} sends {subject} to {where}, and the marks of {subject} are not known: {carried.unknown}"
        todo = "declare the column's meta in dbt (pii: false if it has no personal data), and sync a dbt model"
        yield Violation(place, column, text, f"{todo}; or write unknown: allow in {policy.file}")


def _described(destination: DestinationSpec) -> str:
    parts = [destination.type]
    if destination.object:
        parts.append(destination.object)
    if destination.connection:
        parts.append(f"(connection {destination.connection})")
    return " ".join(parts)


def _todo(policy: PrivacyPolicy, destination: DestinationSpec, mark: Mark, sent: Mark) -> str:
    allowed = ", ".join(policy.allowed(destination)) or "nothing"
    choices = [f"remove the field, or allow {sent.name!r} in {policy.file}, which allows {allowed} there"]
    if sent == mark and policy.allows(mark.hashed.name, destination):
        choices.insert(0, "send its hash: {column: …, hash: sha256}")
    return "; or ".join(choices)
