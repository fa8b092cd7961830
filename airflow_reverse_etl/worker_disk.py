"""The worker's disk: which errors say that it is full, and what to do then."""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from airflow_reverse_etl.errors import TryLaterError

_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Words of libraries whose errors do not have the system's number. Python writes ``[Errno 28]``.
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|File too large")


def is_full(error: Exception) -> bool:
    """Return whether an error says that a disk is full."""
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return bool(NO_SPACE.search(str(error)))


@contextlib.contextmanager
def space_needed(what: str, *, folder: Path | None = None) -> Iterator[None]:
    """Name the folder if its disk is full; other errors pass.

    :param what: needs space, as the beginning of the error's message.
    :param folder: None for the system's temporary folder.
    :raises TryLaterError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(what, folder=folder) from None


def disk_full(what: str, *, folder: Path | None = None) -> TryLaterError:
    """Build the error for a full disk of the worker.

    :param what: see :func:`space_needed`.
    """
    todo = "make space in this folder" if folder else "make space in this folder, or set TMPDIR to another one"
    return TryLaterError(f"{what}: the worker's disk is full", todo=todo, folder=folder or tempfile.gettempdir())
