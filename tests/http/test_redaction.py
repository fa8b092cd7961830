"""Messages without secrets and values of rows."""

from __future__ import annotations

import html
import json
from base64 import b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.http.redaction import MAX_MESSAGE, clean


@given(st.text(min_size=3, max_size=20).filter(lambda text: len(" ".join(text.split())) > 2 and "…" not in text))
def test_a_rows_values_and_secrets_are_not_in_messages(value: str) -> None:
    value = " ".join(value.split())
    for message in (clean(f"bad value {value} here", (), [{"a": {"b": [value]}}]), clean(f"x {value}", [value])):
        assert value.lower() not in message.lower().replace("bad ", "").replace("value ", "").replace(" here", "")


@pytest.mark.parametrize("value", ["ada+x@example.com", "ö/ü & <b>", 'say "no"', "O'Hara"])
def test_encoded_values_are_not_in_messages(value: str) -> None:
    forms = [
        quote(value, safe=""),
        quote_plus(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value),
    ]
    for form in forms:
        assert clean(f"not valid: {form}, sorry", (), [{"email": value}]) == "not valid: …, sorry"


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
def test_a_secret_inside_a_base64_text_is_not_in_messages(before: str) -> None:
    encoded = b64encode(f"{before}correct horse battery:more".encode()).decode()
    shown = clean(f"Basic {encoded} refused", ["correct horse battery"])
    assert b64encode(b"horse").decode().rstrip("=")[:-1] not in shown
    assert "…" in shown
    assert len(shown) < len(encoded)


def test_messages_are_short_and_on_one_line() -> None:
    text = clean("a\nb " * 1000, ())
    assert len(text) == MAX_MESSAGE
    assert "\n" not in text
