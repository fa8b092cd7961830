"""The records that a test server holds, and how often it wrote each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_reverse_etl.spec.operations import Operation


class AbandonedError(Exception):
    """The server abandons a request in the middle of its writes, as a fault says."""


class Records:
    """Records by key.

    ``held`` has what is stored. ``written`` counts the writes of each (operation, key), so a test can ask whether an
    insert happened twice. ``seen`` answers reads, which lag behind the writes by ``visible_after`` seconds.

    :param now: seconds since 1970.
    """

    def __init__(self, now: Callable[[], float], *, visible_after: float = 0.0) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.written: Counter[tuple[Operation, str]] = Counter()
        self.visible_after = visible_after
        self._now = now
        #: Earlier states of a key, oldest first: (when it ended, record or None).
        self._past: dict[str, list[tuple[float, dict[str, Any] | None]]] = {}
        self._left: int | None = None

    def write(self, operation: Operation, key: str, record: Mapping[str, Any] | None = None) -> bool:
        """Carry out one write; returns False, and writes nothing, if a record to update or delete is missing.

        An insert of a key that is held is written again, as by an API that has no unique field. A server that refuses
        a duplicate asks ``key in records.held`` first.

        :raises AbandonedError: the fault of this request ends its writes here.
        """
        if self._left == 0:
            raise AbandonedError
        if operation in (Operation.UPDATE, Operation.DELETE) and key not in self.held:
            return False
        if self._left is not None:
            self._left -= 1
        self._past.setdefault(key, []).append((self._now(), self.held.get(key)))
        self.written[operation, key] += 1
        if operation is Operation.DELETE:
            del self.held[key]
        elif operation is Operation.INSERT:
            self.held[key] = dict(record or {})
        else:
            self.held[key] = {**self.held.get(key, {}), **(record or {})}
        return True

    def seen(self, key: str) -> dict[str, Any] | None:
        """Return the record as reads show it, or None."""
        visible_until = self._now() - self.visible_after
        for ended, record in self._past.get(key, ()):
            if ended > visible_until:
                return record
        return self.held.get(key)

    def twice(self, operation: Operation) -> set[str]:
        """Return the keys that this operation wrote more than once."""
        return {key for (found, key), times in self.written.items() if found is operation and times > 1}

    @contextmanager
    def at_most(self, writes: int | None) -> Iterator[None]:
        """Abandon a request after so many writes; None for no end."""
        self._left = writes
        try:
            yield
        finally:
            self._left = None
