"""Names of Airflow that differ between versions 3.1 and 3.3, and the translation of errors to Airflow's exceptions.

All other modules import these names from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow.sdk import (
    Asset,
    AssetAlias,
    BaseHook,
    BaseNotifier,
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
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
    )
except ImportError:  # Airflow 3.1
    from airflow.exceptions import (  # type: ignore[attr-defined, no-redef]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
    )

from airflow_reverse_etl.errors import ReverseEtlError

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowRescheduleException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "Asset",
    "AssetAlias",
    "BaseHook",
    "BaseNotifier",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "Context",
    "TaskDeferred",
    "TaskGroup",
    "airflow_configuration",
    "airflow_error",
    "airflow_errors",
    "field_behaviour",
    "form_widgets",
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


def field_behaviour(connection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the behaviour of a connection type's form, as its provider information describes it, for Airflow 3.1."""
    return {name.replace("-", "_"): value for name, value in connection["ui-field-behaviour"].items()}


def form_widgets(connection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the additional fields of a connection type's form, as its provider information describes them."""
    return {name: _widget(field) for name, field in connection["conn-fields"].items()}


def _widget(field: Mapping[str, Any]) -> Any:
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from wtforms import BooleanField, PasswordField, StringField
    from wtforms.validators import any_of

    schema = field["schema"]
    texts = {"label": field["label"], "description": field["description"]}
    if schema.get("format") == "password":
        return PasswordField(**texts, widget=BS3PasswordFieldWidget())
    if "boolean" in schema["type"]:
        return BooleanField(**texts, default=schema.get("default"))
    # A JSON object is text here.
    checks = [any_of(schema["enum"])] if "enum" in schema else []
    return StringField(**texts, widget=BS3TextFieldWidget(), validators=checks, default=schema.get("default"))
