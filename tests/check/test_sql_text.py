"""Tests of SQL's text without comments: what stays is what dbt and the database read."""

from __future__ import annotations

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.check.project.selected import selected_names
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


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("with s as (select x from t) select a, t.B, f(c, d) as e, case when g then h end as i from s as t", "a b e i"),
        ('select a as "Full Name", b from t', "full name|b"),
        ("select *, a as b from t", "b"),
        ("select a is distinct from b as c, d from t", ""),
        ("select a c, raw:d.e, f::date, h from t", "h"),
        ("select a where t.b", ""),
        ("select a from t union all select b from t", ""),
        ("select a from t; select b from t", ""),
        ("(select a from t)", ""),
        ("select a, 'b", ""),
        ("create table a", ""),
    ],
)
def test_names_that_the_words_of_a_query_show(sql: str, names: str) -> None:
    expected = set(names.split("|" if "|" in names else None))
    assert selected_names(sql, "snowflake") == expected
    if expected and "*" not in sql:
        tree = sqlglot.parse_one(sql, dialect="snowflake")
        assert expected <= {name.lower() for name in tree.named_selects}
