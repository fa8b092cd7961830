"""Sync files that nobody should write: each costs one error with its line, and neither memory nor time."""

from __future__ import annotations

import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_reverse_etl.destinations.registry import check_options
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.templates import template_columns

HEAD = "name: a\nmodel: m\nsource: w\ndestination: {type: http, connection: c, path: /x}\nmapping:\n  a: "
#: 9 to the power of 11 values in 12 lines.
EXPONENTIAL = "x0: &x0 [a,a,a,a,a,a,a,a,a]\n" + "".join(
    f"x{at}: &x{at} [{','.join([f'*x{at - 1}'] * 9)}]\n" for at in range(1, 12)
)
MERGES = "x0: &x0 {a: 1, b: 2}\n" + "".join(
    f"x{at}: &x{at}\n  <<: [{','.join([f'*x{at - 1}'] * 9)}]\n" for at in range(1, 9)
)

FILES: dict[str, tuple[Any, str, int | None]] = {
    "not UTF-8": (b"name: a\nmodel: \xe4\n", "is not UTF-8", 2),
    "a date that does not exist": (HEAD + "{value: 2024-13-45}", "not a valid timestamp", 6),
    "a text as a number": (HEAD + "{value: !!int abc}", "not a valid int", 6),
    "a tag without a value": (HEAD + "{value: !!bool maybe}", "not a valid bool", 6),
    "a number of 5,000 digits": (HEAD + "{value: " + "9" * 5000 + "}", "not a valid int", 6),
    "a number of 400 digits": (HEAD + "{value: " + "9" * 400 + "}", "at most 300 digits", 6),
    "a value in itself": (HEAD + "{value: &a [*a]}", "repeats a part in itself: \\*a", 6),
    "2,000 nested values": (HEAD + "{value: " + "{a: " * 2000 + "1" + "}" * 2000 + "}", "more than 50 levels", 6),
    "200,000 brackets": (HEAD + "[" * 200_000, "more than 50 levels", 6),
    "nesting hidden in aliases": (
        "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40,
        "more than 50 levels",
        2,
    ),
    "2,000 nested fields": (HEAD + "a\n  ? " + "a." * 2000 + "b\n  : a\n", "has more than 1,000 characters", 5),
    "400 nested fields": (HEAD + "a\n  " + "a." * 400 + "b: a\n", "nests more than 50 levels deep", 5),
    "aliases of aliases": (EXPONENTIAL, "repeat more than 100,000 characters", 5),
    "merges of merges": (MERGES, "repeat more than 100,000 characters", 11),
    "bytes": (HEAD + "{value: !!binary aGVsbG8=}", "must be text, a number", 6),
    "a set": (HEAD + "{value: !!set {a, b}}", "must be text, a number", 6),
    "a truth value as a key": (HEAD + "{value: {true: a}}", "must have text as keys", 6),
    "a Python object": (HEAD + "{value: !!python/object:os.system x}", "could not determine a constructor", 6),
    "an unknown alias": (HEAD + "*b", "undefined alias", 6),
    "two documents": ("name: a\n---\nname: b\n", "another document", 2),
    "a control character": (b"name: a\0b", "control characters", None),
    "more than 1 MiB": ("#" * (2**20 + 1), "larger than 1 MiB", 1),
    "nothing": ("", "is not a mapping", 1),
    "a duration without end": ("name: a\nretry: {max_age: 99999999999999w}", "less than a million years", 2),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_a_sync_is_one_error_with_its_line(tmp_path: Path, name: str) -> None:
    content, problem, line = FILES[name]
    path = tmp_path / "sync.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SpecError, match=problem) as error:
        Sync.load(path, check=check_options)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    if line:
        assert f"{path}:{line}" in str(error.value)


@pytest.mark.long
def test_a_file_with_very_many_problems_lists_the_first_ones(tmp_path: Path) -> None:
    path = tmp_path / "sync.yaml"
    path.write_text(HEAD + "a\n" + "".join(f"k{at}: 1\n" for at in range(50_000)))
    with pytest.raises(SpecError, match="has 50,000 problems") as error:
        Sync.load(path)
    assert len(error.value.problems) == 101
    assert error.value.problems[-1] == "and 49,900 others"


PYTHON: dict[str, Any] = {"name": "a", "model": "m", "source": "w", "destination": {"type": "http"}}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (object(), "not a object"),
        (b"x", "not a bytes"),
        (10**5000, "at most 300 digits"),
        ("\ud800", "a surrogate"),
        ({1: 2}, "must have text as keys"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() else "value",
)
def test_a_constant_is_a_value_that_a_record_can_have(value: Any, problem: str) -> None:
    for field in ({"value": value}, {"value": [{"x": value}]}, {"change": {"added": value, "changed": 1}}):
        with pytest.raises(SpecError, match=problem):
            Sync.load({**PYTHON, "mapping": {"a": field}})
    options = {**PYTHON, "destination": {"type": "http", "body": {"x": value}}, "mapping": {"a": "a"}}
    if value == {1: 2}:  # an option may have statuses as keys
        Sync.load(options)
        return
    with pytest.raises(SpecError, match=problem):
        Sync.load(options)


def test_a_value_that_holds_itself_has_no_end_and_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(SpecError, match="nested more than 50 levels deep"):
        Sync.load({**PYTHON, "mapping": {"a": {"value": value}}})


def test_aliases_and_merges_of_a_usual_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sync.yaml"
    path.write_text(HEAD + "&a {value: [1, {b: 2}]}\n  b: *a\n  c: {<<: *a}\n")
    mapping = Sync.load(path).model_dump()["mapping"]
    assert mapping["a"] == mapping["b"] == mapping["c"] == {"value": [1, {"b": 2}]}


GOOD = """\
name: contacts
model: {sql: "select * from customers"}
source: warehouse
primary_key: [customer_id, region]
destination: &d {type: http, connection: crm, path: /batch, match_on: email, results: {list: items, ok: {a: 1}}}
mode: upsert
mapping:
  email: email
  properties.first_name: first_name
  properties.plan: {sql: "upper(plan)"}
  properties.origin: {value: [warehouse, 2024-01-31, 1.5, {deep: [null, true]}]}
  properties.greeting: {template: "Dear {{ row.first_name }}"}
  properties.kind: {change: {added: new, changed: old}}
nulls: {fields: {email: omit}, default: {value: ""}}
track: {cursor: updated_at, fields: true}
guards: {min_rows: 1, max_removed: 5%, max_changes: 100000}
failure: {max_rejected: 1%, on_unknown: resend}
retry: {max_attempts: 5, max_age: 14d}
rate: {requests_per_second: 10, concurrency: 8, batch_size: 100}
"""
PIECES = [
    *"[]{}:,&*!|>-?#%@`\"'\n\t \0",
    *("&a ", "*a", "<<: *d\n", "!!int ", "!!binary ", "!!timestamp ", "!!set ", "2024-13-45", "9" * 5000, "1e999"),
    *(".inf", ".nan", "null", "~", "0o9", "0b2", "1:99", "---\n", "...\n", "\u2028", "\ufeff", "é", "{{", "}}"),
    *("[" * 60, "{a: " * 60, "a." * 60, "99999999999999w", "-1", "101%", "true", "name: x\n", "{value: ", "{sql: "),
]


def mutated(text: str, chance: random.Random) -> bytes:
    data = text
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice([0, 0, 1, 3, 20]))
        lines = data.splitlines(keepends=True)
        match chance.randrange(6):
            case 0 | 1 | 2:
                data = data[:at] + chance.choice(PIECES) + data[end:]
            case 3:
                data = data[:at] + data[end:]
            case 4 if lines:
                data = data.replace(chance.choice(lines), chance.choice(lines), 1)
            case _:
                data = data[:at] + data[at : at + 40] * chance.randint(1, 3) + data[at:]
    content = bytearray(data.encode("utf-8", "replace"))
    if chance.random() < 0.1 and content:
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


ODD_VALUES = [
    *(None, True, 0, -1, 10**400, 1e999, float("nan"), "", " ", "*", "a.*", "a" * 2000, "." * 10, "\ud800", "5%"),
    *([], {}, [[]], {"": ""}, {1: 2}, {"sql": ""}, {"value": []}, {"template": "{{ row"}, {"exclude": "a"}, b"x"),
    *({"template": "{{ " + "(" * 3000}, {"template": "{{ " + "[" * 250 + "]" * 250 + " }}"}, {"sql": "(" * 3000}),
    *({"change": 1}, {"fields": {}}, {"cursor": None}, object(), {1, 2}, range(3), (1, 2), "99999999999999w", "-1d"),
    *({"a": {"b": ["c"]}}, Path("x"), "{{ x }}"),
]


def odd_values(chance: random.Random) -> Any:
    return chance.choice(ODD_VALUES)


def with_odd_value(value: Any, chance: random.Random) -> Any:
    """Return a copy in which a part, or a key, is another."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {**value, chance.choice(["x", "", "a.b", "*", "email"]): odd_values(chance)}
        return {**value, key: with_odd_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], with_odd_value(value[at], chance), *value[at + 1 :]]
    return odd_values(chance)


#: Each seed is 625 files or values: 1,250 before a change lands, 10,000 before a release.
SEEDS = [pytest.param(seed, marks=pytest.mark.long if seed < 2 else pytest.mark.slow) for seed in range(16)]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_mutated_file_raises_anything_but_a_spec_error(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "sync.yaml"
    read = 0
    refused: list[str] = []
    for _ in range(625):
        path.write_bytes(mutated(GOOD, chance))
        try:
            assert Sync.load(path, check=check_options).digest
            read += 1
        except SpecError as error:
            refused.append(str(error))
    assert read > 10
    assert all(str(path) in text for text in refused)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_odd_value_raises_anything_but_a_spec_error(seed: int) -> None:
    chance = random.Random(seed)
    good = yaml.safe_load(GOOD)
    read = 0
    for _ in range(625):
        values = good
        for _ in range(chance.choice([1, 1, 2, 3])):
            values = with_odd_value(values, chance)
        if not isinstance(values, dict):
            continue
        try:
            sync = Sync.load(values, check=check_options)
            assert sync.digest
            assert Sync.load(json.loads(sync.model_dump_json())).name == sync.name
            template_columns(sync)
            read += 1
        except SpecError as error:
            assert str(error)  # noqa: PT017 - any other exception fails the test
    assert read > 10
