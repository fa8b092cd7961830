"""The how-to "Dev, staging and prod", as its page has it: one DAG, promotion of a commit, and rollback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from airflow_reverse_etl import config
from airflow_reverse_etl.operators.dbt_task import DbtTask
from airflow_reverse_etl.testing.fakes import FakeDestination
from tests.dbt.projects import keyed, manifest, model
from tests.git.servers import Origin, git
from tests.operators.tasks import SYNC

pytestmark = [pytest.mark.airflow, pytest.mark.long]

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "environments.md").read_text(encoding="utf-8")
MANIFEST = manifest(model("customers", relation_name='"main"."customers"'), *keyed("customers"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def origin(
    tmp_path: Path, add_connection: Callable[..., None], crm: FakeDestination, monkeypatch: pytest.MonkeyPatch
) -> Origin:
    """A dbt project with a sync and the page's environments, and a warehouse for each of them."""
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    monkeypatch.setattr(
        DbtTask, "_manifest", lambda _, folder, *__, **___: json.loads((folder / "manifest.json").read_bytes())
    )
    for name in ("warehouse", "warehouse_dev", "warehouse_staging"):
        file = tmp_path / f"{name}.duckdb"
        with duckdb.connect(str(file)) as connection:
            connection.execute(
                f"CREATE TABLE customers AS SELECT i AS id, '{name}' AS name, i || '@x.org' AS email FROM range(3) t(i)"
            )
        add_connection(name, conn_type="duckdb", host=str(file))
    add_connection("crm_sandbox", conn_type="reverse_etl_http", host="https://sandbox.example.com", password="t0ken")
    found = Origin.create(tmp_path / "git")
    add_connection("git_dbt", conn_type="git", host=str(found.bare), extra={"allow_protocols": ["file"]})
    files = {"dbt_project.yml": "name: shop", "manifest.json": json.dumps(MANIFEST)}
    found.commit({f"analytics/{name}": text for name, text in files.items()})
    return found


def commit(origin: Origin, tag: str, mapping: dict[str, str]) -> str:
    """Commit the page's sync with a mapping, and tag it."""
    page = yaml.safe_load(blocks("yaml")[0])
    sync = {**page, "model": "customers", "primary_key": "id", "destination": SYNC["destination"], "mapping": mapping}
    made = origin.commit({"analytics/syncs/contacts.yaml": yaml.safe_dump(sync)})
    git(origin.work, "tag", tag)
    origin.push(tag)
    return made


def test_one_dag_for_all_environments_and_a_promotion_and_a_rollback(
    origin: Origin,
    crm: FakeDestination,
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(environment: str, ref: str | None = None) -> tuple[Any, list[dict[str, Any]]]:
        """Let the page's DAG run; returns the run, and the records that were sent."""
        monkeypatch.setenv("AIRFLOW__REVERSE_ETL__ENVIRONMENT", environment)
        config.settings.cache_clear()
        if ref:
            monkeypatch.setenv("AIRFLOW_VAR_DBT_REF", ref)
        names: dict[str, Any] = {}
        exec(blocks("python")[0] + "\n    dag = models.dag", names)
        done = run_dag(names["dag"])
        assert str(done.state) == "success"
        sent = [dict(record) for batch in crm.batches for record in batch.records]
        crm.batches.clear()
        return done, sent

    first = commit(origin, "v1", {"email": "email"})
    done, sent = run("dev")
    assert sent == []
    assert xcom(done, "syncs.sync", map_index=0)["planned"]["added"] == 3
    assert xcom(done, "models")["commit"] == first, "dev follows main"

    _, sent = run("staging", "v1")
    assert len(sent) == 3
    second = commit(origin, "v2", {"email": "email", "name": "name"})
    assert run("staging")[1] == [], "a commit is not a promotion"
    _, sent = run("staging", "v2")
    assert {record["name"] for record in sent} == {"warehouse_staging"}

    # Production has state of its own, so it begins with what it has not delivered.
    assert run("prod", "v1")[1] == [{"email": f"{at}@x.org"} for at in range(3)]
    done, sent = run("prod", "v2")
    assert {record["name"] for record in sent} == {"warehouse"}
    models = xcom(done, "models")
    assert (models["commit"], models["previous"]) == (second, first)

    _, sent = run("prod", models["previous"])
    assert sent == [{"email": f"{at}@x.org"} for at in range(3)], "the mapping of that commit"
    assert run("prod")[1] == []
