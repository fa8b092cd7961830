"""The plan statement: the columns it reads, the SQL it refuses, and the parts of a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.errors import ModelNotFoundError, SpecError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.statements.classification import OWNERS, STRAYS, relations, repeated
from airflow_reverse_etl.sql.statements.plan import PlanStatement, plan_statement, surplus
from tests.property import examples

COLUMNS = ("id", "Email", "first", "payload", "unused")


def sync_of(mapping: Mapping[str, Any] | None = None, **more: Any) -> Sync:
    values: dict[str, Any] = {"name": "s", "model": "customers", "source": "w", "destination": {"type": "file"}}
    return Sync(**{**values, "mapping": mapping or {"email": "email"}, **more})


def build(sync: Sync, *, query: str = "select * from customers", **more: Any) -> PlanStatement:
    given: dict[str, Any] = {"primary_key": ("id",), "source": "postgres", "planner": "duckdb", **more}
    columns = [Column(name) for name in given.pop("columns", COLUMNS)]
    return plan_statement(sync, query=query, columns=columns, **given)


def test_only_the_columns_in_use_are_extracted_each_once() -> None:
    mapping = {"email": "email", "again": "email", "t": {"template": "Dear {{ row.first }}"}, "c": {"value": 1}}
    statement = build(sync_of(mapping))
    assert statement.extract == (
        'SELECT "id" AS c0, "Email" AS c1, "first" AS c2 FROM (\nselect * from customers\n) AS model'
    )
    assert statement.values == ("f0", "f1", "f2", "f3", "r0")


@pytest.mark.parametrize(
    ("dialect", "quoted"), [("snowflake", '"Email"'), ("bigquery", "`Email`"), ("databricks", "`Email`")]
)
def test_names_are_quoted_for_the_source(dialect: str, quoted: str) -> None:
    assert quoted in build(sync_of(), source=dialect).extract


def test_exact_names_come_before_names_that_differ_in_case() -> None:
    statement = build(sync_of({"a": "Email", "b": "email"}), columns=("id", "Email", "email"))
    assert '"Email" AS c1, "email" AS c2' in statement.extract


def test_all_missing_columns_are_reported_at_once_with_the_nearest_names() -> None:
    mapping = {"a": "emial", "b": {"sql": "upper(frist)"}, "c": {"template": "{{ row.nothing_like_it }}"}, "d": "ID"}
    with pytest.raises(ModelNotFoundError) as caught:
        build(sync_of(mapping), primary_key=("key",), columns=("id", "Id", "email", "first"))
    text = str(caught.value)
    for part in ("5 of the columns", "'key'", "'emial'; did you mean 'email'?", "'frist'; did you mean 'first'?"):
        assert part in text
    assert "'ID' (which of id, Id?)" in text
    assert "'nothing_like_it'; known:" in text


@pytest.mark.parametrize(
    "query",
    [
        "select 1; select 2",
        "delete from customers",
        "",
        "-- nothing",
        "select 1) as x, (select 2",
        "select 'open",
        "drop table x",
    ],
)
def test_what_is_not_one_select_is_refused(query: str) -> None:
    with pytest.raises(SpecError, match="query cannot be used"):
        build(sync_of(), query=query)


@pytest.mark.parametrize(
    "query", ["select 1;", "select ';' as a -- ; no", "with a as (select 1) select * from a ; ;", "(select 1)"]
)
def test_one_select_is_accepted_with_any_comments_and_closing_semicolons(query: str) -> None:
    statement = build(sync_of(), query=query)
    assert len(sqlglot.parse(statement.extract, read="postgres")) == 1


@pytest.mark.parametrize(
    "expression",
    [
        "count(*)",
        "sum(id) over ()",
        "(select 1)",
        "id from x",
        "id, first",
        "upper(",
        "id) as a, (id",
        "id as b",
        "*",
        "id); drop table customers; select (1",
        "(delete from customers returning id)",
        "(from read_text('/etc/passwd'))",
    ],
)
def test_expressions_over_more_than_one_row_are_refused(expression: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(sync_of({"a": {"sql": expression}}))
    assert caught.value.problems[0].startswith("mapping.a.sql: ")


@pytest.mark.parametrize(
    ("dialect", "expression", "name"),
    [
        ("duckdb", "unnest(payload)", "unnest"),
        ("duckdb", "upper(unnest(payload))", "unnest"),
        ("duckdb", "regexp_split_to_table(first, ',')", "regexp_split_to_table"),
        ("postgres", "UNNEST(payload)", "unnest"),
        ("postgres", '"unnest"(payload)', "unnest"),
        ("postgres", "pg_catalog.unnest(payload)", "unnest"),
        ("postgres", "generate_series(1, id)", "generate_series"),
        ("postgres", "regexp_matches(first, 'a', 'g')", "regexp_matches"),
        ("postgres", "jsonb_array_elements_text(payload) || 'x'", "jsonb_array_elements_text"),
        ("postgres", "(json_each(payload)).key", "json_each"),
        ("redshift", "generate_series(1, id)", "generate_series"),
        ("databricks", "explode(payload)", "explode"),
        ("databricks", "posexplode_outer(payload)", "posexplode_outer"),
        ("spark", "inline(payload)", "inline"),
        ("spark", "stack(2, id, first)", "stack"),
        ("snowflake", "flatten(payload)", "flatten"),
        ("snowflake", "split_to_table(first, ',')", "split_to_table"),
        ("bigquery", "unnest(payload)", "unnest"),
        ("clickhouse", "arrayJoin(payload)", "arrayjoin"),
    ],
)
def test_functions_that_return_several_rows_for_one_or_none_are_refused_by_name(
    dialect: str, expression: str, name: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build(sync_of({"a": {"sql": expression}}), source=dialect)
    assert caught.value.problems == (
        f"mapping.a.sql: {name} returns several rows for one, or none: use it in the model",
    )


@pytest.mark.parametrize(
    ("dialect", "expression"),
    [
        ("duckdb", "generate_series(1, id)"),
        ("duckdb", "regexp_matches(first, 'a')"),
        ("duckdb", "flatten(payload)"),
        ("databricks", "flatten(payload)"),
        ("bigquery", "first IN UNNEST(['a', 'b'])"),
        ("bigquery", "first NOT IN UNNEST(payload)"),
        ("postgres", "'unnest(' || first || ')'"),
        ("postgres", "string_to_array(first, ',')"),
    ],
)
def test_functions_with_one_value_for_each_row_are_accepted(dialect: str, expression: str) -> None:
    build(sync_of({"a": {"sql": expression}}), source=dialect)


def test_expressions_go_from_the_source_dialect_to_the_planners() -> None:
    statement = build(sync_of({"a": {"sql": "IFF(first IS NULL, 'x', payload.city)"}}), source="snowflake")
    assert duckdb.sql(f"""
        WITH extracted AS (SELECT 1 AS c0, 'f' AS c1, {{'city': 'Bonn'}} AS c2) {statement.mapped}
    """).fetchall() == [(1, "Bonn")]


def test_a_key_is_needed_unless_every_row_is_sent() -> None:
    with pytest.raises(SpecError, match="primary key"):
        build(sync_of(), primary_key=())
    assert build(sync_of(mode="append"), primary_key=()).keys == ()


def test_a_mirror_cannot_match_on_a_value_that_a_removed_row_no_longer_has() -> None:
    with pytest.raises(SpecError, match="match_on"):
        build(
            sync_of(
                {"a": {"template": "{{ row.first }}"}}, mode="mirror", destination={"type": "file", "match_on": "a"}
            )
        )


@pytest.mark.parametrize("mode", ["upsert", "insert", "update", "mirror", "append", "delete"])
@pytest.mark.parametrize("dialect", sorted(PLANNERS))
def test_every_part_is_valid_sql_in_every_dialect(dialect: str, mode: str) -> None:
    mapping = {
        "email": "email",
        "a.n": {"sql": "upper(first)"},
        "c": {"value": "it's"},
        "t": {"template": "{{ row.first }}"},
    }
    statement = build(sync_of(mapping, mode=mode), primary_key=("id", "email"), source=dialect, planner=dialect)
    types = dict.fromkeys((*statement.keys, *statement.values), "TIMESTAMP")
    now = datetime(2026, 1, 31, tzinfo=UTC)
    parts = [statement.extract, statement.mapped, statement.model(types), statement.compare(types)]
    parts += [statement.compare_repeated(types), OWNERS, STRAYS, *repeated(statement, "model").values()]
    for sql in [*parts, *relations(statement, now).values()]:
        assert len(sqlglot.parse(sql, read=dialect)) == 1


@pytest.mark.parametrize("dialect", sorted(PLANNERS))
def test_a_constant_that_identifies_a_record_is_written_as_the_planner_reads_it(dialect: str) -> None:
    constant = "it's a {b\\c}"
    sync = sync_of(
        {"email": "email", "kind": {"value": constant}},
        mode="mirror",
        destination={"type": "file", "match_on": ["email", "kind"]},
    )
    statement = build(sync, source=dialect, planner=dialect)
    model = sqlglot.parse_one(statement.model(dict.fromkeys(("k0", "f0", "f1"), "TEXT")), read=dialect)
    assert constant in {text.this for text in model.find_all(sqlglot.exp.Literal)}


# ── fingerprints ──────────────────────────────────────────────────────────────────────────────────────────────────────


def hashes(rows: str, mapping: Mapping[str, Any], key: tuple[str, ...] = ("id",), **more: Any) -> list[tuple[Any, ...]]:
    """Return (key, key hash, fingerprint) of the rows of a DuckDB query."""
    relation = duckdb.sql(rows)
    sync = sync_of(mapping, **more)
    statement = build(sync, query=rows, primary_key=key, columns=relation.columns, source="duckdb")
    with_extracted = f"WITH extracted AS ({statement.extract})"
    types = duckdb.sql(f"DESCRIBE {with_extracted} {statement.mapped}").fetchall()
    model = statement.model({name: kind for name, kind, *_ in types})
    sql = (
        f"{with_extracted}, mapped AS ({statement.mapped}) SELECT row_key, (key_hi, key_lo), fingerprint FROM ({model})"
    )
    return duckdb.sql(sql).fetchall()


def fingerprint(values: str, mapping: Mapping[str, Any]) -> int:
    [(_, _, found)] = hashes(f"SELECT 1 AS id, {values}", mapping)
    return int(found)


def test_the_order_of_the_mapping_and_unmapped_columns_make_no_difference() -> None:
    one = fingerprint("'a' AS x, 'b' AS y", {"x": "x", "y": "y"})
    assert one == fingerprint("'b' AS y, 'a' AS x, 5 AS z", {"y": "y", "x": "x"})


def test_a_field_renamed_added_or_fixed_differently_is_a_change() -> None:
    values = "'a' AS x, 'b' AS y"
    mappings: list[dict[str, Any]] = [
        {"x": "x"},
        {"x2": "x"},
        {"x": "y"},
        {"x": "x", "c": {"value": 1}},
        {"x": "x", "c": {"value": "1"}},
        {"x": "x", "t": {"template": "{{ row.y }}"}},
        {"x": "x", "t": {"template": "Dear {{ row.y }}"}},
        {"x": "y", "y": "x"},
        {"x": "x", "y": "y"},
    ]
    assert len({fingerprint(values, mapping) for mapping in mappings}) == len(mappings)


def test_columns_that_a_template_reads_are_part_of_the_fingerprint() -> None:
    mapping = {"t": {"template": "{{ row.y }}"}}
    assert fingerprint("'b' AS y", mapping) != fingerprint("'c' AS y", mapping)


texts = (
    st.none()
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    | st.sampled_from(["n", "1:a", ":", ""])
)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
@settings(max_examples=examples(75), deadline=None)
def test_no_two_lists_of_values_share_a_canonical_text(
    one: tuple[str | None, ...], other: tuple[str | None, ...]
) -> None:
    code = PLANNERS["duckdb"].prefix_code(["a", "b"])
    rows = duckdb.execute(
        f"SELECT {code} FROM (VALUES (?::VARCHAR, ?::VARCHAR), (?, ?)) AS t(a, b)", [*one, *other]
    ).fetchall()
    assert (rows[0] == rows[1]) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.50::DECIMAL(10,2)", "1.5::DECIMAL(18,3)"),
        ("100::DECIMAL(10,2)", "100::BIGINT"),
        ("5::DOUBLE", "5::INTEGER"),
        ("-0.0::DOUBLE", "0.0::DOUBLE"),
        ("TIMESTAMPTZ '2026-01-31 12:00:00+02'", "TIMESTAMPTZ '2026-01-31 10:00:00+00'"),
        ("TIMESTAMP '2026-01-31 12:00:00'", "TIMESTAMP_NS '2026-01-31 12:00:00.000000'"),
        ("'\\xAB'::BLOB", "'ab'"),
        ("true", "'true'"),
        ("{'a': 1}", "'{\"a\":1}'"),
    ],
)
def test_equal_values_have_equal_text(one: str, other: str) -> None:
    assert fingerprint(f"{one} AS x", {"x": "x"}) == fingerprint(f"{other} AS x", {"x": "x"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("NULL::VARCHAR", "''"),
        ("100::DECIMAL(10,0)", "1::DECIMAL(10,0)"),
        ("TIMESTAMP '2026-01-31 12:00:00'", "TIMESTAMPTZ '2026-01-31 12:00:00+00'"),
        ("0.1::DOUBLE", "0.1::DOUBLE + 1e-17"),
        ("'nan'::DOUBLE", "'inf'::DOUBLE"),
        ("DATE '2026-01-01'", "DATE '2026-01-02'"),
    ],
)
def test_different_values_have_different_text(one: str, other: str) -> None:
    assert fingerprint(f"{one} AS x", {"x": "x"}) != fingerprint(f"{other} AS x", {"x": "x"})


def test_a_composite_key_is_a_json_array_and_null_if_a_part_is() -> None:
    rows = "SELECT * FROM (VALUES (1, 'a'), (11, ''), (1, '1'), (1, NULL)) AS t(id, part)"
    found = hashes(rows, {"x": "part"}, key=("id", "part"))
    assert [row[0] for row in found[:3]] == ['["1","a"]', '["11",""]', '["1","1"]']
    assert len({row[1] for row in found}) == 4
    assert found[3][1] == (None, None)


def test_surplus_finds_repeated_keys_by_counts() -> None:
    assert surplus(model_rows=10, snapshot_rows=8, found={"added": 3, "gone": 1}) == 0
    assert surplus(model_rows=11, snapshot_rows=8, found={"added": 3, "gone": 1}) == 1
    assert surplus(model_rows=5, snapshot_rows=0, found={"added": 5}) == 0
