"""Values read from a reply: the time to wait, and the code and message of an error."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.http.messages import Reply, error_text, retry_after

DATE = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3), ("1.5", 1.5), ("0", 0), ("Thu, 01 Jan 2026 00:01:30 GMT", 90), ("Wed, 31 Dec 2025 00:00:00 GMT", 0)],
)
def test_retry_after_is_read_in_both_forms(text: str, seconds: float) -> None:
    assert retry_after(Reply(429, headers={"Retry-After": text, **DATE})) == seconds


@given(st.text(max_size=20))
def test_any_other_retry_after_is_none_or_a_sane_number(text: str) -> None:
    found = retry_after(Reply(429, headers={"Retry-After": text, **DATE}))
    assert found is None or (found >= 0 and math.isfinite(found))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"code": "X", "message": "why"}, ("X", "why")),
        ({"error": {"code": 5, "message": "why"}}, ("5", "why")),
        ({"errors": [{"code": "X", "detail": "why"}]}, ("X", "why")),
        ([{"errorCode": "X", "message": "why"}], ("X", "why")),
        ({"error": "invalid_grant", "error_description": "why"}, ("invalid_grant", "why")),
        ("text", ("", "")),
        (None, ("", "")),
    ],
)
def test_code_and_message_are_found_at_the_usual_places(answer: Any, expected: tuple[str, str]) -> None:
    assert error_text(answer) == expected
