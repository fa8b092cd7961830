"""What every HTTP destination shares, and the JSON it writes."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps, dumps_rows
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.http.endpoint import Endpoint
from airflow_reverse_etl.http.messages import Reply, error_text, retry_after
from airflow_reverse_etl.http.redaction import MAX_MESSAGE, clean
from airflow_reverse_etl.http.status_table import ACTIONS, Action, action_of
from airflow_reverse_etl.sync.ports import ConnectionInfo

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


@given(st.integers(100, 599))
def test_every_status_has_an_action(status: int) -> None:
    assert action_of(status, ACTIONS) in Action


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
def test_words_are_found_where_apis_put_them(answer: Any, expected: tuple[str, str]) -> None:
    assert error_text(answer) == expected


# -- redaction ---------------------------------------------------------------------------------------------------------


@given(st.text(min_size=3, max_size=20).filter(lambda text: len(" ".join(text.split())) > 2 and "…" not in text))
def test_a_rows_values_and_secrets_are_not_in_messages(value: str) -> None:
    value = " ".join(value.split())
    for message in (clean(f"bad value {value} here", (), [{"a": {"b": [value]}}]), clean(f"x {value}", [value])):
        assert value.lower() not in message.lower().replace("bad ", "").replace("value ", "").replace(" here", "")


def test_messages_are_short_and_on_one_line() -> None:
    text = clean("a\nb " * 1000, ())
    assert len(text) == MAX_MESSAGE
    assert "\n" not in text


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12345678901234567890.123456789"), "12345678901234567890.123456789"),
        (2**80, str(2**80)),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), '"2026-01-01T12:00:00Z"'),
        (datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))), '"2026-01-01T10:00:00Z"'),
        (datetime(2026, 1, 1, 12, tzinfo=timezone(-timedelta(hours=3, minutes=30))), '"2026-01-01T15:30:00Z"'),
        (datetime.fromisoformat("2026-01-01T12:00:00"), '"2026-01-01T12:00:00"'),
        (date(2026, 1, 1), '"2026-01-01"'),
        (b"\x00\xff", '"AP8="'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        ([None, True, {"a": Decimal("1.10")}], '[null,true,{"a":1.10}]'),
    ],
)
def test_values_are_written_exactly(value: Any, text: str) -> None:
    assert dumps({"v": value}).decode() == f'{{"v":{text}}}'


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, Decimal("NaN"), "\ud800", timedelta(1), {"a": [None, math.nan]}, object()]
)
def test_what_has_no_json_form_is_never_sent_as_null(value: Any) -> None:
    with pytest.raises(NotJsonError):
        dumps({"v": value})
    data, problems = dumps_rows([{"v": 1}, {"v": value}, {"v": None}])
    assert (json.loads(data), list(problems)) == ([{"v": 1}, {"v": None}], [1])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=4), max_size=4))
def test_any_json_value_comes_back_as_it_was(records: list[dict[str, Any]]) -> None:
    data, problems = dumps_rows(records)
    assert (json.loads(data), problems) == (records, {})


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        (ConnectionInfo("c", host="api.example.com"), "https://api.example.com"),
        (ConnectionInfo("c", host="api.example.com", schema="http", port=8080), "http://api.example.com:8080"),
        (ConnectionInfo("c", host="https://api.example.com/v1/", port=8443), "https://api.example.com:8443/v1"),
    ],
)
def test_a_connection_gives_the_base_url(connection: ConnectionInfo, url: str) -> None:
    endpoint = Endpoint.of(connection)
    assert endpoint.url == url
    assert str(endpoint.join("/rows/a%2Fb")) == f"{url}/rows/a%2Fb"


@pytest.mark.parametrize(
    ("connection", "header", "value"),
    [
        (ConnectionInfo("c", host="h", password="s3cret"), "Authorization", "Bearer s3cret"),
        (ConnectionInfo("c", host="h", login="me", password="s3cret"), "Authorization", "Basic bWU6czNjcmV0"),
        (ConnectionInfo("c", host="h", password="s3cret", extra={"auth_header": "X-Key"}), "X-Key", "s3cret"),
        (ConnectionInfo("c", host="h", extra={"headers": {"X-Key": "s3cret"}}), "X-Key", "s3cret"),
    ],
)
def test_credentials_go_into_headers_and_nowhere_else(connection: ConnectionInfo, header: str, value: str) -> None:
    endpoint = Endpoint.of(connection)
    assert endpoint.headers[header] == value
    assert "s3cret" not in repr(endpoint)
    assert "s3cret" in endpoint.secrets


@pytest.mark.parametrize("host", ["ftp://h", "https://", "https://user@h", "https://h?key=1"])
def test_a_host_that_is_no_url_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="not a URL"):
        Endpoint.of(ConnectionInfo("c", host=host))


def test_a_connection_without_host_is_refused() -> None:
    with pytest.raises(CredentialsError):
        Endpoint.of(ConnectionInfo("c"))


def test_credentials_never_go_to_another_host() -> None:
    endpoint = Endpoint.of(ConnectionInfo("c", host="https://api.example.com", password="s3cret"))
    assert str(endpoint.join("https://api.example.com/x")) == "https://api.example.com/x"
    with pytest.raises(ConfigurationError, match="connection's host"):
        endpoint.join("https://api.example.com.evil.test/x")
