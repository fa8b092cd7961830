"""A set of ranges does what Python's own set of its integers does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.spec.ranges import RangeSet

RANGES = st.lists(st.builds(range, st.integers(1, 60), st.integers(1, 60)), max_size=12)


def integers(ranges: Iterable[range]) -> set[int]:
    return {number for numbers in ranges for number in numbers}


def check(found: RangeSet, expected: set[int]) -> None:
    """Make sure that a set has these integers, in as few ranges as possible."""
    ranges = list(found)
    assert integers(ranges) == expected
    assert all(earlier.stop < later.start for earlier, later in itertools.pairwise(ranges)), "merged and ascending"
    assert all(ranges)
    assert {number for number in range(70) if number in found} == expected
    assert (len(found), bool(found)) == (len(expected), bool(expected))


@given(RANGES)
def test_what_is_added_in_any_order_is_in_the_set_once(ranges: list[range]) -> None:
    made = RangeSet()
    expected: set[int] = set()
    for numbers in ranges:
        made.add(numbers.start, numbers.stop - 1)
        expected |= set(numbers)
        check(made, expected)
    assert made == RangeSet(*ranges)


@given(RANGES, st.sets(st.integers(1, 60)))
def test_ascending_integers_are_added(ranges: list[range], numbers: set[int]) -> None:
    made = RangeSet(*ranges)
    made.update(sorted(numbers))
    check(made, integers(ranges) | numbers)


@given(RANGES, RANGES)
def test_operators_return_what_those_of_a_set_return_and_change_nothing(one: list[range], other: list[range]) -> None:
    left = RangeSet(*one)
    right = RangeSet(*other)
    check(left | right, integers(one) | integers(other))
    check(left & right, integers(one) & integers(other))
    check(left - right, integers(one) - integers(other))
    assert (left == right) == (integers(one) == integers(other))
    (left | right).add(1, 60)
    check(left, integers(one))
    check(right, integers(other))


@given(RANGES, st.integers(1, 60))
def test_the_end_is_that_of_the_contiguous_integers(ranges: list[range], first: int) -> None:
    last = next(number for number in itertools.count(first) if number not in integers(ranges)) - 1
    assert RangeSet(*ranges).end_of(first) == last


@given(RANGES, st.lists(st.integers(1, 60)))
def test_a_mask_is_true_for_the_integers_of_the_set(ranges: list[range], numbers: list[int]) -> None:
    mask = RangeSet(*ranges).mask(pa.array(numbers, pa.int64()))
    assert mask.to_pylist() == [number in integers(ranges) for number in numbers]
