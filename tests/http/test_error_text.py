"""Code and message of an error, in the API's own words."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from airflow_reverse_etl.http.error_text import error_text
from airflow_reverse_etl.http.messages import Reply


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"code": "X", "message": "why"}, ("X", "why")),
        ({"error": {"code": 5, "message": "why"}}, ("5", "why")),
        ({"errors": [{"code": "X", "detail": "why"}]}, ("X", "why")),
        ([{"errorCode": "X", "message": "why"}], ("X", "why")),
        ({"error": "invalid_grant", "error_description": "why"}, ("invalid_grant", "why")),
        ({"error": "Contact has no list"}, ("", "Contact has no list")),
        # RFC 9457
        ({"type": "about:blank", "title": "Forbidden", "detail": "why"}, ("", "why")),
        # a list of texts, as Intercom's and others'
        ({"errors": ["first", "second"]}, ("", "first; second")),
        ({"errors": ["1", "2", "3", "4", "5"]}, ("", "1; 2; 3; and 2 more")),
        # Rails
        (
            {"errors": {"email": ["is not valid", "is too long"], "name": "is blank"}},
            ("", "email is not valid; email is too long; name is blank"),
        ),
        # the list is more exact than the text before it
        (
            {"title": "Invalid Resource", "detail": "see errors", "errors": [{"field": "x", "message": "why"}]},
            ("", "why"),
        ),
        (
            {"message": "Validation Failed", "errors": [{"resource": "Issue", "code": "missing"}]},
            ("missing", "Validation Failed"),
        ),
        ("a text", ("", "a text")),
        ({}, ("", "")),
    ],
)
def test_json_has_its_words_at_the_usual_places(answer: Any, expected: tuple[str, str]) -> None:
    assert error_text(Reply(400, orjson.dumps(answer))) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "<s:Fault><faultcode>sf:INVALID</faultcode><faultstring>why &amp; how</faultstring></s:Fault>",
            ("sf:INVALID", "why & how"),
        ),
        ("<Error><Code>NoSuchKey</Code><Message>why</Message></Error>", ("NoSuchKey", "why")),
        ("<!DOCTYPE html><html><head><title>Down for maintenance</title></head></html>", ("", "Down for maintenance")),
        ("rate limit exceeded\n", ("", "rate limit exceeded")),
        ("", ("", "")),
    ],
)
def test_other_bodies_have_them_in_elements_or_as_a_whole(body: str, expected: tuple[str, str]) -> None:
    assert error_text(Reply(500, body.encode())) == expected
