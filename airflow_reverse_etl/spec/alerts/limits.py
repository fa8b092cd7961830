"""The limits of a run from which on a person should know."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from airflow_reverse_etl.spec.field_types import Duration, Limit


class AlertLimits(BaseModel):
    """Limits of a run. A run that exceeds one of them has the health of the level that they belong to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_rejected: Annotated[
        Limit | None,
        Field(description="maximum of rejected and invalid rows, or of their share of the planned rows"),
    ] = None
    max_given_up: Annotated[
        Limit | None, Field(description="maximum of rows given up, or of their share of the model's rows")
    ] = None
    max_row_change: Annotated[
        Limit | None,
        Field(description="maximum of rows by which the model differs from the usual number, or of their share of it"),
    ] = None
    max_duration: Annotated[Duration | None, Field(description="maximum duration of a run")] = None

    @property
    def are_set(self) -> bool:
        """True if there is any limit."""
        return any(getattr(self, name) is not None for name in type(self).model_fields)


class Alerts(BaseModel):
    """Limits of a sync: what needs attention (warning), what is failing (critical), and what is late (critical)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    warning: AlertLimits = AlertLimits()
    critical: AlertLimits = AlertLimits()
    usual_runs: Annotated[
        int, Field(ge=1, le=100, description="number of earlier runs whose median is the usual number of rows")
    ] = 10
    max_delay: Annotated[
        Duration | None,
        Field(
            description="maximum time since the last run was recorded; "
            "`watch` of the maintenance DAG reports a sync that is late"
        ),
    ] = None

    @model_validator(mode="after")
    def _has_limits(self) -> Self:
        if not (self.warning.are_set or self.critical.are_set or self.max_delay is not None):
            raise ValueError(
                "needs max_delay, or a limit under warning or critical such as warning: {max_rejected: 1%}"
            )
        return self

    @property
    def need_usual(self) -> bool:
        """True if a limit compares with earlier runs."""
        return any(limits.max_row_change is not None for limits in (self.warning, self.critical))
