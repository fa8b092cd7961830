"""The command ``reverse-etl doctor``: is this installation fit for syncs?"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable, Iterator, Sequence
from shutil import which
from typing import TYPE_CHECKING

from airflow_reverse_etl.cli.connections import tested
from airflow_reverse_etl.cli.frame import FAILED, PASSED, Answer
from airflow_reverse_etl.cli.options import Syncs, syncs_in_files
from airflow_reverse_etl.cli.output import Table

if TYPE_CHECKING:
    from airflow_reverse_etl.errors import SpecError
    from airflow_reverse_etl.spec.folders.reading import SyncSource

#: Packages whose versions decide most problems. Those that are not installed are not listed.
_PACKAGES = (
    "airflow-provider-reverse-etl",
    "apache-airflow",
    "apache-airflow-providers-common-sql",
    "duckdb",
    "deltalake",
    "pyarrow",
    "sqlglot",
    "dbt-core",
    "adbc-driver-postgresql",
    "adbc-driver-snowflake",
    "adbc-driver-bigquery",
)


def doctor(syncs: Syncs = None) -> Answer:
    """Check versions, settings, the place of the state, the destination types, and the connections of syncs.

    :raises ConfigurationError: folder or file of syncs not found.
    """
    sources, invalid = syncs_in_files(syncs)
    found = [
        *_versions(),
        _checked("settings", _settings),
        _checked("state", _state),
        *_types(),
        _dbt(),
        *_unreadable(invalid),
        *_connections(sources),
    ]
    data = [{"check": name, "status": status, "message": message} for name, status, message in found]
    code = FAILED if any(status == "failed" for _, status, _ in found) else PASSED
    return Answer(data, [Table(("check", "", "finding"), found)], code)


def _versions() -> Iterator[tuple[str, str, str]]:
    from importlib.metadata import PackageNotFoundError, version

    yield "Python", "ok", platform.python_version()
    for package in _PACKAGES:
        try:
            yield package, "ok", version(package)
        except PackageNotFoundError:
            continue


def _checked(name: str, check: Callable[[], str]) -> tuple[str, str, str]:
    """Return the result of a check that raises what is wrong."""
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        return name, "ok", check()
    except ReverseEtlError as error:
        return name, "failed", f"{error.what}; {error.todo}" if error.todo else error.what
    except Exception as error:  # noqa: BLE001 - what is broken must not stop the other checks
        # Only the kind of error, as the text of an unknown one may have a secret.
        return name, "failed", getattr(error, "strerror", None) or type(error).__name__


def _settings() -> str:
    from airflow_reverse_etl.cli.airflow import settings

    found = settings()
    return f"environment {found.environment}" if found.environment else "valid; no environment"


def _state() -> str:
    """Write, read and delete a file under the state URL."""
    from airflow_reverse_etl.cli.airflow import settings, wiring

    files = wiring().state_files()
    path = f"doctor/{secrets.token_hex(8)}"
    files.write(path, b"ok")
    try:
        assert files.read(path) == b"ok"
    finally:
        files.delete(path)
    return f"{settings().state_url} can be written, read and deleted"


def _types() -> Iterator[tuple[str, str, str]]:
    from airflow_reverse_etl.destinations.registry import destination_class, known_types

    for name in known_types():

        def load(name: str = name) -> str:
            return destination_class(name).info.title

        yield _checked(f"destination {name}", load)


def _dbt() -> tuple[str, str, str]:
    path = which("dbt")
    if path:
        return "dbt", "ok", path
    return "dbt", "not checked", "not found on PATH; only runs of dbt on this machine need it"


def _unreadable(invalid: Sequence[SpecError]) -> Iterator[tuple[str, str, str]]:
    """Name the syncs that cannot be read: their connections are not tested."""
    for error in invalid:
        yield f"sync {error.where.get('file', '')}", "failed", "; ".join(error.problems) or error.what


def _connections(sources: Sequence[SyncSource]) -> Iterator[tuple[str, str, str]]:
    """Test each connection that the syncs name, once, as ``connections test`` does."""
    names: dict[str, None] = {}
    for source in sources:
        to_render = source.sync.to_render
        if "source" not in to_render:
            names[source.sync.source] = None
        if source.sync.destination.connection and "destination.connection" not in to_render:
            names[source.sync.destination.connection] = None
    for conn_id in names:
        try:
            passed, message = tested(conn_id)
        except Exception as error:  # noqa: BLE001 - what is broken must not stop the other checks
            passed = False
            message = type(error).__name__
        yield f"connection {conn_id}", "ok" if passed else "failed", message
