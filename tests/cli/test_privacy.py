"""The privacy policy in the commands: ``validate`` and ``check`` with a real dbt project, ``run``, ``models``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Desk
from tests.cli.process import Program

SYNC = """\
name: customers_to_crm
model: customers
source: warehouse
destination: {type: file, connection: partner, url: out}
mapping:
  id: id
  contact: mail
"""
FILES = {
    "dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: shop\n",
    "models/schema.yml": """\
version: 2
models:
  - name: stg_users
    columns:
      - name: email
        config:
          tags: ["pii:email"]
  - name: customers
    columns:
      - name: id
        data_tests: [unique, not_null]
""",
    "models/stg_users.sql": "select 1 as id, 'x' as email",
    "models/customers.sql": "select id, email as mail from {{ ref('stg_users') }} union all select 2, 'y'",
    "syncs/customers.yaml": SYNC,
    "profiles.yml": "shop: {target: dev, outputs: {dev: {type: duckdb, path: warehouse.duckdb}}}\n",
    "privacy.yaml": "destinations:\n  - {connection: partner, allow: hashed email}\n",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    dbt = Path(sys.executable).with_name("dbt")
    subprocess.run([dbt, "parse", "--profiles-dir", "."], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.mark.long
def test_validate_check_and_models_know_the_marks_of_a_real_project(shop: Path) -> None:
    program = Program(shop, blocked=("airflow", "duckdb", "pyarrow", "aiohttp", "deltalake"))
    done = program.run("validate", "syncs", "--privacy-policy", "privacy.yaml")
    assert done.returncode == 1, done.stderr
    expected = (
        "syncs/customers.yaml:7: mapping.contact sends column mail to file (connection partner), and column mail is "
        "marked 'email' (column email of stg_users, models/schema.yml:7); send its hash: {column: …, hash: sha256}; "
        "or remove the field, or allow 'email' in privacy.yaml, which allows hashed email there"
    )
    assert expected in done.stdout
    report = ("check", "--base", ".", "--syncs", "syncs", "--privacy-policy", "privacy.yaml")
    checked = program.json(*report, code=1)
    [found] = checked["findings"]
    assert (found["rule"], found["column"], found["places"][0]) == (
        "privacy",
        "mail",
        {"file": "syncs/customers.yaml", "line": 7},
    )
    assert program.json("models", "customers")["marks"] == {"mail": ["email"]}
    assert [line.split()[-1] for line in program.run("models").stdout.splitlines()[-2:]] == ["email", "email"]

    # The policy of Airflow's environment counts without the option, and a hash may go.
    (shop / "syncs" / "customers.yaml").write_text(SYNC.replace("mail", "{column: mail, hash: sha256}"))
    program = Program(shop, AIRFLOW__REVERSE_ETL__PRIVACY_POLICY="privacy.yaml")
    done = program.run("validate", "syncs")
    assert (done.returncode, "checked: file, model, privacy" in done.stdout) == (0, True), done.stdout
    assert program.run(*report[:5]).returncode == 0


@pytest.mark.airflow
class TestRun:
    def test_a_run_of_the_terminal_obeys_the_policy(self, desk: Desk) -> None:
        (desk.folder / "privacy.yaml").write_text("unknown: deny\n")
        desk.environment["AIRFLOW__REVERSE_ETL__PRIVACY_POLICY"] = str(desk.folder / "privacy.yaml")
        for command in ("run", "plan"):
            found = desk.program.json(command, "contacts.yaml", code=2)
            assert "privacy policy" in str(found), found
        assert desk.sent() == []
        (desk.folder / "privacy.yaml").write_text("unknown: allow\n")
        assert desk.program.json("run", "contacts.yaml")["accepted"] == 3

    def test_a_sync_is_not_judged_without_its_project_or_its_connection(self, desk: Desk) -> None:
        (desk.folder / "privacy.yaml").write_text("unknown: deny\n")
        desk.sync("modelled", model="customers")
        to: dict[str, Any] = {"type": "file", "connection": "{{ var.value.to }}", "url": "out"}
        desk.sync("rendered", destination=to, templated=True)
        files = ("modelled.yaml", "rendered.yaml")
        found = desk.program.json("validate", *files, "--privacy-policy", "privacy.yaml")
        assert ["privacy" in "".join(one["unchecked"]) for one in found["syncs"]] == [True, True]
