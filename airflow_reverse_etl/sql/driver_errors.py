"""Classification of DB-API drivers' errors, and the style of their parameters."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_reverse_etl.sql.dialects.base import Dialect, ErrorKind

#: Beginning of a SQLSTATE → its meaning. The first one that fits counts.
_STATES: Mapping[str, ErrorKind] = {
    "28": ErrorKind.LOGIN,
    "42501": ErrorKind.DENIED,
    "25006": ErrorKind.DENIED,  # the transaction only reads
    "42P01": ErrorKind.MISSING,
    "42S02": ErrorKind.MISSING,
    "3F000": ErrorKind.MISSING,
    "02000": ErrorKind.MISSING,
    "42P06": ErrorKind.EXISTS,
    "42P07": ErrorKind.EXISTS,
    "40001": ErrorKind.CONFLICT,
    "40P01": ErrorKind.CONFLICT,
    "55P03": ErrorKind.CONFLICT,
    "08": ErrorKind.UNREACHABLE,
    "53": ErrorKind.UNREACHABLE,
    "57P": ErrorKind.UNREACHABLE,
    "57014": ErrorKind.UNREACHABLE,  # the statement took too long, or was cancelled
    "25P03": ErrorKind.UNREACHABLE,  # the session was idle in a transaction
    "25P04": ErrorKind.UNREACHABLE,  # the transaction took too long
    "42": ErrorKind.WRONG,
    "22": ErrorKind.DATA,
    "23": ErrorKind.DATA,
}
#: Words of a message without a SQLSTATE → their meaning.
_WORDS: Mapping[str, ErrorKind] = {
    "authentication failed": ErrorKind.LOGIN,
    "authentication token": ErrorKind.LOGIN,
    "login failed": ErrorKind.LOGIN,
    "no password supplied": ErrorKind.LOGIN,
    "incorrect username or password": ErrorKind.LOGIN,
    "permission denied": ErrorKind.DENIED,
    "permission_denied": ErrorKind.DENIED,
    "access denied": ErrorKind.DENIED,
    "insufficient priv": ErrorKind.DENIED,
    "not authorized": ErrorKind.DENIED,
    "forbidden": ErrorKind.DENIED,
    "read-only mode": ErrorKind.DENIED,
    "does not exist": ErrorKind.MISSING,
    "not found": ErrorKind.MISSING,
    "_not_found": ErrorKind.MISSING,
    "already exists": ErrorKind.EXISTS,
}
#: PEP 249's names of classes that tell the meaning.
_CLASSES: Mapping[str, ErrorKind] = {
    "IntegrityError": ErrorKind.DATA,
    "DataError": ErrorKind.DATA,
    "ProgrammingError": ErrorKind.WRONG,
}
#: Words, and names of classes, that many errors have.
_UNREACHABLE_WORDS = ("connection", "timed out")
_UNREACHABLE_CLASSES = frozenset({"OperationalError", "InterfaceError"})

#: Kinds of errors whose message may quote a value.
_QUOTING = frozenset({ErrorKind.UNIQUE, ErrorKind.DATA, ErrorKind.OTHER})
#: Kinds that an error about a value may have nevertheless.
_OF_VALUES = _QUOTING | {ErrorKind.LOGIN, ErrorKind.DENIED}


class SqlError(Exception):
    """A statement, or the connection, failed.

    :param text: the driver's words; only the name of the error's class if the words may quote a value.
    :param constraint: name of the unique constraint that was violated; ``unique`` if the driver does not name it.
    """

    def __init__(self, kind: ErrorKind, text: str, constraint: str = "unique") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.constraint = constraint


def classify(error: Exception, dialect: Dialect) -> SqlError | None:
    """Return the meaning of a driver's error, or None for an exception that is not a driver's.

    PEP 249 gives drivers' errors the same names, but no common base class.
    """
    classes = [cls.__name__ for cls in type(error).__mro__]
    if not {"Error", "DatabaseError", "InterfaceError", "GoogleAPIError"} & set(classes):
        return None
    text = next(iter(_text(error).splitlines()), "") or classes[0]
    if constraint := _violated_constraint(error, text, dialect):
        return SqlError(ErrorKind.UNIQUE, classes[0], constraint)
    kind = _kind(error, text.lower(), classes, dialect)
    return SqlError(kind, classes[0] if kind in _QUOTING else text)


@contextlib.contextmanager
def sql_errors(dialect: Dialect) -> Iterator[None]:
    """Translate a driver's error into a :class:`SqlError`.

    :raises SqlError: the driver raised an error. Other exceptions pass through.
    """
    try:
        yield
    except Exception as error:
        if found := classify(error, dialect):
            raise found from None
        raise


def sqlstate(error: Exception) -> str:
    """Return the SQLSTATE, or an empty text. Each driver has it in another place."""
    first = error.args[0] if error.args else None
    if isinstance(first, dict):  # redshift_connector
        return str(first.get("C", ""))
    if isinstance(first, str) and len(error.args) > 1 and len(first) == 5:  # pyodbc
        return first
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _text(error: Exception) -> str:
    first = error.args[0] if error.args else None
    if isinstance(first, dict) and "M" in first:  # redshift_connector
        return str(first["M"])
    if isinstance(first, int) and len(error.args) > 1:  # MySQL's drivers
        return str(error.args[1])
    return str(error)


def _violated_constraint(error: Exception, text: str, dialect: Dialect) -> str:
    """Return the name of the violated unique constraint, or an empty text if the words do not mean a violation."""
    for pattern in dialect.unique_violations:
        if found := re.search(pattern, text):
            return found[1] or "unique"
    if sqlstate(error) == "23505":  # the words may be in another language
        return getattr(getattr(error, "diag", None), "constraint_name", None) or "unique"
    return ""


def _kind(error: Exception, text: str, classes: list[str], dialect: Dialect) -> ErrorKind:
    by_class = _first(dialect.error_classes, classes) or _first(_CLASSES, classes)
    kind = _by_code_or_words(error, text, dialect)
    if kind and (by_class is not ErrorKind.DATA or kind in _OF_VALUES):
        return kind
    if by_class:
        return by_class
    words = () if sqlstate(error) else _UNREACHABLE_WORDS
    if any(word in text for word in words) or not _UNREACHABLE_CLASSES.isdisjoint(classes):
        return ErrorKind.UNREACHABLE
    return ErrorKind.OTHER


def _by_code_or_words(error: Exception, text: str, dialect: Dialect) -> ErrorKind | None:
    """Return the meaning by the database's own words and codes, by the SQLSTATE, or without one by common words."""
    # The database's own words and codes. Some SQLSTATEs are vague: Redshift's for a serialization failure, Snowflake's
    # for a lock timeout.
    if kind := _in_words(dialect.error_words, text):
        return kind
    first = error.args[0] if error.args else None
    codes = (getattr(error, "sqlite_errorname", None), getattr(error, "errno", None), first)
    for code in codes:
        if str(code) in dialect.error_codes:
            return dialect.error_codes[str(code)]
    # What is common to all.
    if state := sqlstate(error):
        return next((kind for start, kind in _STATES.items() if state.startswith(start)), None)
    return _in_words(_WORDS, text)


def _in_words(kinds: Mapping[str, ErrorKind], text: str) -> ErrorKind | None:
    return next((kind for words, kind in kinds.items() if words in text), None)


def _first(kinds: Mapping[str, ErrorKind], names: list[str]) -> ErrorKind | None:
    return next((kinds[name] for name in names if name in kinds), None)


def paramstyle(connection: Any) -> str:
    """Return the PEP 249 ``paramstyle`` of a connection's driver."""
    module = type(connection).__module__
    while module:
        if style := getattr(sys.modules.get(module), "paramstyle", None):
            return str(style)
        module = module.rpartition(".")[0]
    return "qmark"
