"""The command ``reverse-etl validate``."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Desk
from tests.cli.process import Program
from tests.dbt.projects import keyed, manifest, model

SYNC = """\
name: customers_to_crm
model: customers
source: warehouse
destination: {type: file, url: out}
mapping:
  email: email
"""


def project(folder: Path) -> str:
    path = folder / "manifest.json"
    found = manifest(model("customers", "select 1 as id, 'x' as email"), *keyed("customers"))
    path.write_text(json.dumps(found))
    return str(path)


def test_files_are_checked_with_airflow_and_drivers_blocked(tmp_path: Path) -> None:
    program = Program(tmp_path, blocked=("airflow", "duckdb", "pyarrow", "aiohttp", "deltalake"))
    (tmp_path / "good.yaml").write_text(SYNC)
    done = program.run("validate", ".")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "good.yaml: valid; checked: file",
        "  - not checked: model: pass the dbt project as --project",
        "1 checked: 1 valid, 0 not valid",
    ]
    (tmp_path / "bad.yml").write_text(SYNC.replace("mapping:", "nulls: maybe\nmaping:").replace("url: out", "uri: out"))
    done = program.run("validate", ".")
    assert done.returncode == 1
    problems = [line for line in done.stdout.splitlines() if line.startswith("  - bad.yml:")]
    assert len(problems) >= 4
    assert "did you mean 'mapping'" in done.stdout
    assert "1 valid, 1 not valid" in done.stdout


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: [")
    (tmp_path / "b.yaml").write_text(SYNC)
    found = Program(tmp_path).json("validate", "a.yaml", "b.yaml", code=1)
    assert [(one["file"], one["valid"]) for one in found["syncs"]] == [("a.yaml", False), ("b.yaml", True)]


def test_two_syncs_must_not_share_a_name_as_they_would_share_state(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(SYNC)
    done = Program(tmp_path).run("validate", ".")
    assert done.returncode == 1
    assert "b.yaml:1: name: 'customers_to_crm' is the name of a.yaml:1, too" in done.stdout


def test_models_are_looked_up_in_the_dbt_project(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(SYNC)
    (tmp_path / "bad.yaml").write_text(SYNC.replace("model: customers", "model: custmers").replace("_to_crm", ""))
    program = Program(tmp_path, blocked=("airflow",))
    bad, good = program.json("validate", ".", "--project", project(tmp_path), code=1)["syncs"]
    assert good["checked"] == ["file", "model"]
    (problem,) = bad["problems"]
    assert problem.startswith("bad.yaml:2: the model was not found in the dbt project; did you mean customers")


@pytest.mark.parametrize(("arguments", "said"), [(("nowhere",), "not found"), ((".",), "no syncs found")])
def test_nothing_to_check_is_not_a_pass(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = Program(tmp_path).run("validate", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.airflow
class TestConnected:
    def app(self, desk: Desk) -> dict[str, Any]:
        database = desk.folder / "app.db"
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE contacts (id INTEGER PRIMARY KEY, email TEXT, plan TEXT)")
        connection.close()
        desk.environment["AIRFLOW_CONN_APP"] = json.dumps({"conn_type": "sqlite", "host": str(database)})
        return {"type": "table", "connection": "app", "object": "contacts", "match_on": "id"}

    def test_columns_and_fields_are_asked_for(self, desk: Desk) -> None:
        app = self.app(desk)
        desk.sync(destination=app)
        (found,) = desk.program.json("validate", "contacts.yaml", "--connect")["syncs"]
        assert found["checked"] == ["file", "model", "columns", "fields"]
        desk.sync(destination=app, mapping={"id": "id", "emial": "email", "plan": "tariff"})
        (found,) = desk.program.json("validate", "contacts.yaml", "--connect", code=1)["syncs"]
        column, mapped = found["problems"]
        assert "tariff" in column
        assert "mapping.emial" in mapped
        assert "did you mean 'email'?" in mapped
        assert not (desk.folder / "state").exists()  # nothing was planned

    def test_what_cannot_be_reached_is_named_and_fails_nothing(self, desk: Desk) -> None:
        desk.sync(source="elsewhere")
        (found,) = desk.program.json("validate", "contacts.yaml", "--connect")["syncs"]
        assert found["checked"] == ["file", "model"]
        assert "columns: Airflow connection not found" in found["unchecked"][0]
