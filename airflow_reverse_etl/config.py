"""Settings of this package: the section ``[reverse_etl]`` of Airflow's configuration, as typed values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_reverse_etl.compat import airflow_configuration
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.provider import get_provider_info

SECTION = "reverse_etl"


@dataclass(frozen=True)
class Settings:
    """Options of the section, under their own names. The provider information has their meanings and defaults."""

    state_url: str
    state_conn_id: str | None
    checkout_folder: Path
    dbt_cloud_webhooks: frozenset[str]
    environment: str
    environment_is_new: bool
    warehouse_schema: str
    history_days: timedelta
    change_log: bool
    memory_limit: str
    duckdb_external_access: bool
    privacy_policy: Path | None
    scratch_folder: Path | None


def sync_page(sync: str) -> str:
    """Return the address of a sync's page in Airflow; without a host if ``[api] base_url`` has none."""
    base = airflow_configuration().get("api", "base_url", fallback="") or ""
    return f"{base.rstrip('/')}/plugin/reverse-etl/syncs/{quote(sync, safe='')}"


def environment() -> str:
    """Return the environment of syncs and dbt; empty if none is set.

    :raises ConfigurationError: some settings are not valid.
    """
    return settings().environment


@cache
def settings() -> Settings:
    """Read the settings, once per process; ``settings.cache_clear()`` has the next call read them again.

    An option that is not set, or empty, has its default. ``{AIRFLOW_HOME}`` in a value is replaced.

    :raises ConfigurationError: some values are not valid; the error lists all of them.
    """
    configuration = airflow_configuration()
    home = os.environ.get("AIRFLOW_HOME") or str(Path("~/airflow").expanduser())
    values: dict[str, Any] = {}
    problems = []
    for option, described in get_provider_info()["config"][SECTION]["options"].items():
        text = configuration.get(SECTION, option, fallback=None) or described["default"]
        try:
            values[option] = _PARSERS[option](text.replace("{AIRFLOW_HOME}", home))
        except ValueError as problem:
            problems.append(f"[{SECTION}] {option} is {text!r}, {problem}")
    if problems:
        raise ConfigurationError(
            "; ".join(problems), todo=f"correct airflow.cfg, or the environment: AIRFLOW__{SECTION.upper()}__<OPTION>"
        )
    return Settings(**values)


def _days(text: str) -> timedelta:
    if not text.isdecimal() or not int(text):
        raise ValueError("not a number of days, 1 or more")
    return timedelta(days=int(text))


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError("neither True nor False")
    return text.lower() in ("true", "yes", "1")


def _environment(text: str) -> str:
    # "syncs" is the folder of the state without an environment.
    if not re.fullmatch(r"\w*", text, re.ASCII) or text == "syncs":
        raise ValueError("not a name of letters, digits and underscores, other than syncs")
    return text


def _memory(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?\s*(%|[kmgt]i?b?)", text, re.IGNORECASE):
        raise ValueError("not an amount of memory such as 900MB or 4GB")
    return text


_PARSERS: dict[str, Callable[[str], object]] = {
    "state_url": str,
    "state_conn_id": lambda text: text or None,
    "checkout_folder": lambda text: Path(text).absolute(),
    "dbt_cloud_webhooks": lambda text: frozenset(name.strip() for name in text.split(",") if name.strip()),
    "environment": _environment,
    "environment_is_new": _switch,
    "warehouse_schema": str,
    "history_days": _days,
    "change_log": _switch,
    "memory_limit": _memory,
    "duckdb_external_access": _switch,
    "privacy_policy": lambda text: Path(text) if text else None,
    "scratch_folder": lambda text: Path(text) if text else None,
}
