"""Sets of sequence numbers, as ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class RangeSet:
    """A set of integers, kept as ascending ranges that neither overlap nor touch.

    It is as small as the number of its gaps. ``in`` and ``len()`` are about the integers; iteration yields the ranges.
    The operators return new sets.

    :param ranges: their union is the set. They may be empty or overlap, and come in any order.
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self, *ranges: range) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for numbers in sorted(ranges, key=lambda numbers: numbers.start):
            self.add(numbers.start, numbers.stop - 1)

    def add(self, first: int, last: int) -> None:
        """Add the integers from ``first`` to ``last``, both included."""
        if first > last:
            return
        start = first
        stop = last + 1
        # Merge with the ranges that overlap or touch: those at positions from low to high - 1.
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def update(self, numbers: Sequence[int]) -> None:
        """Add integers, which must be ascending."""
        if numbers and numbers[-1] - numbers[0] + 1 == len(numbers):
            self.add(numbers[0], numbers[-1])
            return
        for number in numbers:
            self.add(number, number)

    @property
    def first(self) -> int:
        """Lowest integer of a set that is not empty."""
        return self._starts[0]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._stops, number)
        return at < len(self._starts) and self._starts[at] <= number

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)

    def __iter__(self) -> Iterator[range]:
        return map(range, self._starts, self._stops)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    def __repr__(self) -> str:
        return f"RangeSet({', '.join(map(repr, self))})"

    def __or__(self, other: RangeSet) -> RangeSet:
        return RangeSet(*self, *other)

    def __and__(self, other: RangeSet) -> RangeSet:
        return RangeSet(*(part for numbers in self for part in other._parts(numbers)))

    def __sub__(self, other: RangeSet) -> RangeSet:
        left = []
        for numbers in self:
            start = numbers.start
            for part in other._parts(numbers):
                left.append(range(start, part.start))
                start = part.stop
            left.append(range(start, numbers.stop))
        return RangeSet(*left)

    def _parts(self, numbers: range) -> Iterator[range]:
        """Yield the parts of a range that are in the set."""
        low = bisect_right(self._stops, numbers.start)
        high = bisect_left(self._starts, numbers.stop)
        for at in range(low, high):
            yield range(max(self._starts[at], numbers.start), min(self._stops[at], numbers.stop))

    def end_of(self, first: int) -> int:
        """Return the end of the contiguous integers from ``first`` on, or ``first`` - 1 if it is not in the set."""
        at = bisect_right(self._stops, first)
        return self._stops[at] - 1 if first in self else first - 1

    def mask(self, numbers: pa.Array) -> pa.Array:
        """Return for each of these integers whether it is in the set."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pa.repeat(value=False, size=len(numbers))
        for part in self:
            found = pc.or_(found, pc.and_(pc.greater_equal(numbers, part.start), pc.less(numbers, part.stop)))
        return found
