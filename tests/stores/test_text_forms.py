"""Every dialect that can be run makes the same texts and the same hashes of the same values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pytest

from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.quoting import literal, quoted
from airflow_reverse_etl.sql.statements.plan import plan_statement
from tests.stores.warehouses import Place

#: What a type is called, by dialect.
TYPES = {
    "text": {"duckdb": "VARCHAR", "postgres": "TEXT", "snowflake": "VARCHAR", "databricks": "STRING"},
    "integer": dict.fromkeys(("duckdb", "postgres", "snowflake", "databricks"), "BIGINT"),
    "money": dict.fromkeys(("duckdb", "postgres", "snowflake", "databricks"), "DECIMAL(38, 10)"),
    "whole": dict.fromkeys(("duckdb", "postgres", "snowflake", "databricks"), "DECIMAL(38, 0)"),
    "fraction": dict.fromkeys(("duckdb", "postgres", "snowflake", "databricks"), "DECIMAL(38, 37)"),
    "float": {"duckdb": "DOUBLE", "postgres": "DOUBLE PRECISION", "snowflake": "FLOAT", "databricks": "DOUBLE"},
    "boolean": dict.fromkeys(("duckdb", "postgres", "snowflake", "databricks"), "BOOLEAN"),
    "date": dict.fromkeys(("duckdb", "postgres", "snowflake", "databricks"), "DATE"),
    "time": dict.fromkeys(("duckdb", "postgres", "snowflake"), "TIME"),
    "timestamp": {
        "duckdb": "TIMESTAMP", "postgres": "TIMESTAMP", "snowflake": "TIMESTAMP_NTZ", "databricks": "TIMESTAMP_NTZ",
    },
    "instant": {
        "duckdb": "TIMESTAMPTZ", "postgres": "TIMESTAMPTZ", "snowflake": "TIMESTAMP_TZ", "databricks": "TIMESTAMP",
    },
    "binary": {"duckdb": "BLOB", "postgres": "BYTEA", "snowflake": "BINARY", "databricks": "BINARY"},
}  # fmt: skip

#: A value, as text that can be cast to its type, and its text form.
FORMS: dict[str, dict[str, str]] = {
    "text": {
        text: text
        for text in (
            "", " ", "a ", "null", "n", "0:", "it's", 'a"b', "a\\b", "100%", "tab\tline\n", "{x}",
            "\U0001f600", "\u00e9", "e\u0301", "\U0001f926\U0001f3fc\u200d\u2642\ufe0f", "\u202eabc", "\uffff",
        )
    },
    "integer": {str(n): str(n) for n in (0, -1, 100, 2**53 + 1, 2**63 - 1, -(2**63))},
    "money": {
        "0": "0", "0.0000000000": "0", "1.50": "1.5", "100": "100", "100.00": "100", "-0.0000000001": "-0.0000000001",
        "9999999999999999999999999999.9999999999": "9999999999999999999999999999.9999999999",
    },
    "whole": {"0": "0", "100": "100", "9" * 38: "9" * 38, "-" + "9" * 38: "-" + "9" * 38},
    "fraction": {"0." + "0" * 36 + "1": "0." + "0" * 36 + "1", "9." + "9" * 37: "9." + "9" * 37},
    "float": {
        "0": "0", "-0.0": "0", "1": "1", "-1.5": "-1.5", "0.1": "0.1", "0.30000000000000004": "0.30000000000000004",
        "100": "100", "1e15": "1000000000000000", "9007199254740991": "9007199254740991", "0.0001": "0.0001",
        "123456.789": "123456.789", "12345678.9": "12345678.9", "NaN": "nan", "Infinity": "inf", "-Infinity": "-inf",
    },
    "boolean": {"true": "true", "false": "false"},
    "date": {text: text for text in ("0001-01-01", "1970-01-01", "2026-01-31", "9999-12-31")},
    "time": {"00:00:00": "00:00:00", "12:00:00.5": "12:00:00.5", "23:59:59.999999": "23:59:59.999999"},
    "timestamp": {
        text: text
        for text in (
            "0001-01-01 00:00:00", "2026-01-01 00:00:00", "2026-01-01 12:00:00.5", "2026-03-29 02:30:00.000001",
            "9999-12-31 23:59:59.999999",
        )
    },
    "instant": {
        "2026-01-01 00:00:00+00:00": "2026-01-01 00:00:00Z", "2026-01-01 00:00:00.5+02:00": "2025-12-31 22:00:00.5Z",
        "2026-03-29 02:30:00-09:30": "2026-03-29 12:00:00Z", "9999-12-31 23:59:59.999999+00:00":
        "9999-12-31 23:59:59.999999Z",
    },
    "binary": {"": "", "00ff10": "00ff10"},
}  # fmt: skip

#: Floats with an exponent: BigQuery, Redshift and Snowflake write them in their own way.
EXPONENTS = {
    "1e16": "1e+16", "-1e16": "-1e+16", "1.2345678901234568e17": "1.2345678901234568e+17", "1e308": "1e+308",
    "0.00001": "1e-05", "1.5e-7": "1.5e-07", "-2.5e-10": "-2.5e-10", "2.2250738585072014e-308":
    "2.2250738585072014e-308",
}  # fmt: skip

BINARY = {
    "duckdb": "UNHEX('{}')",
    "postgres": "DECODE('{}', 'hex')",
    "snowflake": "TO_BINARY('{}', 'HEX')",
    "databricks": "UNHEX('{}')",
}


def code(texts: Sequence[str | None]) -> str:
    """Return the text that is hashed, computed in Python."""
    return "".join("n" if text is None else f"{len(text)}:{text}" for text in texts)


def hashes(text: str) -> tuple[int, int]:
    digest = hashlib.md5(text.encode()).hexdigest()
    return int(digest[:15], 16), int(digest[16:31], 16)


def cases(place: Place, kind: str) -> Iterator[tuple[str, str]]:
    in_64_bits = place.dialect == "snowflake" and kind == "whole"  # what fakesnow keeps NUMBER(38, 0) in
    yield from ((given, form) for given, form in FORMS[kind].items() if not in_64_bits or len(given) < 19)
    if kind == "float" and place.dialect != "snowflake":
        yield from EXPONENTS.items()


@pytest.mark.parametrize("kind", TYPES)
def test_texts_and_hashes_are_the_documented_ones(place: Place, kind: str) -> None:
    if place.dialect not in TYPES[kind]:
        pytest.skip("the warehouse does not have the type")
    dialect, data_type = PLANNERS[place.dialect], TYPES[kind][place.dialect]
    selects = [f"SELECT -1 AS nr, CAST(NULL AS {data_type}) AS v"]
    expected: list[str | None] = [None]
    for given, text in cases(place, kind):
        plain = literal(given, place.dialect)
        value = BINARY[place.dialect].format(given) if kind == "binary" else f"CAST({plain} AS {data_type})"
        selects.append(f"SELECT {len(selects)}, {value}")
        expected.append(text)
    text = dialect.text("v", data_type)
    digest = dialect.digest.format(x=dialect.prefix_code([text, "'end'"]))
    rows = place.run(
        f"SELECT nr, form, {dialect.high.format(h='digest')} AS hi, {dialect.low.format(h='digest')} AS lo FROM ("
        f"SELECT nr, {text} AS form, {digest} AS digest FROM ({' UNION ALL '.join(selects)}) AS given) AS d ORDER BY nr"
    )
    assert [row[1] for row in rows] == expected
    for _, found, high, low in rows:
        assert (int(high), int(low)) == hashes(code([found, "end"])), found


NAMES = [
    "select", "Order", "group by", 'a"b', "a'b", "a`b", "a;--b", "c0", "f0", "key_hi", "row_key", "model",
    "\u00e4\u20ac",
]  # fmt: skip


def test_columns_of_any_name_have_the_hashes_of_their_values(place: Place) -> None:
    columns = ", ".join(f"'v{at}' AS {quoted(name, place.dialect)}" for at, name in enumerate(NAMES))
    sync = Sync(
        name="s", model="m", source="w", destination={"type": "file"}, mapping={f"x{name}": name for name in NAMES}
    )
    statement = plan_statement(
        sync,
        query=f"SELECT {columns}",
        primary_key=NAMES[:3],
        columns=[Column(name) for name in NAMES],
        source=place.dialect,
        planner=place.dialect,
    )
    string = TYPES["text"][place.dialect]
    types = dict.fromkeys((*statement.keys, *statement.values), string)
    [(row_key, high, low)] = place.run(
        f"WITH extracted AS ({statement.extract}), mapped AS ({statement.mapped}), model AS ({statement.model(types)})"
        " SELECT row_key, key_hi, key_lo FROM model"
    )
    assert row_key == '["v0","v1","v2"]'
    assert (int(high), int(low)) == hashes(code(["v0", "v1", "v2"]))
