"""Errors of this package, grouped by what the reader should do about them.

::

    ReverseEtlError
    ├── ConfigurationError            fix the configuration, then run again
    │   ├── SpecError                 a sync specification has problems; all are listed
    │   ├── ModelNotFoundError        the sync names a model, column or relation that does not exist
    │   ├── CredentialsError          a connection is missing, incomplete or refused (401, 403, bad key)
    │   ├── RepositoryNotFoundError   repository, branch, tag or commit does not exist or is not visible
    │   └── ProjectError              dbt project not found, or dbt cannot read it
    ├── TryLaterError                 nothing is wrong with the configuration; the next try continues
    │   ├── UnreachableError          host, warehouse, API or storage did not answer
    │   ├── IncompleteLoadError       rows are left that the destination asked to send again later
    │   └── RunConflictError          another run of the same sync holds or moved the state
    └── AttentionError                a person must look
        ├── GuardError                the plan exceeds the sync's guards; nothing was sent
        ├── FailurePolicyError        more rows were rejected or unknown than the sync allows
        ├── DbtRunError               dbt ran and reported failures
        └── StateError                stored state is damaged or from a newer version
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_reverse_etl.spec.report import RunReport


class ReverseEtlError(Exception):
    """Base class of all errors. ``str()`` returns what happened, where, and what to do.

    :param what: one sentence, in the remote's own words where there are any.
    :param todo: what the reader should do.
    :param where: names of the place: ``connection``, ``sync``, ``model``, ``file`` (``path:line``) ...
        ``None`` values are left out. Never a secret, never a row's values.
    :cvar retry: Airflow may retry the task. If False, the task fails at once.
    :ivar report: the counts of the run so far, if the error ended a run after its plan was made.
    """

    retry: ClassVar[bool] = True

    def __init__(self, what: str, *, todo: str = "", **where: object) -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo
        self.where = {name: str(value) for name, value in where.items() if value is not None}
        self.report: RunReport | None = None

    def __str__(self) -> str:
        text = self.what
        if self.where:
            place = ", ".join(f"{name} {value!r}" for name, value in self.where.items())
            text += f" ({place})"
        if self.todo:
            text += f"\nWhat to do: {self.todo}"
        return text

    def with_report(self, report: RunReport) -> Self:
        """Attach the counts of the run, and return this error."""
        self.report = report
        return self

    def with_hint(self) -> str:
        """Return the message plus the command that explains this error in detail.

        Airflow's exceptions would otherwise hide the error class.
        """
        return f"{self}\nMore: reverse-etl errors {type(self).__name__}"


class ConfigurationError(ReverseEtlError):
    """Fix the configuration; trying again unchanged gives the same error."""

    retry = False


class SpecError(ConfigurationError):
    """A sync specification is invalid. ``problems`` lists every problem found, each with its place."""

    def __init__(self, what: str, *, problems: tuple[str, ...] = (), todo: str = "", **where: object) -> None:
        super().__init__(what, todo=todo, **where)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  - {problem}" for problem in self.problems)])


class ModelNotFoundError(ConfigurationError):
    """The sync names a model, column or relation that does not exist."""


class CredentialsError(ConfigurationError):
    """A connection is missing, incomplete, or was refused by the remote."""


class RepositoryNotFoundError(ConfigurationError):
    """Repository, branch, tag or commit does not exist, or the credentials cannot see it."""


class ProjectError(ConfigurationError):
    """The dbt project was not found, or dbt cannot read it."""


class TryLaterError(ReverseEtlError):
    """The configuration is right; a later try continues where this one stopped."""

    retry = True


class UnreachableError(TryLaterError):
    """A host, warehouse, API or storage did not answer."""


class IncompleteLoadError(TryLaterError):
    """Rows are left that the destination asked to send again later; their run is not committed yet."""

    def __init__(self, what: str, *, report: RunReport | None = None, todo: str = "", **where: object) -> None:
        super().__init__(what, todo=todo, **where)
        self.report = report


class RunConflictError(TryLaterError):
    """Another run of the same sync holds the lease, or moved the state meanwhile.

    :param outdated: the snapshot is not the one that the plan was made for.
    :param until: end of the lease that another run holds, if that is why the lease could not be taken.
    """

    def __init__(
        self, what: str, *, outdated: bool = False, until: datetime | None = None, todo: str = "", **where: object
    ) -> None:
        super().__init__(what, todo=todo, **where)
        self.outdated = outdated
        self.until = until


class AttentionError(ReverseEtlError):
    """A person must look; trying again by itself will not help."""

    retry = False


class GuardError(AttentionError):
    """The plan exceeds the sync's guards. Nothing was sent."""


class FailurePolicyError(AttentionError):
    """More rows were rejected, given up, or left unknown, than the sync's failure policy allows."""

    def __init__(self, what: str, *, report: RunReport | None = None, todo: str = "", **where: object) -> None:
        super().__init__(what, todo=todo, **where)
        self.report = report


class DbtRunError(AttentionError):
    """dbt ran and reported failures.

    To dbt a lost connection looks like any other failure, so the task's ``retries`` decide.
    """

    retry = True


class StateError(AttentionError):
    """Stored state is damaged, or written by a newer version of this package."""
