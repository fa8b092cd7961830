"""The ways that a mark of personal data travels: through dbt's lineage, and through the mapping of a sync."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl.check.check import check_project
from airflow_reverse_etl.check.privacy.marking import Marking, marked
from airflow_reverse_etl.check.privacy.rule import check_privacy, violations
from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.manifest import load, read_manifest
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.folders.reading import SyncSource
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.privacy.marks import ColumnMarks, Mark, ModelMarks
from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy
from tests.dbt.projects import Node, keyed, model, side, source, sync

USERS = "{{ source('raw', 'users') }}"
ORDERS = "{{ source('raw', 'orders') }}"
MANIFESTS = sorted((Path(__file__).parents[1] / "dbt" / "manifests").glob("*.json"))


def described(node: Node, **columns: Any) -> Node:
    """Return a node whose columns have these meta entries, or tags if they are lists."""
    for name, given in columns.items():
        entry = node["columns"].setdefault(name, {"name": name, "data_type": ""})
        entry.update({"tags": given} if isinstance(given, list) else {"meta": given})
    return node


def users() -> Node:
    return described(source("users"), id={}, email={"pii": "email"}, phone=["pii:phone"])


def of(sql: str, *, adapter: str = "duckdb", more: tuple[Node, ...] = (), **columns: Any) -> ModelMarks:
    """Return the marks of a model with this SQL."""
    parents = ["source.shop.raw.users", "source.shop.raw.orders", *(node["unique_id"] for node in more)]
    last = described(model("m", sql, parents=parents), **columns)
    return Marking(side(users(), source("orders"), *more, last, adapter=adapter)).of("model.shop.m")


@pytest.mark.parametrize(
    ("adapter", "sql", "expected"),
    [
        ("duckdb", "select id, email from U", {"email": "email"}),
        ("snowflake", "select id, upper(email) as E, phone as p from U", {"e": "email", "p": "phone"}),
        ("postgres", "select * from U", {"email": "email", "phone": "phone"}),
        ("duckdb", "from U", {"email": "email", "phone": "phone"}),
        (
            "postgres",
            "with s as (select * from U), r as (select id, email as mail from s) select * from r",
            {"mail": "email"},
        ),
        ("postgres", "select o.id, u.email as who from O o left join U u on u.id = o.id", {"who": "email"}),
        ("postgres", "select o.*, u.email as who from O o join U u using (id)", {"who": "email"}),
        ("postgres", "select id, 'x' as a from O union all select id, email from U", {"a": "email"}),
        ("postgres", "(select id, 'x' as a from O) union (select id, phone from U)", {"a": "phone"}),
        ("postgres", "select * from O union all select * from U", {"email": "email", "phone": "phone"}),
        ("duckdb", "select id from O union by name select email from U", {"email": "email"}),
        ("postgres", "select id from O where id in (select id from U where email like '%x')", {}),
        ("postgres", "select id, (select max(u.email) from U u where u.id = o.id) as m from O o", {"m": "email"}),
        ("postgres", "select row_to_json(u) as j, id from U u", {"j": "email phone"}),
        ("bigquery", "select to_json_string(u) as j, id from U u", {"j": "email phone"}),
        ("bigquery", "select * except (email) from U", {"phone": "phone"}),
        ("bigquery", "select * replace (phone as id) from U", {"email": "email", "id": "phone", "phone": "phone"}),
        ("snowflake", "select * rename (email as e) from U", {"e": "email", "phone": "phone"}),
        ("snowflake", "select $2 as x from U", {"x": "email phone"}),
        ("snowflake", "select u.id, f.value as x from U u, lateral flatten(input => u.email) f", {"x": "email"}),
        ("bigquery", "select id, x from U, unnest(split(email, '@')) as x", {"x": "email"}),
        ("bigquery", "select email.* from U", {"*": "email"}),
        ("postgres", "select upper(email) from U", {"*": "email"}),
        ("redshift", "select email as e, upper(e) as u from U", {"e": "email", "u": "email"}),
        ("postgres", "select id, count(*) over (partition by email) as n from U", {"n": "email"}),
        ("postgres", "select upper(email) from U union all select 'x' from O", {"*": "email"}),
        ("postgres", "select *, 'x' as email from U", {"email": "email", "phone": "phone"}),
        ("postgres", "select count(*) as n from U", {}),
        ("duckdb", "select * from U pivot (count(id) for phone in ('x', 'y'))", {"*": "email phone"}),
        ("duckdb", "select columns('e.*') from U", {"*": "email phone"}),
        (
            "postgres",
            "with recursive t as (select id, email as e from U union all select id + 1, e from t) select * from t",
            {"e": "email"},
        ),
        # A table by its name, which dbt does not list as an input.
        ("postgres", "select id, email from raw.users", {"email": "email"}),
        ("postgres", "select id, email from elsewhere.users", {"email": "unknown", "id": "unknown"}),
        ("postgres", "{{ a_macro() }}", {"*": "unknown"}),
    ],
)
def test_a_mark_follows_the_sql_of_a_model(adapter: str, sql: str, expected: dict[str, str]) -> None:
    sql = re.sub(r"\bU\b", USERS, re.sub(r"\bO\b", ORDERS, sql))
    found = of(sql, adapter=adapter).names()
    assert {name: " ".join(marks) for name, marks in found.items()} == expected


def test_what_a_column_declares_itself_is_the_last_word() -> None:
    sql = f"select md5(email) as h, split_part(email, '@', 2) as domain, phone, email from {USERS}"
    found = of(sql, h={"pii": "hashed email"}, domain={"pii": False}, phone={"pii": ["phone", "name"]})
    assert found.names() == {"h": ["hashed email"], "phone": ["name", "phone"], "email": ["email"]}
    whole = model("m", sql, parents=["source.shop.raw.users"], meta={"pii": True})
    found = Marking(side(users(), described(whole, domain={"pii": False}))).of("model.shop.m")
    assert found.names() == {
        "h": ["email", "pii"],
        "domain": [],
        "phone": ["phone", "pii"],
        "email": ["email", "pii"],
        "*": ["pii"],
    }


def test_sql_that_cannot_be_read_has_no_marks_if_nothing_upstream_has() -> None:
    plain = model("plain", "{{ a_macro() }}", parents=["source.shop.raw.orders"])
    after = model("after", "select * from {{ ref('plain') }}", parents=["plain"])
    marking = Marking(side(users(), source("orders"), plain, after))
    assert marking.of("model.shop.after").names() == {}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_marks_of_real_manifests_survive_the_catalog(path: Path) -> None:
    data = load(path.read_bytes())
    catalog = marked(read_manifest(data), data)
    text = json.dumps(data)
    found = {model.name: model.marks.names() for model in catalog.models if model.marks and model.marks.names()}
    assert bool(found) == ('"pii": true' in text)
    assert Catalog.from_json(catalog.to_json()) == catalog


# -- soundness: what DuckDB shows to depend on an e-mail address carries its mark --------------------------------------

TEXT = "cast({} as varchar)"


class Warehouse:
    """Two databases that differ in the e-mail addresses alone."""

    def __init__(self) -> None:
        self._databases = [duckdb.connect() for _ in range(2)]
        for number, database in enumerate(self._databases):
            database.execute("create schema raw")
            database.execute(
                "create table raw.users as select range as id, "
                f"'u' || (range * {number + 1}) || '@x{number}.org' as email, 'n' || range as city from range(4)"
            )
            database.execute("create table raw.orders as select range as id, range * 10 as amount from range(4)")

    def build(self, name: str, sql: str) -> None:
        for database in self._databases:
            database.execute(f"create table {name} as {sql}")

    def columns(self, name: str) -> list[str]:
        return [row[0] for row in self._databases[0].execute(f"describe {name}").fetchall()]

    def depends_on_emails(self, name: str, column: str) -> bool:
        query = f"select {TEXT.format(chr(34) + column + chr(34))} as value from {name} order by value"
        first, second = (database.execute(query).fetchall() for database in self._databases)
        return first != second

    def close(self) -> None:
        for database in self._databases:
            database.close()


def random_sql(chance: random.Random, known: dict[str, list[str]]) -> str:
    """Return a SELECT over known tables: their names in ``<>``, their columns by name."""
    (left, right) = (chance.choice(sorted(known)) for _ in range(2))
    usable = {name: [column for column in columns if column.isidentifier()] for name, columns in known.items()}
    one = chance.choice(usable[left])
    two = chance.choice(usable[left])
    other = chance.choice(usable[right])
    of_left = TEXT.format(f"l.{one}")
    of_right = TEXT.format(f"r.{other}")
    fresh = f"c{chance.randrange(1000)}"
    shapes = [
        f"select id, {one} as {fresh} from <{left}>",
        f"select *, upper({TEXT.format(one)}) || '!' as {fresh} from <{left}>",
        f"select * from <{left}>",
        f"with a as (select * from <{left}>), b as (select *, {one} as {fresh} from a) select * from b where id >= 0",
        f"select l.*, r.{other} as {fresh} from <{left}> l join <{right}> r on l.id = r.id",
        f"select l.id, concat({of_right}, {of_left}) as {fresh} from <{left}> l left join <{right}> r using (id)",
        f"select id, {TEXT.format(one)} as {fresh} from <{left}> union all select id, {of_right} from <{right}> r",
        f"select id, (select max({of_right}) from <{right}> r) as {fresh} from <{left}>",
        f"select id, first_value({one}) over (order by {two}) as {fresh} from <{left}>",
        f"select id, max({TEXT.format(one)}) as {fresh}, count(*) as n from <{left}> group by id",
        f"select id, to_json(t) as {fresh} from <{left}> t",
        f"with s as (select id, {{'k': {one}, 'v': 1}} as st from <{left}>) select id, s.st.k as {fresh} from s",
        f"select id, x.y as {fresh} from <{left}> l, lateral (select l.{one} as y) x",
        f"select l.*, r.* from <{left}> l join <{right}> r on l.id = r.id",
        f"select id, upper({TEXT.format(one)}) from <{left}> union all select id, {TEXT.format(other)} from <{right}>",
        f"select * exclude (id), id from <{left}>",
        f"select * replace ({TEXT.format(two)} as {one}), id as id_again from <{left}>"
        if one != "id"
        else f"select * from <{left}>",
        f"select id, u as {fresh} from <{left}>, unnest([{one}, {one}]) as t(u)",
        f"select id, case when {one} is null then {TEXT.format(two)} else 'x' end as {fresh} from <{left}>",
        f"(select * from <{left}>) union all (select * from <{left}>)",
    ]
    return chance.choice(shapes)


@pytest.mark.long
def test_no_column_that_depends_on_an_email_lacks_its_mark() -> None:
    carried = clean = 0
    for seed in range(60):
        chance = random.Random(seed)
        warehouse = Warehouse()
        known = {"raw.users": ["id", "email", "city"], "raw.orders": ["id", "amount"]}
        nodes = [described(source("users"), id={}, email={"pii": "email"}), source("orders")]
        for number in range(4):
            name = f"m{number}"
            sql = random_sql(chance, known)
            warehouse.build(name, re.sub(r"<([\w.]+)>", r"\1", sql))
            known[name] = warehouse.columns(name)
            parents = [node["unique_id"] for node in nodes]
            nodes.append(model(name, re.sub(r"<([\w.]+)>", _reference, sql), parents=parents))
        marking = Marking(side(*nodes))
        for name in (f"m{number}" for number in range(4)):
            for column in known[name]:
                marks = marking.of(f"model.shop.{name}").of(column)
                assert not marks.unknown, (seed, name, column, marks.unknown)
                if warehouse.depends_on_emails(name, column):
                    assert [mark.name for mark in marks.marks] == ["email"], (seed, name, column)
                    carried += 1
                clean += not marks.marks
        warehouse.close()
    assert carried > 50
    assert clean > 150, "most columns have no mark, so that marks mean something"


def _reference(match: re.Match[str]) -> str:
    name = match[1]
    return f"{{{{ source('raw', '{name[4:]}') }}}}" if name.startswith("raw.") else f"{{{{ ref('{name}') }}}}"


# -- the rule ----------------------------------------------------------------------------------------------------------

EMAIL = Mark("email", "email", "raw.users", "models/raw.yml:7")
MARKS = ModelMarks({"email": ColumnMarks((EMAIL,)), "odd": ColumnMarks(unknown="no lineage")}, dialect="duckdb")


def policy(*allow: str, unknown: str = "deny") -> PrivacyPolicy:
    return PrivacyPolicy.model_validate(
        {"unknown": unknown, "destinations": [{"type": "http", "allow": list(allow)}] if allow else []}
    )


WAYS: dict[str, tuple[Any, str]] = {
    "direct": ({"email": "email"}, "email"),
    "rename": ({"properties.mail": "EMAIL"}, "email"),
    "expression": ({"mail": {"sql": "lower(trim(email))"}}, "email"),
    "template": ({"greeting": {"template": "Dear {{ row.email }}"}}, "email"),
    "every column": ({"*": "*"}, "email"),
    "every column, nested": ({"properties.*": {"exclude": ["odd"]}}, "email"),
    "hash": ({"h": {"column": "email", "hash": "sha256"}}, "hashed email"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_mark_follows_the_mapping(way: str) -> None:
    mapping, mark = WAYS[way]
    given = sync(mapping={"id": "id", **mapping}, destination={"type": "http"})
    found = violations(policy(unknown="allow"), given, MARKS)
    assert [str(one.column).lower() for one in found] == ["email"]
    assert "models/raw.yml:7" in found[0].text
    assert violations(policy(mark, unknown="allow"), given, MARKS) == []
    assert violations(policy("phone", unknown="allow"), given, MARKS) != []
    # Where a value may go, its hash may; never the other way round.
    assert violations(policy("email", unknown="allow"), given, MARKS) == []
    assert bool(violations(policy("hashed *", unknown="allow"), given, MARKS)) == (way != "hash")


def test_a_mark_follows_match_on() -> None:
    given = sync(
        mapping={"email": "email", "n": "id"}, destination={"type": "http", "match_on": "email"}, mode="delete"
    )
    [found] = violations(policy(), given, MARKS)
    assert found.column == "email"


@pytest.mark.parametrize("of_sync", [True, False])
def test_a_primary_key_is_sent_without_a_field(*, of_sync: bool) -> None:
    marks = replace(MARKS, primary_key=("id",) if of_sync else ("Email",))
    given = sync(mapping={"id": "id"}, primary_key="email" if of_sync else None)
    [found] = violations(policy("hashed email"), given, marks)
    assert found.text.startswith("primary_key sends column")
    assert violations(policy("email"), given, marks) == []


@pytest.mark.parametrize(
    "mapping",
    [
        {"id": "id"},
        {"x": {"value": "email"}},
        {"*": {"exclude": ["email", "odd"]}},
        {"kind": {"change": {"added": "a", "changed": "b"}}, "id": "id"},
    ],
)
def test_a_mapping_without_marked_columns_needs_no_permission(mapping: dict[str, Any]) -> None:
    assert violations(policy(), sync(mapping=mapping), MARKS) == []


def test_a_field_of_its_own_keeps_a_column_out_of_every_column() -> None:
    mapping = {"email": {"column": "email", "hash": "sha256"}, "*": {"exclude": ["odd"]}}
    assert violations(policy("hashed email"), sync(mapping=mapping), MARKS) == []


@pytest.mark.parametrize(
    ("model_of_sync", "marks", "mapping"),
    [
        ({"sql": "select 1 as id"}, None, {"id": "id"}),
        ({"table": "main.customers"}, None, {"*": "*"}),
        ("customers", None, {"id": "id"}),
        ("customers", MARKS, {"odd": "odd"}),
        ("customers", MARKS, {"odd": {"sql": "(((odd"}}),
        ("customers", ModelMarks(others=ColumnMarks(unknown="a macro")), {"*": "*"}),
    ],
)
def test_unknown_marks_are_denied_unless_the_policy_allows_them(
    model_of_sync: Any, marks: ModelMarks | None, mapping: dict[str, Any]
) -> None:
    given = sync(model=model_of_sync, mapping=mapping, primary_key="id")
    [found] = violations(policy(), given, marks)
    assert "not known" in found.text
    assert violations(policy(unknown="allow"), given, marks) == []
    assert violations(policy("*"), given, marks) == []
    assert violations(policy(), sync(model=model_of_sync, mapping={"x": {"value": 1}}, primary_key="id"), marks) == []


def test_the_error_of_a_run_lists_all_that_a_person_needs() -> None:
    values = {**sync().sync.model_dump(), "mapping": {"email": "email", "mail": {"sql": "email || ''"}}}
    values["destination"] = {"type": "file", "connection": "partner", "object": "people"}
    with pytest.raises(SpecError) as caught:
        check_privacy(policy("phone"), Sync.load(values), MARKS)
    text = str(caught.value)
    for part in ("mapping.email", "mapping.mail", "'email'", "raw.users", "models/raw.yml:7", "file people", "partner"):
        assert part in text
    check_privacy(None, Sync.load(values), MARKS)


@pytest.mark.parametrize("asked", ["breaking", "contract", "any_change"])
def test_the_check_fails_a_sync_that_the_policy_denies_whatever_else_it_asks(asked: Any) -> None:
    nodes = users(), model("customers", f"select id, email from {USERS}", parents=["source.shop.raw.users"])
    sides = [side(*nodes, *keyed("customers")) for _ in range(2)]
    report = check_project([sync()], *sides, today=date(2026, 11, 27), policy=asked, privacy=policy())
    [found] = [finding for finding in report.findings if finding.rule == "privacy"]
    assert (report.conclusion, str(found.place), found.column) == ("failed", "syncs/customers.yaml:6", "email")
    sides = [side(*nodes, *keyed("customers")) for _ in range(2)]
    report = check_project([sync()], *sides, today=date(2026, 11, 27), policy=asked, privacy=policy("email"))
    assert not report.findings


def test_a_source_of_a_sync_names_its_line() -> None:
    given = SyncSource(sync().sync, "syncs/customers.yaml", {("mapping", "email"): 6})
    assert str(violations(policy(), given, MARKS)[0]).startswith("syncs/customers.yaml:6: mapping.email sends column")
