"""The meaning of HTTP statuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.http.status_table import ACTIONS, Action, action_of

#: A status that the table does not list means what its first digit means.
BY_FIRST_DIGIT = {
    1: Action.UNKNOWN,
    2: Action.ACCEPT,
    3: Action.CONFIGURATION,
    4: Action.REFUSE,
    5: Action.UNKNOWN,
}


@given(st.integers(100, 599).filter(lambda status: status not in ACTIONS))
def test_a_status_that_is_not_listed_means_what_its_first_digit_means(status: int) -> None:
    assert action_of(status, ACTIONS) is BY_FIRST_DIGIT[status // 100]


@given(st.integers(300, 599))
def test_only_a_2xx_status_means_that_rows_were_written(status: int) -> None:
    assert action_of(status, ACTIONS) is not Action.ACCEPT


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (404, Action.SKIP),  # the first table that lists the status
        (409, Action.RETRY),
        (429, Action.THROTTLE),
        (500, Action.RETRY),  # a status that no table lists: the first table that lists its first digit
        (503, Action.RETRY),  # a listed status goes before any first digit
    ],
)
def test_the_first_table_that_lists_a_status_decides(status: int, action: Action) -> None:
    tables = {404: Action.SKIP, 5: Action.RETRY}, {404: Action.REJECT, 409: Action.RETRY}, ACTIONS
    assert action_of(status, *tables) is action
