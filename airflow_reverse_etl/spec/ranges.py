"""Sets of sequence numbers, as ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SettledSet:
    """The settled sequence numbers: everything up to ``low``, and some ranges above it.

    Loads settle batches out of order. Adjacent ranges are merged, so the set stays as small as the number of gaps.
    """

    __slots__ = ("_firsts", "_lasts", "low")

    def __init__(self, low: int = 0, above: Iterable[Sequence[int]] = ()) -> None:
        self.low = low
        self._lasts: dict[int, int] = {pair[0]: pair[1] for pair in above}  # first → last
        self._firsts: dict[int, int] = {last: first for first, last in self._lasts.items()}

    def add(self, first: int, last: int) -> None:
        """Settle ``first`` to ``last``, both included. No number of the range may be settled already."""
        # merge with the ranges that end just before and begin just after
        if (before := self._firsts.pop(first - 1, None)) is not None:
            first = before
        if (after := self._lasts.pop(last + 1, None)) is not None:
            del self._firsts[after]
            last = after
        if first == self.low + 1:
            self._lasts.pop(first, None)
            self.low = last
            return
        self._lasts[first] = last
        self._firsts[last] = first

    def __contains__(self, seq: int) -> bool:
        return seq <= self.low or any(first <= seq <= last for first, last in self._lasts.items())

    def __len__(self) -> int:
        return self.low + sum(last - first + 1 for first, last in self._lasts.items())

    def covers_any(self, first: int, last: int) -> bool:
        """Return whether any number from ``first`` to ``last`` is settled."""
        return first <= self.low or any(start <= last and end >= first for start, end in self._lasts.items())

    def end_of(self, first: int) -> int:
        """Return the end of the settled range that begins with ``first``, or ``first`` - 1 without such a range."""
        return max(self.low, self._lasts.get(first, first - 1))

    def above(self) -> list[list[int]]:
        """Return the ranges above ``low``, ascending."""
        return [[first, last] for first, last in sorted(self._lasts.items())]
