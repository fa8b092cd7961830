"""Limits of test servers, and the headers that announce them."""

from __future__ import annotations

import pytest

from tests.servers.limits import (
    DAY,
    Hint,
    Limit,
    ratelimit,
    ratelimit_fields,
    retry_after,
    retry_after_date,
    x_ratelimit,
    x_ratelimit_seconds,
)
from tests.servers.messages import Reply, Request

POST = Request("POST", "/rows", {})
#: A time at which a window of ten seconds and a day begin.
NOW = 1_767_225_600.0


def taken(limit: Limit, *times: float) -> list[bool]:
    """Return for each of these times after NOW whether the limit lets a request pass."""
    return [limit.refuse(POST, NOW + time) is None for time in times]


@pytest.mark.parametrize(
    ("limit", "times", "expected"),
    [
        (Limit(2, 1), (0, 0.9, 0.95, 1), [True, True, False, True]),
        (Limit(2, 10), (8, 9, 9.5, 10, 11, 12), [True, True, False, True, True, False]),
        (Limit(2, 10, rolling=True), (8, 9, 10, 17.9, 18, 19), [True, True, False, False, True, True]),
        (Limit(1, DAY), (5, DAY - 1, DAY), [True, False, True]),
        (Limit(1, DAY, rolling=True), (5, DAY, DAY + 5), [True, False, True]),
    ],
    ids=str,
)
def test_a_window_lets_so_many_requests_pass(limit: Limit, times: tuple[float, ...], expected: list[bool]) -> None:
    assert taken(limit, *times) == expected


def test_a_limit_may_concern_some_paths_only() -> None:
    limit = Limit(1, 1, only="/search", hints=[retry_after])
    assert taken(limit, 0, 0) == [True, True]
    assert limit.headers(POST, NOW) == {}
    assert [limit.refuse(Request("GET", "/search?q=a", {}), NOW) is None for _ in range(2)] == [True, False]


def test_a_refusal_may_have_any_form() -> None:
    marketo = Reply.of({"success": False, "errors": [{"code": "606"}]})
    limit = Limit(0, 20, refusal=marketo)
    assert limit.refuse(POST, NOW) is marketo


@pytest.mark.parametrize(
    ("hint", "passed", "refused"),
    [
        (retry_after, {}, {"Retry-After": "7"}),
        (
            retry_after_date,
            {},
            {"Date": "Thu, 01 Jan 2026 00:00:03 GMT", "Retry-After": "Thu, 01 Jan 2026 00:00:10 GMT"},
        ),
        (
            x_ratelimit,
            {"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767225610"},
            {"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767225610"},
        ),
        (
            x_ratelimit_seconds,
            {"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "8"},
            {"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7"},
        ),
        (
            ratelimit_fields,
            {"RateLimit-Limit": "1", "RateLimit-Remaining": "0", "RateLimit-Reset": "8"},
            {"RateLimit-Limit": "1", "RateLimit-Remaining": "0", "RateLimit-Reset": "7"},
        ),
        (
            ratelimit,
            {"RateLimit": '"burst";r=0;t=8', "RateLimit-Policy": '"burst";q=1;w=10'},
            {"RateLimit": '"burst";r=0;t=7', "RateLimit-Policy": '"burst";q=1;w=10'},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_headers_say_what_is_left_and_when_there_is_more(
    hint: Hint, passed: dict[str, str], refused: dict[str, str]
) -> None:
    limit = Limit(1, 10, hints=[hint], name="burst")
    assert limit.refuse(POST, NOW + 2) is None
    assert limit.headers(POST, NOW + 2) == passed
    assert limit.refuse(POST, NOW + 3) is not None
    assert limit.headers(POST, NOW + 3) == refused
