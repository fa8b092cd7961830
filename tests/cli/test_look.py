"""The commands that look at a project, a destination, connections and the installation."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Desk
from tests.cli.process import Program
from tests.dbt.projects import keyed, manifest, model

SYNC = """\
name: customers_to_crm
model: customers
source: warehouse
destination: {type: file, url: out}
mapping: {email: email}
"""


def project(folder: Path) -> str:
    found = manifest(model("customers", "select 1 as id"), model("orders", "select 1"), *keyed("customers"))
    (folder / "manifest.json").write_text(json.dumps(found))
    (folder / "crm.yaml").write_text(SYNC)
    return str(folder / "manifest.json")


@pytest.mark.long
def test_models_have_their_key_and_the_syncs_that_read_them(tmp_path: Path) -> None:
    program = Program(tmp_path, blocked=("airflow",))
    options = ["--project", project(tmp_path), "--syncs", "crm.yaml"]
    customers, orders = program.json("models", *options)
    assert (customers["name"], customers["primary_key"], customers["key_known_from"]) == ("customers", ["id"], "tests")
    assert (customers["syncs"], orders["syncs"], orders["primary_key"]) == (["customers_to_crm"], [], [])
    described = program.run("models", "customers", *options).stdout
    assert "primary key: id (known from: tests)" in described
    assert "read by: customers_to_crm" in described
    done = program.run("models", "custmers", *options)
    assert done.returncode == 2
    assert "did you mean customers" in done.stderr


@pytest.mark.airflow
class TestWithConnections:
    @pytest.mark.long
    def test_the_first_rows_of_a_model_are_values(self, desk: Desk) -> None:
        found = manifest(model("customers", "select 1 as id"), *keyed("customers"))
        for node in found["nodes"].values():
            if node["resource_type"] == "model":
                node["relation_name"] = "customers"
        (desk.folder / "manifest.json").write_text(json.dumps(found))
        ask = ["models", "customers", "--project", "manifest.json", "--rows", "2", "--connection", "warehouse"]
        assert "--values" in desk.program.json(*ask, code=2)["todo"]
        assert [row["id"] for row in desk.program.json(*ask, "--values")["rows"]] == [1, 2]

    @pytest.mark.long
    def test_fields_show_what_is_mapped_to_them(self, desk: Desk) -> None:
        database = desk.folder / "app.db"
        connection = sqlite3.connect(database)
        connection.execute("CREATE TABLE contacts (id INTEGER PRIMARY KEY, email TEXT, plan TEXT, phone TEXT)")
        connection.close()
        desk.environment["AIRFLOW_CONN_APP"] = json.dumps({"conn_type": "sqlite", "host": str(database)})
        destination = {"type": "table", "connection": "app", "object": "contacts", "match_on": "id"}
        desk.sync(destination=destination, mapping={"id": "id", "email": "email", "plan": {"value": "free"}})
        fields = desk.program.json("fields", "contacts.yaml")["fields"]
        found = {field["name"]: field["mapped_from"] for field in fields}
        assert found == {"id": "id", "email": "email", "plan": "{value: …}", "phone": None}

    def test_a_destination_without_a_description_says_so(self, desk: Desk) -> None:
        assert "do not describe their fields" in desk.program.json("fields", "contacts.yaml", code=2)["message"]

    def test_connections_are_tested(self, desk: Desk) -> None:
        warehouse, nowhere = desk.program.json("connections", "test", "warehouse", "nowhere", code=1)
        assert (warehouse["ok"], nowhere["ok"]) == (True, False)
        assert "not found" in nowhere["message"]

    def test_a_sound_installation_passes(self, desk: Desk) -> None:
        found = {check["check"]: check["status"] for check in desk.program.json("doctor")}
        assert (found["settings"], found["state"], found["destination http"]) == ("ok", "ok", "ok")
        assert [path for path in (desk.folder / "state").rglob("*") if path.is_file()] == []

    def test_the_connections_of_syncs_are_tested_once_each(self, desk: Desk) -> None:
        desk.sync("other")
        desk.sync("lost", source="nowhere")
        (desk.folder / "broken.yaml").write_text("name: broken\n")
        checks = desk.program.json("doctor", "--syncs", ".", code=1)
        found = [(check["check"], check["status"]) for check in checks]
        assert found.count(("connection warehouse", "ok")) == 1
        assert ("connection nowhere", "failed") in found
        assert any(name.startswith("sync ") and "broken.yaml" in name for name, status in found if status == "failed")

    def test_a_wrong_setting_is_found(self, desk: Desk) -> None:
        desk.environment["AIRFLOW__REVERSE_ETL__HISTORY_DAYS"] = "many"
        found = {check["check"]: check for check in desk.program.json("doctor", code=1)}
        assert found["settings"]["status"] == "failed"
        assert "history_days is 'many'" in found["settings"]["message"]

    @pytest.mark.slow
    def test_connections_of_the_installations_database_are_found(self, desk: Desk) -> None:
        del desk.environment["AIRFLOW_CONN_WAREHOUSE"]
        file = str(desk.folder / "warehouse.duckdb")
        add = ["connections", "add", "warehouse", "--conn-type", "duckdb", "--conn-host", file]
        subprocess.run([sys.executable, "-m", "airflow", *add], check=True, capture_output=True)
        try:
            assert desk.process.json("plan", "contacts.yaml")["planned"]["added"] == 3
        finally:
            remove = ["connections", "delete", "warehouse"]
            subprocess.run([sys.executable, "-m", "airflow", *remove], check=True, capture_output=True)
