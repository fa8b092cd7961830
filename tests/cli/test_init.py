"""``reverse-etl init`` writes a sync and a DAG that run, and never overwrites a file unasked."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_reverse_etl.cli.init_files import match
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.ports import ObjectField, ObjectSchema
from dags_examples.demo.shop import CUSTOMERS, Repository, Warehouse
from tests.cli.process import ROOT, Calls
from tests.servers.threads import in_thread
from tests.servers.vendors.hubspot import TOKEN, HubSpot

pytestmark = pytest.mark.airflow

PROPERTY = {"description": "", "groupName": "a", "label": "", "type": "string", "fieldType": "text", "options": []}
NAMES = ("email", "firstname", "country", "phone")
METADATA = {
    "dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json",
    "project_name": "shop",
    "adapter_type": "duckdb",
}
FLAGS = ("--model", "customers", "--destination", "hubspot", "--object", "contacts", "--project", "manifest.json")


def manifest(*tests: str) -> dict[str, Any]:
    """The manifest of a project with the model ``customers``."""
    columns = {name: {"name": name} for name in ("customer_id", "email", "first_name", "Country")}
    model = {
        "unique_id": "model.shop.customers",
        "name": "customers",
        "resource_type": "model",
        "package_name": "shop",
        "database": "shop",
        "schema": "analytics",
        "alias": "customers",
        "relation_name": '"shop"."analytics"."customers"',
        "columns": columns,
        "config": {"materialized": "table"},
        "original_file_path": "models/customers.sql",
    }
    nodes: dict[str, Any] = {model["unique_id"]: model}
    for test in tests:
        nodes[f"test.shop.{test}"] = {
            "unique_id": f"test.shop.{test}",
            "name": test,
            "resource_type": "test",
            "package_name": "shop",
            "attached_node": model["unique_id"],
            "column_name": "customer_id",
            "test_metadata": {"name": test, "kwargs": {"column_name": "customer_id"}},
            "config": {"enabled": True},
            "depends_on": {"nodes": [model["unique_id"]]},
        }
    return {"metadata": METADATA, "nodes": nodes}


class Start:
    """A folder with a manifest, in which a person begins."""

    def __init__(self, folder: Path, server: HubSpot) -> None:
        self.folder = folder
        self.environment = {
            "AIRFLOW_CONN_HUBSPOT": json.dumps(
                {"conn_type": "reverse_etl_hubspot", "host": server.url, "password": TOKEN}
            )
        }
        self.project("unique", "not_null")

    def project(self, *tests: str) -> None:
        (self.folder / "manifest.json").write_text(json.dumps(manifest(*tests)))

    @property
    def program(self) -> Calls:
        return Calls(self.folder, **self.environment)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with in_thread(HubSpot(properties={"contacts": [{**PROPERTY, "name": name} for name in NAMES]})) as server:
        yield Start(tmp_path, server)


def test_columns_match_fields_exactly_or_else_without_case_and_punctuation() -> None:
    fields = [ObjectField("firstName"), ObjectField("e_mail"), ObjectField("id", writable=False)]
    fields += [ObjectField("plan", required=True), ObjectField("first_name")]
    found = match(["FIRST_NAME", "first_name", "email", "id"], ObjectSchema(fields))
    assert found.pairs == {"firstName": "FIRST_NAME", "e_mail": "email", "first_name": "first_name"}
    assert found.columns_left == ("id",)
    assert found.required_left == ("plan",)


def test_flags_write_a_sync_and_a_dag_and_list_what_to_set_up(start: Start) -> None:
    done = start.program.json("init", *FLAGS)
    sync = start.folder / "dags/syncs/contacts_to_hubspot.yaml"
    text = sync.read_text()
    assert yaml.safe_load(text) == {
        "name": "contacts_to_hubspot",
        "model": "customers",
        "source": "warehouse",
        "mode": "upsert",
        "destination": {"type": "hubspot", "connection": "hubspot", "object": "contacts", "match_on": "email"},
        "mapping": {"email": "email", "firstname": "first_name", "country": "Country"},
    }
    assert "# …: customer_id  # no field has this name" in text
    assert done["files"] == ["dags/syncs/contacts_to_hubspot.yaml", "dags/contacts_to_hubspot.py"]
    assert [one["connection"] for one in done["connections"]] == ["git_dbt", "warehouse", "hubspot"]
    assert "Private Apps" in done["connections"][2]["what to enter"]
    assert '"airflow-provider-reverse-etl[dbt,duckdb]" dbt-duckdb' in done["steps"][0]
    valid = start.program.run("validate", "dags/syncs", "--project", "manifest.json")
    assert valid.returncode == 0, valid.stdout


def test_a_file_is_overwritten_only_if_a_person_says_so(start: Start) -> None:
    assert start.program.run("init", *FLAGS).returncode == 0
    dag = start.folder / "dags/contacts_to_hubspot.py"
    (start.folder / "dags/syncs/contacts_to_hubspot.yaml").unlink()
    dag.write_text("mine")
    refused = start.program.run("init", *FLAGS)
    assert refused.returncode == 2
    assert "dags/contacts_to_hubspot.py" in refused.stderr
    assert "--force" in refused.stderr
    assert dag.read_text() == "mine"
    assert not (start.folder / "dags/syncs/contacts_to_hubspot.yaml").exists()
    assert start.program.run("init", *FLAGS, "--force").returncode == 0
    assert "def contacts_to_hubspot" in dag.read_text()


def test_all_flags_that_are_missing_are_named_where_nobody_can_be_asked(start: Start) -> None:
    done = start.program.run("init", "--project", "manifest.json", "--destination", "hubspot")
    assert done.returncode == 2
    assert "--model, --object" in done.stderr


def test_the_key_is_a_column_that_dbt_tests_to_be_unique_or_that_a_person_names(start: Start) -> None:
    start.project("unique")
    assert start.program.run("init", *FLAGS).returncode == 0
    sync = start.folder / "dags/syncs/contacts_to_hubspot.yaml"
    assert "primary_key" not in yaml.safe_load(sync.read_text())

    start.project()
    unknown = start.program.run("init", *FLAGS, "--force")
    assert unknown.returncode == 2
    assert "--primary-key" in unknown.stderr
    assert start.program.run("init", *FLAGS, "--force", "--primary-key", "customer_id").returncode == 0
    assert yaml.safe_load(sync.read_text())["primary_key"] == "customer_id"


def test_a_destination_that_cannot_be_asked_is_named(start: Start) -> None:
    """The connection does not have to exist yet."""
    del start.environment["AIRFLOW_CONN_HUBSPOT"]
    done = start.program.run("init", *FLAGS)
    assert done.returncode == 2
    assert "could not be asked" in done.stderr
    assert "create the connection 'hubspot'" in done.stderr
    written = start.program.json("init", *FLAGS, "--match-on", "email")
    assert any("could not be asked" in note for note in written["notes"])
    assert written["mapping"]["first_name"] == "first_name"


def test_a_type_without_fields_gets_each_column_and_the_options(start: Start) -> None:
    start.environment["AIRFLOW_CONN_CRM"] = json.dumps({"conn_type": "reverse_etl_http", "host": "http://127.0.0.1:9"})
    flags = ("--destination", "http", "--connection", "crm", "--option", "path=/v1/contacts", "--match-on", "email")
    done = start.program.run("init", "--model", "customers", "--project", "manifest.json", *flags)
    assert done.returncode == 0, done.stderr
    spec = yaml.safe_load((start.folder / "dags/syncs/customers_to_http.yaml").read_text())
    assert spec["destination"] == {"type": "http", "connection": "crm", "path": "/v1/contacts", "match_on": "email"}
    assert spec["mapping"] == {name: name for name in ("customer_id", "email", "first_name", "Country")}


@contextmanager
def terminal(folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[Any]:
    """The program on a terminal of its own; yields a function that waits for a question and answers it."""
    ours, theirs = pty.openpty()
    code = "import sys\nfrom airflow_reverse_etl.cli.main import main\nsys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "200", **environment},
    )
    os.close(theirs)
    printed = ""

    def answer(question: str | None, text: str = "") -> str:
        nonlocal printed
        while question is None or question not in printed:
            try:
                data = os.read(ours, 65536)
            except OSError:
                data = b""
            if not data:
                break
            printed += data.decode()
        assert question is None or question in printed, printed
        if question is None:
            assert process.wait(60) == 0, printed
            return printed
        printed = ""
        os.write(ours, f"{text}\n".encode())
        return printed

    try:
        yield answer
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.long
def test_a_terminal_asks_and_the_dag_sends_every_row(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    add_connection: Callable[..., None],
    state_url: Path,
    tmp_path: Path,
) -> None:
    shop = Warehouse(tmp_path / "shop.duckdb")
    repository = Repository(tmp_path / "repository")
    add_connection("warehouse", conn_type="duckdb", host=str(shop.path), schema="analytics")
    add_connection("git_dbt", conn_type="git", host=repository.path.as_uri(), extra={"allow_protocols": ["file"]})
    names = ("email", "firstname", "lifetimevalue")
    with ExitStack() as stack:
        server = stack.enter_context(
            in_thread(HubSpot(properties={"contacts": [{**PROPERTY, "name": name} for name in names]}))
        )
        add_connection("hubspot", conn_type="reverse_etl_hubspot", host=server.url, password=TOKEN)
        _make_manifest(repository.path / "analytics", shop.path)
        answer = stack.enter_context(
            terminal(repository.path / "analytics", {}, "init", "--dags", str(tmp_path / "dags"))
        )
        answer("Model", "customers")
        answer("Type of the destination", "hubspot")
        answer("Airflow connection of the destination")
        answer("Object or table of the destination", "contacts")
        assert "1. Install where Airflow runs" in answer(None)

        dag_run = run_dag(_load(tmp_path / "dags/contacts_to_hubspot.py"))
        report = xcom(dag_run, "sync")
    assert (report["accepted"], report["rejected"]) == (CUSTOMERS, 0)
    mapping = Sync.load(tmp_path / "dags/syncs/contacts_to_hubspot.yaml").mapping
    assert mapping == {"email": "email", "firstname": "first_name", "lifetimevalue": "lifetime_value"}
    assert 'project_path="analytics"' in (tmp_path / "dags/contacts_to_hubspot.py").read_text()


def _make_manifest(project: Path, warehouse: Path) -> None:
    """Let dbt parse the project, as it has been on a person's machine."""
    profiles = project.parent.parent / "profiles"
    profiles.mkdir()
    name = yaml.safe_load((project / "dbt_project.yml").read_text())["profile"]
    output = {"type": "duckdb", "path": str(warehouse), "schema": "analytics"}
    (profiles / "profiles.yml").write_text(yaml.safe_dump({name: {"target": "dev", "outputs": {"dev": output}}}))
    dbt = shutil.which("dbt") or str(Path(sys.executable).with_name("dbt"))
    command = [dbt, "--quiet", "parse", "--profiles-dir", str(profiles)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)


def _load(path: Path) -> Any:
    """The DAG of a file, parsed as Airflow does."""
    try:
        module = import_module("airflow.dag_processing.dagbag")
    except ImportError:  # Airflow 3.1
        module = import_module("airflow.models.dagbag")
    bag = module.DagBag(dag_folder=str(path))
    assert not bag.import_errors
    return bag.dags[path.stem]
