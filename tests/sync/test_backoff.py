"""Rate and retry arithmetic."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.sync.backoff import Backoff
from airflow_reverse_etl.sync.load.rate_limit import TokenBucket


@given(
    rate=st.floats(0.1, 1000),
    capacity=st.integers(1, 20),
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_no_window_of_a_second_sees_more_than_rate_plus_capacity(
    rate: float, capacity: int, steps: list[float]
) -> None:
    bucket, now, times = TokenBucket(rate, capacity), 0.0, []
    for step in steps:
        now += step
        times.append(now + bucket.reserve(now))
    for start in times:
        inside = sum(start <= time < start + 1 - 1e-6 for time in times)
        assert inside <= rate + capacity + 1e-6


def test_a_bucket_of_one_spaces_requests_evenly() -> None:
    bucket = TokenBucket(rate=4)
    assert [bucket.reserve(now=10.0) for _ in range(4)] == [0.0, 0.25, 0.5, 0.75]
    assert bucket.reserve(now=99.0) == 0.0, "unused time does not add up to a burst"
    assert bucket.reserve(now=99.0) == pytest.approx(0.25)


@given(st.integers(1, 200), st.integers())
def test_a_backoff_stays_within_its_bounds(attempt: int, seed: int) -> None:
    backoff = Backoff(first=0.5, longest=30, random=random.Random(seed))
    assert 0 <= backoff.wait(attempt) <= min(30, 0.5 * 2 ** (attempt - 1))
