"""The only module of the commands that loads Airflow: connections, settings and stores, when a command needs them.

Connections come from the environment (``AIRFLOW_CONN_<ID>``), or from the Airflow installation that ``AIRFLOW_HOME``
and Airflow's settings describe: a secrets backend, or its database. Airflow does not have to run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_reverse_etl.config import Settings
    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.stores.warehouse.store import WarehouseStore


def prepare_environment() -> None:
    """Set what Airflow reads when it is imported. Call it in a process of our own only."""
    # Airflow looks connections up in its database only in a process of this kind. A task has another kind.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    # Hooks log each connection that they open.
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
    # It warns of "_" in the name of a connection type, whenever it reads such a connection.
    os.environ.setdefault("AIRFLOW__LOGGING__NAMESPACE_LEVELS", "airflow.models.connection=ERROR")
    _ignore_deprecations()


def _ignore_deprecations() -> None:
    """Keep what Airflow 3.1 uses of deprecated things from a person, who can change nothing about it."""
    if not sys.warnoptions:
        for category in (DeprecationWarning, FutureWarning):  # Airflow's own are of both kinds
            warnings.simplefilter("ignore", category)


def wiring() -> ModuleType:
    """Return :mod:`airflow_reverse_etl.wiring`.

    :raises ConfigurationError: Airflow is not installed.
    """
    try:
        from airflow_reverse_etl import wiring as found
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "airflow":
            raise
        raise ConfigurationError(
            "this command needs Airflow's connections, and Airflow is not installed here",
            todo="run it where Airflow is installed; Airflow does not have to run",
        ) from None
    # Airflow shows its own again when it is imported.
    _ignore_deprecations()
    return found


def settings() -> Settings:
    """Return the settings in the section ``[reverse_etl]`` of Airflow's configuration.

    :raises ConfigurationError: Airflow is not installed, or a setting is not valid.
    """
    wiring()
    from airflow_reverse_etl import config

    return config.settings()


def environment() -> str:
    """Return the environment of syncs, ``[reverse_etl] environment``; empty if none is set.

    Reads Airflow's variable and configuration file without loading Airflow, which need not be installed.
    """
    if named := os.environ.get("AIRFLOW__REVERSE_ETL__ENVIRONMENT"):
        return named
    home = Path(os.environ.get("AIRFLOW_HOME") or "~/airflow").expanduser()
    file = os.environ.get("AIRFLOW_CONFIG") or home / "airflow.cfg"
    configuration = ConfigParser(interpolation=None, strict=False)
    with contextlib.suppress(ConfigParserError, UnicodeDecodeError):
        configuration.read(file, encoding="utf-8")
    return configuration.get("reverse_etl", "environment", fallback="")


@contextlib.contextmanager
def state_store(connection: str | None, *, environment: str | None = None) -> Iterator[LakeStore | WarehouseStore]:
    """Open the state of syncs for the block.

    :param connection: Airflow connection of a warehouse whose tables have the state; None for the ``state_url``.
    :param environment: None for that of the settings, empty for none.
    :raises ConfigurationError: the database cannot keep state.
    """
    if not connection:
        yield wiring().state_store(environment=environment)
        return
    store = wiring().warehouse_store(connection, environment=environment)
    if store is None:
        raise ConfigurationError(
            "a database of this type cannot keep state",
            todo="leave --connection out: the state of its syncs is under [reverse_etl] state_url",
            connection=connection,
        )
    with contextlib.closing(store):
        yield store
