"""Options of the Airflow configuration section ``[reverse_etl]``."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache
from pathlib import Path

from airflow_reverse_etl.compat import airflow_configuration
from airflow_reverse_etl.errors import ConfigurationError

SECTION = "reverse_etl"


def setting(option: str) -> str:
    """Return an option of the Airflow configuration section ``[reverse_etl]``, or its default if it is not set.

    :raises ConfigurationError: the option does not exist.
    """
    defaults = _defaults()
    if option not in defaults:
        raise ConfigurationError(
            f"option {option!r} not found in [{SECTION}]", todo=f"use one of {', '.join(defaults)}"
        )
    value = airflow_configuration().get(SECTION, option, fallback=None)
    return str(value) if value not in (None, "") else defaults[option]


@cache
def _defaults() -> dict[str, str]:
    from airflow_reverse_etl.provider import get_provider_info

    options = get_provider_info()["config"][SECTION]["options"]
    return {name: option["default"] or "" for name, option in options.items()}


def is_on(option: str) -> bool:
    """Return True if an option is on."""
    return setting(option).lower() in ("true", "1", "yes")


def history() -> timedelta:
    """Return the time for which runs are kept."""
    days = setting("history_days")
    if not days.isdigit() or not int(days):
        raise ConfigurationError(f"[{SECTION}] history_days is {days!r}", todo="set a number of days, 1 or more")
    return timedelta(days=int(days))


def checkout_folder() -> Path:
    """Return the worker's own folder for checkouts of Git repositories: ``[reverse_etl] checkout_folder``."""
    return Path(in_home(setting("checkout_folder"))).absolute()


def in_home(place: str) -> str:
    """Fill in ``{AIRFLOW_HOME}``."""
    return place.replace("{AIRFLOW_HOME}", os.environ.get("AIRFLOW_HOME") or str(Path("~/airflow").expanduser()))
