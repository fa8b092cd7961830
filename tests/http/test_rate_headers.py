"""The time to wait and the quota that a reply's headers state."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.http.messages import Reply
from airflow_reverse_etl.http.rate_headers import allowed_rate, left_today, retry_after

DATE = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
NOW = 1767225600  # the same moment, in seconds since 1970


def refused(**headers: str) -> Reply:
    return Reply(429, headers={name.replace("_", "-"): value for name, value in headers.items()} | DATE)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "Thu, 01 Jan 2026 00:01:30 GMT"}, 90),
        ({"X-RateLimit-Retry-After": "4"}, 4),
        ({"X-RateLimit-Reset": "12"}, 12),
        ({"X-RateLimit-Reset": str(NOW + 20)}, 20),
        ({"X-RateLimit-Reset": str((NOW + 20) * 1000)}, 20),
        ({"X-RateLimit-Reset": "2026-01-01T00:00:40Z"}, 40),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "5"}, 5),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "5"}, 5),
        ({"RateLimit": "limit=100, remaining=0, reset=6"}, 6),
        ({"RateLimit": '"burst";r=0;t=2, "steady";r=0;t=30'}, 30),
        ({"RateLimit": '"burst";r=0;t=2, "steady";r=70;t=30'}, 2),
        # The first of several statements counts.
        ({"Retry-After": "3", "X-RateLimit-Reset": "60"}, 3),
        # Zero and the past say nothing.
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "0", "X-RateLimit-Reset": "8"}, 8),
        ({"Retry-After": "Wed, 31 Dec 2025 00:00:00 GMT"}, None),
        ({"X-RateLimit-Reset": str(NOW - 5)}, None),
        # The refusal has another cause than this limit.
        ({"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "5"}, None),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read_as_apis_state_it(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(Reply(429, headers=headers | DATE)) == seconds


@given(st.text(max_size=20), st.sampled_from(["Retry-After", "X-RateLimit-Reset", "RateLimit"]))
def test_any_other_header_is_none_or_a_sane_number(text: str, name: str) -> None:
    found = retry_after(Reply(429, headers={name: text, **DATE}))
    assert found is None or (found > 0 and math.isfinite(found))


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({"X-HubSpot-RateLimit-Daily-Remaining": "249000"}, 249000),
        ({"X-RateLimit-Remaining-Day": "12"}, 12),
        ({"Sforce-Limit-Info": "api-usage=18/5000"}, 4982),
        ({"Sforce-Limit-Info": "api-usage=5003/5000"}, 0),
        (
            {
                "RateLimit": '"day";r=40;t=3600, "burst";r=3;t=1',
                "RateLimit-Policy": '"day";q=100;w=86400, "burst";q=5;w=1',
            },
            40,
        ),
        ({"RateLimit": '"burst";r=3;t=1', "RateLimit-Policy": '"burst";q=5;w=1'}, None),
        ({"X-RateLimit-Remaining": "3"}, None),
        ({}, None),
    ],
)
def test_what_is_left_of_a_day_is_read_as_apis_state_it(headers: dict[str, str], left: int | None) -> None:
    assert left_today(Reply(200, headers=headers)) == left


@pytest.mark.parametrize(
    ("requests", "milliseconds", "rate"),
    [("100", "10000", 10), ("190", "10000", 19), ("0", "10000", None), ("190", "0", None), ("many", "10000", None)],
)
def test_hubspot_states_the_rate_of_the_account(requests: str, milliseconds: str, rate: float | None) -> None:
    headers = {"X-HubSpot-RateLimit-Max": requests, "X-HubSpot-RateLimit-Interval-Milliseconds": milliseconds}
    assert allowed_rate(Reply(200, headers=headers)) == rate
    assert allowed_rate(Reply(200)) is None
