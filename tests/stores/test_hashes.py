"""Hashes of columns: the same for equal texts, from every warehouse and in both planners."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import duckdb
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.comparison import note_text
from airflow_reverse_etl.spec.field_types import BLANKS
from airflow_reverse_etl.spec.model import HashField, Sync
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.quoting import literal
from airflow_reverse_etl.sync.comparing import warnings
from tests.stores.bench import Bench, sync_of
from tests.stores.warehouses import Place

ADA = "ada@example.com"
#: Text of a column, the text that is hashed: as it is, with ``trim``, with ``email``.
VECTORS: list[tuple[str | None, str | None, str | None, str | None]] = [
    (ADA, ADA, ADA, ADA),
    (" Ada@Example.COM\t", " Ada@Example.COM\t", "Ada@Example.COM", ADA),
    ("\u00a0\r\nADA@example.com ", "\u00a0\r\nADA@example.com ", "ADA@example.com", ADA),
    ("a b+tag@x.io", "a b+tag@x.io", "a b+tag@x.io", "a b+tag@x.io"),
    ("J\u00d6RG@m\u00fcller.de", "J\u00d6RG@m\u00fcller.de", "J\u00d6RG@m\u00fcller.de", "j\u00f6rg@m\u00fcller.de"),
    ("\U0001f600", "\U0001f600", "\U0001f600", "\U0001f600"),
    ("it's 100% \\", "it's 100% \\", "it's 100% \\", "it's 100% \\"),
    ("", None, None, None),
    (" \t\u00a0", None, None, None),
    (None, None, None, None),
]
NORMALISED = (None, "trim", "email")
HASHED = {"email": {"column": "email", "hash": "sha256", "normalize": "email"}}


def sha256(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def query(dialect: str, collation: str = "") -> str:
    """Return a query for the hashes of all vectors, in order."""
    planner = PLANNERS[dialect]
    rows = " UNION ALL ".join(
        f"SELECT {at} AS nr, CAST({literal(text, dialect)} AS {planner.string}) AS v"
        for at, (text, *_) in enumerate(VECTORS)
    )
    hashes = ", ".join(
        planner.hashed("v", how, collation=collation) + f" AS h{at}" for at, how in enumerate(NORMALISED)
    )
    return f"SELECT {hashes} FROM ({rows}) AS given ORDER BY nr"


EXPECTED = [tuple(map(sha256, texts)) for _, *texts in VECTORS]


def test_every_warehouse_makes_the_same_hashes(place: Place) -> None:
    planner = PLANNERS[place.dialect]
    collation = planner.collation if planner.has_collation and place.run(planner.has_collation) else ""
    assert [tuple(row) for row in place.run(query(place.dialect, collation))] == EXPECTED


@pytest.mark.parametrize("dialect", ["bigquery", "redshift"])
def test_the_sql_of_other_warehouses_reads_as_the_same_hashes(dialect: str) -> None:
    """Played by DuckDB, which has BTRIM and VARCHAR(MAX) under other names."""
    known = query(dialect).replace("BTRIM(", "TRIM(").replace("VARCHAR(MAX)", "VARCHAR")
    [sql] = sqlglot.transpile(known, dialect, "duckdb")
    assert duckdb.sql(sql).fetchall() == EXPECTED


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(max_examples=200)
def test_any_text_has_the_hash_that_python_makes(text: str) -> None:
    planner = PLANNERS["duckdb"]
    query = f"SELECT {planner.hashed('v', None)}, {planner.hashed('v', 'trim')} FROM (SELECT CAST(? AS VARCHAR) AS v)"
    trimmed = text.strip(BLANKS)
    expected = (sha256(text), sha256(trimmed)) if trimmed else (None, None)
    assert duckdb.execute(query, [text]).fetchone() == expected


# -- in a sync ---------------------------------------------------------------------------------------------------------


def sent(b: Bench) -> list[dict[str, Any]]:
    plan = b.plan()
    rows = b.rows(plan)
    b.commit(plan)
    return rows


def test_a_hash_is_sent_and_compared_in_place_of_the_text(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of(mapping={"email": HASHED["email"], "score": "score"}, match_on=()))
    b.model([(1, "Ada@example.com", 1), (2, " ", 2), (3, None, 3)])
    assert [row["f0"] for row in sent(b)] == [sha256(ADA), None, None]
    b.model([(1, " ada@EXAMPLE.com ", 1), (2, "", 2), (3, "\t", 3)])
    assert sent(b) == []
    b.model([(1, "bob@example.com", 1), (2, "", 2), (3, "\t", 3)])
    assert [(row["key"], row["change"]) for row in sent(b)] == [("1", "changed")]


def test_rows_with_one_hash_are_one_record(bench: Callable[..., Bench]) -> None:
    b = bench(sync_of("mirror", mapping={**HASHED, "score": "score"}))
    b.model([(1, "Ada@example.com", 1), (2, "ada@example.com ", 2), (3, None, 3), (4, "bob@x", 4)])
    plan = b.plan()
    assert plan.causes == {"no_identifier": 1, "duplicate_identifier": 2}
    assert any("partition by lower(trim(email))" in text for text in warnings(b.sync, plan))
    b.commit(plan)
    b.model([(1, "ada@example.com", 1)])
    removed, added = sent(b)
    assert (removed["change"], removed["identifiers"]) == ("removed", {"email": sha256("bob@x")})
    assert added["change"] == "added"


def test_a_key_that_is_hashed_is_never_sent_as_text_and_is_noted(bench: Callable[..., Bench]) -> None:
    mapping = {"email_sha256": {**HASHED["email"], "column": "EMAIL"}, "score": "score"}
    b = bench(sync_of("mirror", mapping=mapping, match_on=()), primary_key=("email",))
    b.model([(1, ADA, 1), (2, "bob@x", 2)])
    plan = b.plan()
    assert plan.notes == ("hashed_key",)
    assert "primary key" in note_text("hashed_key", snapshot_rows=0)
    b.commit(plan)
    b.model([(2, "bob@x", 2)])
    [removed] = sent(b)
    assert removed["identifiers"] == {"email_sha256": sha256(ADA)}


# -- the specification -------------------------------------------------------------------------------------------------


def field(**values: Any) -> Any:
    return Sync(name="s", model="m", source="w", destination={"type": "file"}, mapping={"x": values}).mapping["x"]


def test_a_field_is_the_hash_of_a_column() -> None:
    assert field(column="email", hash="sha256") == HashField(column="email", hash="sha256")
    assert field(column="email", hash="sha256", normalize="trim").normalize == "trim"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"column": "email"}, "mapping.x.hash: is required"),
        ({"column": "email", "hash": "md5"}, "mapping.x.hash: "),
        ({"column": "email", "hash": "sha256", "normalize": "phone"}, "mapping.x.normalize: "),
        ({"column": "", "hash": "sha256"}, "mapping.x.column: "),
        ({"hash": "sha256"}, "mapping.x: must be a column's name"),
    ],
)
def test_problems_of_a_hash_are_named(values: dict[str, str], problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        field(**values)
    assert any(text.startswith(problem) for text in caught.value.problems), caught.value.problems
