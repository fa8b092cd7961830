"""Waits between tries."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.sync.load.backoff import Backoff


@given(st.integers(1, 200), st.integers())
def test_a_backoff_stays_within_its_bounds(attempt: int, seed: int) -> None:
    backoff = Backoff(first=0.5, longest=30, random=random.Random(seed))
    assert 0 <= backoff.wait(attempt) <= min(30, 0.5 * 2 ** (attempt - 1))
