"""Translation of DB-API drivers' errors into one error with a kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

#: Kind → beginnings of SQLSTATEs, and words of a message. The first kind that matches counts.
_KINDS = {
    "denied": (
        ("42501", "25006", "28"),
        (
            "permission denied",
            "permission_denied",
            "access denied",
            "insufficient priv",
            "not authorized",
            "forbidden",
            "read-only mode",
        ),
    ),
    "missing": (("42P01", "3F000", "42S02", "02000"), ("does not exist", "not found", "_not_found")),
    "exists": (("42P07", "42P06", "23505"), ("already exists",)),
    "conflict": (
        ("40001", "40P01", "55P03"),
        (
            "conflict on",
            "transaction conflict",
            "serializable isolation",
            "concurrent update",
            "concurrentmodification",
            "concurrentappend",
            "delta_concurrent",
            "has locked table",
            "waiters for this lock",
        ),
    ),
    "unreachable": (("08", "57P", "53"), ("connection", "timed out")),
    "wrong": (("42",), ()),
}
#: Class of a driver's error → kind, for errors that neither state nor words identify.
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

#: States that are vaguer than the words: Redshift's for a serialization failure, Snowflake's for a lock timeout.
_VAGUE = ("XX000", "57014")

#: Errors whose text may quote a value.
_QUOTING = {"DataError", "InvalidInputException", "IntegrityError"}


class SqlError(Exception):
    """A statement failed.

    :param kind: ``denied``, ``missing``, ``exists``, ``conflict``, ``unreachable``, ``wrong`` (an invalid statement),
        ``files`` (DuckDB may not access files), or ``data`` (the driver's words may quote a value).
    :param text: the driver's words; for kind ``data``, only the name of its error class.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


@contextlib.contextmanager
def sql_errors() -> Iterator[None]:
    """Translate a driver's error into a :class:`SqlError`.

    :raises SqlError: the driver raised an error. Other exceptions pass through.
    """
    try:
        yield
    except Exception as error:  # drivers share no base class
        classes = [cls.__name__ for cls in type(error).__mro__]
        if not {"Error", "DatabaseError", "GoogleAPIError"} & set(classes):
            raise
        text = next(iter(_error_text(error).splitlines()), "") or classes[0]
        kind = _kind(_state(error), text.lower(), classes)
        if kind == "data":
            text = classes[0]
        raise SqlError(kind, text) from None


def _error_text(error: Exception) -> str:
    first = error.args[0] if error.args else None
    if isinstance(first, dict) and "M" in first:  # redshift_connector
        return str(first["M"])
    return str(error)


def _state(error: Exception) -> str:
    """Return the SQLSTATE, or an empty text. Each driver has it in another place."""
    first = error.args[0] if error.args else None
    if isinstance(first, dict):  # redshift_connector
        return str(first.get("C", ""))
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _kind(state: str, text: str, classes: list[str]) -> str:
    """Return the kind of an error: by its state, without one by its words, and last by its classes."""
    if "PermissionException" in classes:  # DuckDB raises it for nothing else
        return "files"
    quoting = not _QUOTING.isdisjoint(classes)
    if state in _VAGUE and any(word in text for word in _KINDS["conflict"][1]):
        return "conflict"
    for kind, (states, words) in _KINDS.items():
        matches = state.startswith(states) if state else any(word in text for word in words)
        if matches and quoting and kind != "denied":
            return "data"
        if matches:
            return kind
    if quoting or state.startswith("22"):
        return "data"
    return next((_CLASSES[name] for name in classes if name in _CLASSES), "data")
