"""Tests of the check: each rule, and the changes that it must not report."""

from __future__ import annotations

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.check.check import check_project
from airflow_reverse_etl.check.findings import CheckReport, Finding, Level, Policy
from airflow_reverse_etl.check.project.version import ProjectVersion
from tests.dbt.projects import Node, data_test, keyed, manifest, model, side, source, sync

MANIFESTS = sorted((Path(__file__).parents[1] / "dbt" / "manifests").glob("*.json"))
SQL = "select id, email, plan from {{ ref('stg') }} where active"
STG = "select id, email, plan, active from {{ source('raw', 'people') }}"


def project(
    *, stg: str = STG, customers: Node | None = None, tests: list[Node] | None = None, **more: Any
) -> ProjectVersion:
    return side(
        source("people"),
        model("stg", stg, parents=["source.shop.raw.people"]),
        customers or model("customers", SQL, parents=["stg"]),
        *(keyed("customers") if tests is None else tests),
        **more,
    )


def run(
    base: ProjectVersion, head: ProjectVersion, *syncs: Any, policy: Policy = "breaking", today: date = date(2026, 7, 1)
) -> CheckReport:
    return check_project(syncs or [sync()], base, head, today=today, policy=policy)


def only(report: CheckReport) -> Finding:
    assert len(report.findings) == 1, [f.message for f in report.findings]
    return report.findings[0]


def customers(sql: str = SQL, **more: Any) -> Node:
    return model("customers", sql, parents=["stg"], **more)


def test_an_unchanged_project_has_no_findings() -> None:
    report = run(project(), project())
    assert (report.conclusion, report.findings) == ("passed", ())


def test_a_column_that_the_sync_does_not_use_may_be_removed() -> None:
    head = project(customers=customers("select id, email from {{ ref('stg') }} where active"))
    assert run(project(), head).findings == ()


def test_comments_and_formatting_do_not_change_rows() -> None:
    head = customers("-- who pays\nSELECT id, email, plan\nFROM {{ ref('stg') }}\nWHERE active")
    assert run(project(), project(customers=head)).findings == ()


def test_a_missing_used_column_breaks_its_sync_and_the_line_is_named() -> None:
    finding = only(run(project(), project(customers=customers("select id, plan from {{ ref('stg') }} where active"))))
    assert (finding.rule, finding.level, finding.column) == ("column-missing", Level.BREAKING, "email")
    assert [str(place) for place in finding.places] == ["syncs/customers.yaml:6", "models/customers.sql"]


def test_a_renamed_column_is_found_by_its_lineage() -> None:
    head = customers("select id, email as mail_address, plan from {{ ref('stg') }} where active")
    assert "probably renamed to mail_address" in only(run(project(), project(customers=head))).message


def test_a_column_removed_upstream_is_missing_behind_a_star_too() -> None:
    star = customers("select * from {{ ref('stg') }} where active")
    head = project(stg=STG.replace("email, ", ""), customers=star)
    assert only(run(project(customers=star), head)).rule == "column-missing"


def test_a_column_computed_differently_upstream_needs_review_if_its_type_is_unknown() -> None:
    head = project(stg=STG.replace("email,", "coalesce(email, plan) as email,"))
    finding = only(run(project(), head))
    assert (finding.rule, finding.level) == ("column-meaning", Level.REVIEW)


@pytest.mark.parametrize(
    "sql",
    [
        "select id, email, plan from {{ ref('stg') }}",
        "select s.id, upper(s.email) as email, s.plan from {{ ref('stg') }} as s join {{ ref('stg') }} as t on true",
        "with s as (select * from {{ ref('stg') }}) select id, email, plan from s",
        "select id, email, plan from {{ ref('stg') }} union all select id, plan, plan from {{ ref('stg') }}",
    ],
)
def test_a_column_whose_input_was_removed_upstream_cannot_be_built(sql: str) -> None:
    gone = project(stg=STG.replace("email,", ""), customers=customers(sql))
    findings = [f for f in run(project(customers=customers(sql)), gone).findings if f.rule == "column-missing"]
    assert [(f.level, "email, which is missing" in f.message) for f in findings] == [(Level.BREAKING, True)]


def test_a_column_of_a_model_that_can_no_longer_be_read_needs_review() -> None:
    opaque = [project(stg=f"select {{{{ f({n}) }}}}", customers=customers()) for n in (1, 2)]
    typed = "select id, cast(email as varchar) as email from {{ ref('stg') }}"
    known = [project(stg=f"select {{{{ f({n}) }}}}", customers=customers(typed)) for n in (1, 2)]
    assert run(*opaque).conclusion == run(*known).conclusion == "needs review"


@pytest.mark.parametrize(
    ("before", "after", "rule", "level"),
    [
        ("lower(email)", "upper(email)", "column-meaning", Level.WARNING),
        ("cast(email as varchar)", "cast(email as int)", "column-type", Level.BREAKING),
        ("cast(email as date)", "cast(email as timestamp)", "column-type", Level.BREAKING),
        ("cast(email as int)", "cast(email as bigint)", "column-meaning", Level.WARNING),
    ],
)
def test_the_type_family_decides_how_bad_a_new_expression_is(before: str, after: str, rule: str, level: Level) -> None:
    sql = "select id, {} as email from {{{{ ref('stg') }}}}"
    base, head = (project(customers=customers(sql.format(e))) for e in (before, after))
    finding = only(run(base, head))
    assert (finding.rule, finding.level) == (rule, level)


@pytest.mark.parametrize(
    ("sql", "clause"),
    [
        ("select id, email, plan from {{ ref('stg') }}", "WHERE"),
        ("select distinct id, email, plan from {{ ref('stg') }} where active", "DISTINCT"),
        ("select id, email, plan from {{ ref('stg') }} where active limit 5", "LIMIT"),
        ("select s.id, s.email, s.plan from {{ ref('stg') }} s join {{ ref('stg') }} t on s.id = t.id", "JOIN"),
        ("select id, email, plan from {{ ref('stg') }} where active union all select 1, '', ''", "set operation"),
    ],
)
def test_filters_and_grain_are_warnings(sql: str, clause: str) -> None:
    findings = [f for f in run(project(), project(customers=customers(sql))).findings if f.rule == "rows-changed"]
    assert [f.level for f in findings] == [Level.WARNING]
    assert clause in findings[0].message


def test_a_filter_upstream_is_reported_with_its_model() -> None:
    finding = only(run(project(), project(stg=STG + " where not active")))
    assert (finding.rule, finding.message.endswith("WHERE in stg")) == ("rows-changed", True)


@pytest.mark.parametrize("macro", ["{{ columns_of('stg') }}", "{{ dbt_utils.star(ref('stg')) }}"])
def test_unreadable_sql_needs_review_and_is_never_safe(macro: str) -> None:
    base, head = (
        project(customers=customers(f"select {macro}{more} from {{{{ ref('stg') }}}}")) for more in ("", ", 1 as one")
    )
    report = run(base, head)
    assert (report.conclusion, [f.rule for f in report.findings]) == (
        "needs review",
        ["column-unverified", "rows-changed"],
    )


def test_unreadable_unchanged_sql_is_safe_until_one_of_its_macros_changes() -> None:
    opaque = customers("select {{ all_of() }} from {{ ref('stg') }}", macros=["macro.shop.all_of"])
    base, same, other = (project(customers=opaque, macros={"macro.shop.all_of": text}) for text in ("*", "*", "id"))
    assert run(base, same).findings == ()
    assert run(base, other).conclusion == "needs review"


def test_a_changed_variable_makes_models_that_read_it_unknown() -> None:
    opaque = manifest(customers("select {{ var('columns') }} from {{ ref('stg') }}"))
    base, head = (ProjectVersion(opaque, variables={"columns": text}) for text in ("id, email", "id"))
    assert run(base, head).conclusion == "needs review"
    assert run(base, ProjectVersion(opaque, variables={"columns": "id, email"})).conclusion == "passed"


def test_a_documented_column_proves_nothing_when_the_changed_sql_cannot_be_read() -> None:
    base, head = (
        project(customers=customers(f"select {{{{ f({n}) }}}} from {{{{ ref('stg') }}}}", columns={"email": "text"}))
        for n in (1, 2)
    )
    assert run(base, head).conclusion == "needs review"


def test_a_contract_proves_columns_even_when_the_sql_cannot_be_read() -> None:
    promised = {"id": "integer", "email": "varchar"}
    base, head, gone = (
        project(customers=customers(f"select {{{{ f({n}) }}}}", columns=columns, contract=True))
        for n, columns in ((1, promised), (2, promised), (2, {"id": "integer"}))
    )
    assert {f.level for f in run(base, head).findings} == {Level.WARNING}
    assert run(base, gone).conclusion == "failed"


def test_catalog_json_proves_only_the_columns_of_the_run_that_wrote_it() -> None:
    def at(n: int, columns: list[str], made_by: str) -> ProjectVersion:
        entry = {"columns": {c: {"name": c, "type": "VARCHAR", "index": i} for i, c in enumerate(columns)}}
        catalog = {"metadata": {"invocation_id": made_by}, "nodes": {"model.shop.customers": entry}}
        nodes = (customers(f"select {{{{ f({n}) }}}}"), *keyed("customers"))
        return ProjectVersion(manifest(*nodes, invocation="run"), catalog_file=catalog)

    base = at(1, ["id", "email"], "run")
    assert run(base, at(2, ["id", "email"], "run")).of(Level.REVIEW) == []
    assert run(base, at(2, ["id"], "run")).conclusion == "failed"
    assert run(base, at(2, ["id", "email"], "yesterday")).conclusion == "needs review"


def test_compiled_sql_is_read_if_both_versions_have_it() -> None:
    def at(sql: str) -> ProjectVersion:
        node = customers("select {{ f() }}", compiled=sql)
        stg = model("stg", "select {{ g() }}", compiled="select 1 as id, 'x' as email")
        return side(stg, node, *keyed("customers"))

    head = at('select id from "db"."main"."stg"')
    assert only(run(at('select id, email from "db"."main"."stg"'), head)).rule == "column-missing"


def test_compiled_sql_does_not_depend_on_the_target() -> None:
    def at(schema: str) -> ProjectVersion:
        stg = model("stg", compiled="select 1 as id, 'x' as email", schema=schema)
        sql = f'select id, email from "db"."{schema}"."stg"'
        return side(stg, customers("select {{ f() }}", compiled=sql, schema=schema), *keyed("customers"))

    finding = only(run(at("prod"), at("ci_17")))
    assert (finding.rule, finding.level) == ("relation-moved", Level.REVIEW)
    assert "different targets" in finding.message


def test_a_model_is_missing_renamed_or_disabled() -> None:
    base = project()
    stg, people = model("stg", STG, parents=["source.shop.raw.people"]), source("people")
    missing = only(run(base, side(people, stg)))
    assert (missing.rule, missing.level) == ("model-missing", Level.BREAKING)
    renamed = only(run(base, side(people, stg, model("dim_customers", SQL, parents=["stg"]))))
    assert "probably renamed to dim_customers" in renamed.message
    disabled = only(run(base, side(people, stg, disabled=["model.shop.customers"])))
    assert disabled.rule == "model-disabled"


def test_a_moved_relation_is_reported_and_quoting_alone_is_not_a_move() -> None:
    moved = only(run(project(), project(customers=customers(schema="marts"))))
    assert (moved.rule, moved.level) == ("relation-moved", Level.BREAKING)
    unquoted = customers(relation_name="db.main.customers")
    assert run(project(), project(customers=unquoted)).findings == ()


def test_quoting_is_a_move_if_the_warehouse_folds_case() -> None:
    def at(relation: str) -> ProjectVersion:
        return project(customers=customers(relation_name=relation), adapter="snowflake")

    assert run(at("db.main.customers"), at('"DB"."MAIN"."CUSTOMERS"')).findings == ()
    assert only(run(at("db.main.customers"), at('"db"."main"."customers"'))).rule == "relation-moved"


def test_versions() -> None:
    def at(latest: int, *versions: int, deprecated: str | None = None) -> ProjectVersion:
        nodes = [
            model("customers", "select 1 as id, 'x' as email", version=v, latest=latest, deprecation_date=deprecated)
            for v in versions
        ]
        tests = [test for v in versions for test in keyed(f"customers.v{v}")]
        return side(*nodes, *tests)

    pinned = sync(model="customers.v1")
    assert only(run(at(1, 1, 2), at(2, 1, 2))).rule == "version-bumped"
    assert run(at(1, 1, 2), at(2, 1, 2), pinned).findings == ()
    assert only(run(at(2, 1, 2), at(2, 2), pinned)).rule == "model-missing"
    soon = only(run(at(1, 1), at(1, 1, deprecated="2026-08-01T00:00:00+00:00")))
    past = only(run(at(1, 1), at(1, 1, deprecated="2026-06-01")))
    assert [(f.rule, f.level) for f in (soon, past)] == [
        ("model-deprecated", Level.WARNING),
        ("model-deprecated", Level.BREAKING),
    ]


def test_made_private_or_ephemeral() -> None:
    private = only(run(project(), project(customers=customers(access="private"))))
    assert (private.rule, private.level) == ("access-private", Level.BREAKING)
    ephemeral = only(run(project(), project(customers=customers(materialized="ephemeral"))))
    assert (ephemeral.rule, ephemeral.level) == ("ephemeral", Level.BREAKING)
    view = only(run(project(), project(customers=customers(materialized="view"))))
    assert (view.rule, view.level) == ("materialization", Level.WARNING)


def test_a_key_that_dbt_knew_and_its_tests() -> None:
    none = only(run(project(), project(tests=[])))
    assert (none.rule, none.level) == ("key-changed", Level.BREAKING)
    explicit = sync(primary_key="id")
    lost = only(run(project(), project(tests=[data_test("unique", "customers", "id")]), explicit))
    assert (lost.rule, lost.level) == ("key-test-removed", Level.BREAKING)
    assert "id is never null" in lost.message
    assert run(project(), project(), explicit).findings == ()
    table = sync(model={"table": "shop.customers"}, primary_key=None, mode="append")  # takes no key from dbt
    assert run(project(), project(tests=[]), table).findings == ()


def test_a_contract_weakened() -> None:
    def at(columns: dict[str, str], *, contract: bool = True, **constraints: list[str]) -> ProjectVersion:
        return project(customers=customers(columns=columns, contract=contract, constraints=constraints))

    full = {"id": "integer", "email": "varchar", "plan": "varchar"}
    off = run(at(full), at(full, contract=False))
    assert [(f.rule, f.level) for f in off.findings] == [("contract-broken", Level.BREAKING)]
    unused = run(at(full), at({"id": "integer", "email": "varchar"}))
    assert [(f.level, f.contract) for f in unused.findings] == [(Level.WARNING, True)]
    wider = run(at(full), at({**full, "email": "text"}))
    assert [f.column for f in wider.findings] == ["email"]
    constraint = run(at(full, email=["not_null"]), at(full))
    assert [f.level for f in constraint.findings] == [Level.BREAKING]


def test_policies() -> None:
    documented = project(customers=customers(description="who pays"))
    assert run(project(), documented).findings == ()
    assert only(run(project(), documented, policy="any_change")).level == Level.BREAKING
    gone = project(customers=customers("select id from {{ ref('stg') }} where active"))
    assert run(project(), gone, policy="contract").conclusion == "passed"
    columns = {"id": "integer", "email": "varchar"}
    promised, broken = (project(customers=customers(columns=c, contract=True)) for c in (columns, {"email": "varchar"}))
    assert run(promised, broken, sync(primary_key="email"), policy="contract").conclusion == "failed"


def test_syncs_that_this_project_does_not_feed() -> None:
    report = run(
        project(),
        project(),
        sync(name="a", model={"table": "other.thing"}),
        sync(name="b", model={"sql": "select 1 as email"}),
        sync(name="c", model="finance.invoices"),
    )
    assert (report.conclusion, sorted(report.unrelated)) == ("passed", ["a", "b", "c"])
    assert only(run(project(), project(), sync(model="custmers"))).todo == "did you mean customers?"


@pytest.mark.parametrize(
    "name", [{"table": "main.customers"}, {"sql": "select lower(email) as email from main.customers where id > 5"}]
)
def test_a_table_or_a_query_is_recognised_as_the_model_behind_it(name: dict[str, str]) -> None:
    head = project(customers=customers("select id, plan from {{ ref('stg') }} where active"))
    assert only(run(project(), head, sync(model=name, primary_key="id"))).column == "email"


def test_columns_in_expressions_and_templates_count() -> None:
    mapping = {"a": {"sql": "upper(email)"}, "b": {"template": "{{ row['plan'] }}"}, "c": {"value": 1}}
    head = project(customers=customers("select id from {{ ref('stg') }} where active"))
    report = run(project(), head, sync(mapping=mapping))
    assert sorted(f.column or "" for f in report.findings) == ["email", "plan"]


def test_an_expression_that_cannot_be_read_needs_review_when_the_model_changes() -> None:
    odd = sync(mapping={"a": {"sql": "upper(((email"}})
    assert run(project(), project(), odd).findings == ()
    assert only(run(project(), project(stg=STG.replace("plan,", "plan, 1 as one,")), odd)).rule == "sync-unread"


def engine_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest, without its marks in ``meta.reverse_etl``, which are not valid syncs."""
    content: dict[str, Any] = json.loads(path.read_text())
    for node in content["nodes"].values():
        for place in (node, node["config"]):
            (place.get("meta") or {}).pop("reverse_etl", None)
    return content


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_of_every_engine(path: Path) -> None:
    """Apply one edit to v10 to v12 and Fusion, and expect one finding."""
    before = engine_manifest(path)
    after = copy.deepcopy(before)
    node = after["nodes"]["model.jaffle.stg_orders"]
    node["raw_code"] = node["raw_code"].replace("status,", "upper(status) as state,")
    orders = sync(name="orders", model="orders", mapping={"a": "status", "b": "amount"})
    stable = sync(name="people", model="customers.v1", mapping={"email": "email"})
    assert run(ProjectVersion(before), ProjectVersion(before), orders, stable).findings == ()
    finding = only(run(ProjectVersion(before), ProjectVersion(after), orders, stable))
    assert (finding.rule, finding.sync, finding.column) == ("column-missing", "orders", "status")


def test_a_manifest_of_another_engine_is_not_a_change() -> None:
    """Compare a base of dbt 1.7 with a head of Fusion, for which dbt itself reports a breaking change."""
    paths = (MANIFESTS[0].parent / name for name in ("v11-1.7.20.json", "v12-fusion-rc196.json"))
    sides = [ProjectVersion(engine_manifest(path)) for path in paths]
    syncs = [sync(name=m, model=m, mapping={"x": "customer_id"}) for m in ("customers.v1", "customers.v2", "orders")]
    assert run(*sides, *syncs).findings == ()
