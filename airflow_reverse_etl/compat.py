"""Names of Airflow that differ between versions 3.1 and 3.3, and the translation of errors to Airflow's exceptions.

All other modules import these names from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import (
    Asset,
    AssetAlias,
    BaseHook,
    BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator,
    Context,
    TaskGroup,
)

try:  # Airflow 3.2 moved the exceptions into the SDK
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
    )
except ImportError:  # Airflow 3.1
    from airflow.exceptions import (  # type: ignore[attr-defined, no-redef]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
    )

from airflow_reverse_etl.errors import ReverseEtlError

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "Asset",
    "AssetAlias",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "Context",
    "TaskDeferred",
    "TaskGroup",
    "airflow_configuration",
    "airflow_error",
    "airflow_errors",
]


def airflow_configuration() -> Any:
    """Return Airflow's configuration."""
    try:  # Airflow 3.2
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow 3.1
        from airflow.configuration import conf
    return conf


def airflow_error(error: ReverseEtlError) -> AirflowException:
    """Translate an error: Airflow retries the task if the error's ``retry`` allows it, and fails it at once if not."""
    exception = AirflowException if error.retry else AirflowFailException
    return exception(error.with_hint())


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Raise the errors of this package as Airflow's."""
    try:
        yield
    except ReverseEtlError as error:
        # Not chained: a driver's message may contain values of a row. str(error) has all that is needed.
        raise airflow_error(error) from None
