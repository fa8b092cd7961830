"""The sync specification: accepted values, and reports of problems."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.field_types import rows_of
from airflow_reverse_etl.spec.model import Sync

FULL = """\
name: contacts_to_hubspot
model: customers
source: warehouse
primary_key: customer_id
destination: {type: hubspot, connection: hubspot, object: contacts, match_on: email, extra_option: 1}
mode: upsert
mapping:
  email: email
  properties.first_name: first_name
  properties.plan: {sql: "upper(plan)"}
  properties.origin: {value: warehouse}
  properties.greeting: {template: "Dear {{ row.first_name }}"}
nulls: send
guards: {min_rows: 1, max_removed: 5%, max_changes: 100000}
failure: {max_rejected: 1%, on_unknown: resend}
retry: {max_attempts: 5, max_age: 14d}
rate: {requests_per_second: 10, concurrency: 8, batch_size: 100}
planner: auto
"""
MINIMAL: dict[str, Any] = {
    "name": "s",
    "model": "m",
    "source": "w",
    "destination": {"type": "http"},
    "mapping": {"a": "a"},
}


def problems(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(SpecError) as error:
        Sync.load({**MINIMAL, **values})
    return error.value.problems


def test_yaml_dict_and_python_give_the_same_sync(tmp_path: Path) -> None:
    path = tmp_path / "sync.yaml"
    path.write_text(FULL)
    from_yaml = Sync.load(path)
    assert from_yaml == Sync.load(str(path)) == Sync.load(yaml.safe_load(FULL)) == Sync(**yaml.safe_load(FULL))
    assert Sync.load(from_yaml) is from_yaml
    assert from_yaml.primary_key == ("customer_id",)
    assert from_yaml.destination.match_on == ("email",)
    assert from_yaml.destination.options == {"extra_option": 1}
    assert from_yaml.retry.max_age == timedelta(days=14)


def test_a_sync_survives_json() -> None:
    sync = Sync(**yaml.safe_load(FULL))
    assert Sync.load(json.loads(sync.model_dump_json())) == sync


def test_all_problems_come_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: c\nmodel: customers\nsource: w\ndestination: {type: http, match_on: [email]}\nmode: upsrt\n"
        "maping: {}\nmapping:\n  x: {sq: 'upper(x)'}\n  y: {sql: ''}\nguards: {min_row: 1, max_removed: 5x}\n"
        "retry: {max_age: 14}\n"
    )
    with pytest.raises(SpecError) as error:
        Sync.load(path, check=lambda destination: [(("bulk",), "unknown key")])
    found = sorted(problem.removeprefix(f"{path}:") for problem in error.value.problems)
    assert [problem.split(": ")[0:2] for problem in found] == [
        ["10", "guards.max_removed"],
        ["10", "guards.min_row"],
        ["11", "retry.max_age"],
        ["4", "destination.bulk"],
        ["5", "mode"],
        ["6", "maping"],
        ["8", "mapping.x"],
        ["9", "mapping.y.sql"],
    ]
    assert "did you mean 'mapping'?" in str(error.value)
    assert "did you mean 'min_rows'?" in str(error.value)


@pytest.mark.parametrize("constant", [None, "", " \t\r\n\u00a0"])
def test_a_constant_that_identifies_nothing_is_refused(constant: Any) -> None:
    destination = {"type": "http", "match_on": ["a", "b"]}
    [problem] = problems({"destination": destination, "mapping": {"a": "a", "b": {"value": constant}}})
    assert "match_on names b, whose constant is null or blank" in problem


def test_python_authors_get_all_problems_too() -> None:
    with pytest.raises(SpecError) as error:
        Sync(name="a", nam=3)  # type: ignore[call-arg]
    assert {problem.split(":")[0] for problem in error.value.problems} == {
        "model",
        "source",
        "destination",
        "mapping",
        "nam",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a/b"}, "name: "),
        ({"name": "../x"}, "name: "),
        ({"mapping": {}}, "mapping: "),
        ({"mapping": {"a..b": "x"}}, "empty part"),
        ({"mapping": {"a": "x", "a.b": "y"}}, "cannot be a value and hold 'a.b'"),
        ({"primary_key": []}, "primary_key: must name at least one column"),
        ({"primary_key": ["a", "a"]}, "primary_key: must name at least one column, each once"),
        ({"destination": {"type": "http", "match_on": "email"}}, "match_on names email"),
        ({"model": {"query": "select 1"}}, "model: must be a dbt model's name"),
        ({"rate": {"concurrency": 0}}, "rate.concurrency"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in problems(values)), problems(values)


def test_a_duplicate_key_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\nmapping:\n  email: x\n  email: y\n")
    with pytest.raises(SpecError) as error:
        Sync.load(path)
    assert error.value.problems == (f"{path}:2: name: duplicate key", f"{path}:5: mapping.email: duplicate key")


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", "", "plain"])
def test_a_file_that_is_not_a_mapping_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=str(path)):
        Sync.load(path)


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the sync file"):
        Sync.load(tmp_path / "none.yaml")


def test_limits_are_rows_or_shares() -> None:
    assert rows_of(7, 1000) == 7
    assert rows_of("2.5%", 1000) == 25


def test_the_digest_follows_what_is_sent_and_nothing_else() -> None:
    sync = Sync.load(MINIMAL)
    assert sync.digest == Sync.load({**MINIMAL, "guards": {"min_rows": 5}, "rate": {"concurrency": 2}}).digest
    assert sync.digest != Sync.load({**MINIMAL, "mapping": {"a": "b"}}).digest
    assert sync.digest != Sync.load({**MINIMAL, "destination": {"type": "http", "path": "/x"}}).digest


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"mapping": {"*": "*", "p.*": "*"}}, "mapping: '*' and 'p.*' both map every column: keep one of them"),
        ({"mapping": {"*": "id"}}, 'mapping: field \'*\': write "*": "*"'),
        ({"mapping": {"id": "*"}}, 'mapping: field \'id\': write "*": "*"'),
        ({"mapping": {"id": {"exclude": ["x"]}}}, 'mapping: field \'id\': write "*": "*"'),
        ({"mapping": {"*": {"excluded": ["x"]}}}, "mapping.*: must be a column's name"),
        ({"mapping": {"p": "p", "p.*": "*"}}, "mapping: field 'p' cannot be a value and hold 'p.*' as well"),
        ({"mapping": {"x": {"change": {"added": 1}}}}, "mapping.x.change.changed: is required"),
        ({"nulls": {"fields": {"emial": "omit"}}}, "nulls.fields names emial, which mapping does not define"),
        ({"nulls": {"fields": {"email": "omt"}}}, "nulls.fields.email: Input should be 'send' or 'omit'"),
        ({"nulls": {"field": {"email": "omit"}}}, "nulls.field: unknown key; did you mean 'fields'?"),
    ],
)
def test_a_mapping_of_every_column_and_nulls_by_field_name_their_problems(more: dict[str, Any], problem: str) -> None:
    values = {"name": "a", "model": "m", "source": "w", "destination": {"type": "x"}, "mapping": {"email": "email"}}
    with pytest.raises(SpecError, match=re.escape(problem)):
        Sync.load({**values, **more})


def test_match_on_cannot_be_the_kind_of_change() -> None:
    values = {"name": "a", "model": "m", "source": "w", "destination": {"type": "x", "match_on": "e"}}
    with pytest.raises(SpecError, match="names e, which differs with the kind of change"):
        Sync.load({**values, "mapping": {"e": {"change": {"added": 1, "changed": 2}}}})
