"""Errors of DB-API drivers, by their kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_KINDS = {
    "denied": (
        ("42501", "25006", "28"),
        (
            *("permission denied", "permission_denied", "access denied", "insufficient priv", "not authorized"),
            *("forbidden", "read-only mode"),
        ),
    ),
    "missing": (("42P01", "3F000", "42S02", "02000"), ("does not exist", "not found", "_not_found")),
    "exists": (("42P07", "42P06", "23505"), ("already exists",)),
    "conflict": (
        ("40001", "40P01", "55P03"),
        (
            *("conflict on", "transaction conflict", "serializable isolation", "concurrent update"),
            *("concurrentmodification", "concurrentappend", "delta_concurrent"),
            *("has locked table", "waiters for this lock"),
        ),
    ),
    "unreachable": (("08", "57P", "53"), ("connection", "timed out")),
    "wrong": (("42",), ()),
}
_CLASSES = {
    "Forbidden": "denied",
    "NotFound": "missing",
    "CatalogException": "missing",
    "BinderException": "wrong",
    "ParserException": "wrong",
    "ProgrammingError": "wrong",
    "IOException": "unreachable",
    "OperationalError": "unreachable",
    "InterfaceError": "unreachable",
}

#: States that say less than the words: Redshift's of a serialization failure, Snowflake's of a lock that it waits for.
_VAGUE = ("XX000", "57014")

#: Errors whose text may quote a value.
_QUOTING = {"DataError", "InvalidInputException", "IntegrityError"}


class SqlError(Exception):
    """A statement failed.

    :param kind: ``denied``, ``missing``, ``exists``, ``conflict``, ``unreachable``, ``wrong`` (the statement),
        ``files`` (which DuckDB may not use), or ``data``, when the driver's words may quote a value;
        ``text`` is then only the name of its error.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


@contextlib.contextmanager
def sql_errors() -> Iterator[None]:
    """Raise a driver's error as a :class:`SqlError`."""
    try:
        yield
    except Exception as error:  # drivers share no base class; what is not theirs is raised as it is
        classes = [cls.__name__ for cls in type(error).__mro__]
        if not {"Error", "DatabaseError", "GoogleAPIError"} & set(classes):
            raise
        text = next(iter(_error_text(error).splitlines()), "") or classes[0]
        kind = _kind(_state(error), text.lower(), classes)
        raise SqlError(kind, classes[0] if kind == "data" else text) from None


def _error_text(error: Exception) -> str:
    first = error.args[0] if error.args else None
    return str(first["M"]) if isinstance(first, dict) and "M" in first else str(error)  # redshift_connector's


def _state(error: Exception) -> str:
    """SQLSTATE, wherever the driver has it."""
    first = error.args[0] if error.args else None
    if isinstance(first, dict):  # redshift_connector
        return str(first.get("C", ""))
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _kind(state: str, text: str, classes: list[str]) -> str:
    if "PermissionException" in classes:  # DuckDB's, for nothing else
        return "files"
    if state in _VAGUE and any(word in text for word in _KINDS["conflict"][1]):
        return "conflict"
    for kind, (states, words) in _KINDS.items():
        if state.startswith(states) if state else any(word in text for word in words):
            return "data" if _QUOTING & set(classes) and kind != "denied" else kind
    if state.startswith("22") or _QUOTING & set(classes):
        return "data"
    return next((_CLASSES[name] for name in classes if name in _CLASSES), "data")
