"""Names of Airflow whose home differs by version, 3.1 to 3.3: everything else of ours imports them from here."""

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

from airflow_reverse_etl.errors import ConfigurationError, ReverseEtlError

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
    "airflow_errors",
]


def airflow_configuration() -> Any:
    """Airflow's configuration."""
    try:  # Airflow 3.2
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow 3.1
        from airflow.configuration import conf
    return conf


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Our errors as Airflow's: those that no retry would help fail the task at once."""
    try:
        yield
    except ConfigurationError as error:
        raise AirflowFailException(error.with_hint()) from None
    except ReverseEtlError as error:
        raise AirflowException(error.with_hint()) from None
