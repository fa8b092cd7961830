"""Messages without secrets and values of rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.http.redaction import MAX_MESSAGE, clean


@given(st.text(min_size=3, max_size=20).filter(lambda text: len(" ".join(text.split())) > 2 and "…" not in text))
def test_a_rows_values_and_secrets_are_not_in_messages(value: str) -> None:
    value = " ".join(value.split())
    for message in (clean(f"bad value {value} here", (), [{"a": {"b": [value]}}]), clean(f"x {value}", [value])):
        assert value.lower() not in message.lower().replace("bad ", "").replace("value ", "").replace(" here", "")


def test_messages_are_short_and_on_one_line() -> None:
    text = clean("a\nb " * 1000, ())
    assert len(text) == MAX_MESSAGE
    assert "\n" not in text
