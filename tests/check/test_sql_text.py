"""Tests of SQL's text without comments: what stays is what dbt and the database read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.check.project.sql_text import significant

WORDS = ["select", "a", ",", "'-- x'", "'/* y */'", '"a  b"', "'it''s'", "{{ f('a', \"--\") }}", "{% if x %}", "`c --`"]
COMMENTS = ["-- don't\n", "/* it's \n two */", "{# 'of' Jinja #}", "\n", "   ", "\t"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), st.data())
def test_comments_and_white_space_between_words_change_nothing(words: list[str], data: st.DataObject) -> None:
    decorated = ""
    for word in words:
        decorated += word + " " + " ".join(data.draw(st.lists(st.sampled_from(COMMENTS), max_size=3))) + " "
    assert significant(decorated) == significant(" ".join(words)) == " ".join(words)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("'a  b'", "'a b'"),
        ("'-- a'", "'-- b'"),
        ("-- {{ f('a') }}", "-- {{ f('b') }}"),
        ("/* {% set x = 1 %} */", "/* {% set x = 2 %} */"),
        (r"'it\'s -- a'", r"'it\'s -- b'"),
        ("'''it's -- a'''", "'''it's -- b'''"),
        ("$$it's -- a$$", "$$it's -- b$$"),
        ("# don't\n 'a -- b'", "# don't\n 'a -- c'"),
        ("// don't\n 'a -- b'", "// don't\n 'a -- c'"),
        ("{% raw %}{{ '-- a' }}{% endraw %}", "{% raw %}{{ '-- b' }}{% endraw %}"),
    ],
)
def test_what_may_be_read_stays(before: str, after: str) -> None:
    assert significant(before) != significant(after)
