"""Object storages, opened with the options that Delta Lake takes, and the text of their errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.http.redaction import clean

if TYPE_CHECKING:
    from obstore.store import ObjectStoreMethods

#: Options of the HTTP client. obstore takes them apart from the storage's options, and aborts if one is among those.
#: Source: ClientConfigKey of the object_store crate.
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "default_content_type",
        "http1_only",
        "http2_keep_alive_interval",
        "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle",
        "http2_max_frame_size",
        "http2_only",
        "no_system_certificates",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_ca_certificate",
        "proxy_excludes",
        "proxy_url",
        "randomize_addresses",
        "read_timeout",
        "timeout",
        "user_agent",
    }
)
#: Words about a storage that failed. The class of the error may be that of a damaged table or file.
STORAGE_ERROR = re.compile(r"Generic (S3|GCS|MicrosoftAzure|HTTP|LocalFileSystem) error")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours"}


def open_storage(url: str, options: Mapping[str, str]) -> ObjectStoreMethods:
    """Open an object storage, or a folder. Paths in it are relative to the URL. Sends no request.

    :param url: ``s3://bucket/prefix``, ``gs://``, ``az://`` … or ``file://``; a folder is created if it is missing.
    :param options: credentials and settings as deltalake names them, in any case. Those that are missing come from the
        worker's environment. Those that only Delta Lake has are ignored, as all are for a folder.
    :raises ConfigurationError: the scheme is unknown, or the settings are incomplete or contradict each other.
    """
    from obstore.exceptions import UnknownConfigurationKeyError
    from obstore.store import LocalStore

    try:
        if url.startswith("file:"):
            return LocalStore.from_url(url, mkdir=True)
        config, more = _arguments(options)
        if url.startswith("s3"):
            config.setdefault("aws_disable_bulk_delete", "true")  # some S3 clones cannot delete several objects at once
        try:
            return _open(url, config, **more)
        except UnknownConfigurationKeyError:
            known = {name: value for name, value in config.items() if _is_known(url, name, value)}
            return _open(url, known, **more)
    except Exception as error:  # noqa: BLE001 - errors of a Rust library; none concerns rows
        raise ConfigurationError(
            f"the storage cannot be used: {error_text(error)}",
            todo="check the URL, and the connection with its extra storage_options",
            url=url,
        ) from None


def _open(url: str, config: Mapping[str, str], **more: Any) -> ObjectStoreMethods:
    from obstore.store import from_url

    return from_url(url, config=config, **more)  # type: ignore[call-overload, no-any-return]


def _arguments(options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the options of the storage itself, and obstore's further arguments."""
    config: dict[str, str] = {}
    client: dict[str, str] = {}
    retry: dict[str, Any] = {}
    for option, value in options.items():
        name = option.lower()
        bare = re.sub(r"^(aws|azure|google)_", "", name)
        if bare in _CLIENT_OPTIONS:
            client[bare] = value
        elif name == "max_retries":
            retry[name] = int(value)
        elif name == "retry_timeout":
            retry[name] = _duration(value)
        else:
            config[name] = value
    return config, {"client_options": client, "retry_config": retry}


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+) ?(ms|s|m|h)", text)
    if not found:
        raise ValueError(f"retry_timeout: {text!r} is not a duration such as 10s")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _is_known(url: str, name: str, value: str) -> bool:
    from obstore.exceptions import BaseError, UnknownConfigurationKeyError

    try:
        _open(url, {name: value})
    except UnknownConfigurationKeyError:
        return False
    except BaseError:  # this option alone does not suffice
        return True
    return True


def storage_errors() -> tuple[type[Exception], ...]:
    """Return the classes of the errors that a storage raises. A missing file is a FileNotFoundError."""
    from obstore.exceptions import BaseError

    return OSError, BaseError


def error_text(error: Exception) -> str:
    """Return the message of obstore or Delta Lake on one line. It names buckets and paths, never keys."""
    message = str(error).partition("\n\nDebug source:")[0]
    # Delta Lake writes arrows in the colours of a terminal, and both quote the XML of the answer.
    text = re.sub(r"\x1b\[\d+m|↳|<[^<>]*>", " ", message)
    # The answer first: it must not be cut off behind a long URL.
    request, _, answer = text.partition("Server returned non-2xx status code")
    if answer:
        text = f"{answer.strip(' :')} ({request.strip(' -')})"
    return clean(text, ())
