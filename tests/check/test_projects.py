"""Tests of the check on projects in the shape of real ones: a package with its integration tests, a monorepo, and 300
models on Snowflake."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from airflow_reverse_etl.check.check import check_project
from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.check.project.loader import ProjectLoader
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.cli.main import main
from airflow_reverse_etl.spec.folders.reading import SyncSource, read_syncs
from tests.check.snowflake_project import MODELS, Names, snowflake_project, snowflake_syncs

PROJECTS = Path(__file__).parent / "projects"
TODAY = date(2026, 7, 1)

#: A file of the project, a text in it, and what replaces the text. Without a text, the file moves to another name.
Edit = tuple[str, str, str]


def committed(project: str, folder: Path) -> None:
    """Copy a project into a Git repository."""
    shutil.copytree(PROJECTS / project, folder)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet", "--initial-branch=main"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@contextmanager
def edited(folder: Path, edits: Sequence[Edit]) -> Iterator[None]:
    """Edit files, and restore them in the end."""
    originals = {file: (folder / file).read_text() for file, _, _ in edits}
    for file, before, after in edits:
        assert before in originals[file], file
        if before:
            (folder / file).write_text(originals[file].replace(before, after))
        else:
            (folder / after).parent.mkdir(exist_ok=True)
            (folder / file).rename(folder / after)
    yield
    for file, before, after in edits:
        if not before:
            (folder / after).unlink()
        (folder / file).write_text(originals[file])


def verdicts(report: CheckReport) -> dict[str, str]:
    """Return the worst level of each sync, with its rule."""
    worst: dict[str, str] = {}
    for finding in report.findings:  # the worst come first
        worst.setdefault(finding.sync, f"{finding.level.value}: {finding.rule}")
    return worst


def checked(folder: Path, project: str, syncs: str, base: ProjectVersion) -> CheckReport:
    """Check the files of a folder."""
    sources, errors = read_syncs(folder / syncs)
    assert not errors
    return check_project(sources, base, ProjectLoader(project).load(str(folder)), today=TODAY)


@pytest.mark.slow
def test_a_package_with_integration_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check its project of tests, whose base is a ref: dbt parses it with the package above it."""
    folder = tmp_path / "package"
    committed("package", folder)
    monkeypatch.chdir(folder)
    base = ProjectLoader("integration_tests").load("main")
    said = {}
    for name, edits in PACKAGE.items():
        with edited(folder, edits):
            said[name] = verdicts(checked(folder, "integration_tests", "integration_tests/syncs", base))
    assert said == PACKAGE_VERDICTS


ORDERS = "models/marts/customer_orders.sql"
STAGING = "models/staging/stg_orders.sql"
REORDERED = "    cast(amount as integer) as amount,\n    customer_id,\n"
PACKAGE: dict[str, list[Edit]] = {
    "nothing": [],
    "a comment in a macro": [("macros/clean_email.sql", "Emails are", "All emails are")],
    "another macro": [("macros/clean_email.sql", "lower(trim({{", "upper(trim({{")],
    "a column is renamed": [(ORDERS, " as order_count,\n    cast", " as orders,\n    cast")],
    "a column is dropped": [(ORDERS, "    cast(totals.order_total as integer) as order_total,\n", "")],
    "a column is recased": [(ORDERS, " as order_count,\n    cast", " as Order_Count,\n    cast")],
    "columns are reordered": [(STAGING, "    customer_id,\n    cast(amount as integer) as amount,\n", REORDERED)],
    "a file is moved": [(ORDERS, "", "models/marts/orders/customer_orders.sql")],
    "a cursor is renamed upstream": [(STAGING, " as ordered_on", " as ordered_at")],
    "a type": [(ORDERS, "cast(totals.order_total as integer)", "cast(totals.order_total as varchar)")],
    "a filter": [(ORDERS, "order_total > 0", "order_total >= 0")],
    "a CTE is renamed": [(ORDERS, "totals", "sums")],
    "a variable of the project of tests": [("integration_tests/dbt_project.yml", "crm_seeds\n\nseeds", "crm\n\nseeds")],
    "a seed": [("integration_tests/seeds/orders.csv", "1,1,20", "1,1,30")],
    "no table any more": [("dbt_project.yml", "+materialized: table", "+materialized: ephemeral")],
    "a description": [("models/marts/schema.yml", "One row a customer.\n", "All.\n")],
}
UNREAD = {"metrics_to_crm": "needs review: column-unverified"}  # dbt has only parsed its SQL, which calls var
PACKAGE_VERDICTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "a comment in a macro": {},
    "another macro": UNREAD,
    "a column is renamed": {"orders_to_crm": "breaking: column-missing", **UNREAD},
    "a column is dropped": {"orders_to_crm": "breaking: column-missing", **UNREAD},
    "a column is recased": UNREAD,
    "columns are reordered": UNREAD,
    "a file is moved": {},
    "a cursor is renamed upstream": dict.fromkeys(("metrics_to_crm", "orders_to_crm"), "breaking: column-missing"),
    "a type": {"orders_to_crm": "breaking: column-type", **UNREAD},
    "a filter": {"orders_to_crm": "warning: rows-changed", **UNREAD},
    "a CTE is renamed": UNREAD,
    "a variable of the project of tests": {"orders_to_crm": "needs review: column-meaning", **UNREAD},
    "a seed": {},
    "no table any more": dict.fromkeys(("metrics_to_crm", "orders_to_crm"), "breaking: ephemeral"),
    "a description": {},
}


@pytest.mark.slow
def test_a_monorepo_with_two_projects_and_a_shared_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check both projects for each change: the shared package is a part of both."""
    folder = tmp_path / "monorepo"
    committed("monorepo", folder)
    monkeypatch.chdir(folder)
    bases = {name: ProjectLoader(name).load("main") for name in ("shop", "finance")}
    said = {}
    for name, edits in MONOREPO.items():
        said[name] = {}
        with edited(folder, edits):
            for project, base in bases.items():
                said[name] |= verdicts(checked(folder, project, f"syncs/{project}", base))
    assert said == MONOREPO_VERDICTS


@pytest.mark.slow
def test_the_command_checks_one_project_of_a_monorepo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "monorepo"
    committed("monorepo", folder)
    monkeypatch.chdir(folder)
    with edited(folder, MONOREPO["a column that one project uses is dropped"]):
        assert main(["check", "--base", "main", "--project-path", "shop", "--syncs", "syncs/shop"]) == 1
        assert main(["check", "--base", "main", "--project-path", "finance", "--syncs", "syncs/finance"]) == 0


SHARED = "shared/models/stg_accounts.sql"
MONOREPO: dict[str, list[Edit]] = {
    "nothing": [],
    "a column that one project uses is dropped": [(SHARED, "    cast(owner as varchar) as owner,\n", "")],
    "a filter for both": [(SHARED, "source('erp', 'accounts') }}", "source('erp', 'accounts') }} where id > 0")],
    "a macro that no sync's model calls": [("shared/macros/cents.sql", "100.0", "1000.0")],
    "a model of one project": [("finance/models/owners.sql", "account_id, name", "account_id, name as title")],
    "a column that nobody uses is renamed": [(SHARED, " as balance_cents", " as cents")],
}
MONOREPO_VERDICTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "a column that one project uses is dropped": {"accounts_to_crm": "breaking: column-missing"},
    "a filter for both": dict.fromkeys(("accounts_to_crm", "owners_to_billing"), "warning: rows-changed"),
    "a macro that no sync's model calls": {},
    "a model of one project": {"owners_to_billing": "breaking: column-missing"},
    "a column that nobody uses is renamed": {},
}


@pytest.fixture(scope="module")
def syncs() -> list[SyncSource]:
    return snowflake_syncs()


def test_300_models_on_snowflake(syncs: list[SyncSource]) -> None:
    base = snowflake_project()
    assert len(base.models) == MODELS
    report = check_project(syncs, base, snowflake_project(), today=TODAY)
    assert (report.conclusion, report.findings) == ("passed", ())


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "names", "expected"),
    [
        (lambda sql: sql.replace("AS EMAIL", "AS email"), lambda n: n.staging, set()),
        (lambda sql: sql.replace("AS EMAIL", 'AS "EMAIL"'), lambda n: n.staging, set()),
        (lambda sql: sql.replace("AS EMAIL", 'AS "Email"'), lambda n: n.staging, {"breaking"}),
        (lambda sql: sql.replace("AS EMAIL", "AS MAIL"), lambda n: n.staging, {"breaking"}),
        (lambda sql: sql.replace("::NUMBER(18, 2)", "::NUMBER(38, 2)"), lambda n: n.staging, {"warning"}),
        (lambda sql: sql.replace("::NUMBER(18, 2)", "::VARCHAR"), lambda n: n.staging, {"breaking"}),
        (lambda sql: sql.replace("QUALIFY", "-- the latest\nQUALIFY"), lambda n: n.staging, set()),
        (lambda sql: sql.replace("DESC) = 1", ") = 1"), lambda n: n.staging, {"warning"}),
        (lambda sql: sql.replace("LEFT JOIN", "INNER JOIN"), lambda n: n.mart, {"warning"}),
        (lambda sql: f"WITH final AS (\n{sql}\n) SELECT * FROM final", lambda n: n.mart, set()),
    ],
)
def test_a_change_of_one_of_300_models_concerns_what_reads_it(
    syncs: list[SyncSource], change: Callable[[str], str], names: Callable[[Names], str], expected: set[str]
) -> None:
    """Change the staging model, or the mart, of one subject. Only its sync and the next may have findings."""
    subject = Names(7)
    report = check_project(syncs, snowflake_project(), snowflake_project({names(subject): change}), today=TODAY)
    worst = {verdict.partition(":")[0] for verdict in verdicts(report).values()}
    assert worst == expected, [finding.message for finding in report.findings]
    assert {finding.sync for finding in report.findings} <= {subject.sync, Names(8).sync}
