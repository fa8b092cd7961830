from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from airflow_reverse_etl.compat import AirflowFailException
from airflow_reverse_etl.destinations.base import DestinationOptions, Setup
from airflow_reverse_etl.git import github_app
from airflow_reverse_etl.operators.dbt_check import DbtModelCheckOperator
from airflow_reverse_etl.operators.dbt_task import DbtTask
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.testing import FakeDestination, registered
from tests.dbt.projects import keyed, manifest, model
from tests.git.conftest import http, origin, sshd
from tests.git.servers import Origin
from tests.operators.check_hosts import COLUMNS, SYNC, Check, Logged

__all__ = ["http", "origin", "sshd"]


class FakeType:
    """Destination type whose syncs all send to one fake destination."""

    Options: ClassVar[type[DestinationOptions]] = DestinationOptions
    needs_match_on: ClassVar[frozenset[Operation]] = frozenset()

    def __init__(self, destination: FakeDestination) -> None:
        self._destination = destination

    def __call__(self, setup: Setup) -> FakeDestination:
        return self._destination


@pytest.fixture
def crm(add_connection: Callable[..., None], state_url: Path) -> Iterator[FakeDestination]:
    """The fake destination, behind type ``fake`` and connection ``crm``."""
    add_connection("crm", conn_type="reverse_etl_http", host="https://crm.example.com/api", password="t0ken")
    destination = FakeDestination()
    with registered("fake", FakeType(destination)):
        yield destination


@pytest.fixture
def customers(tmp_path: Path, add_connection: Callable[..., None]) -> Callable[[str], None]:
    """Run SQL in the warehouse, where there are three customers."""
    from tests.duckdb_files import reopened

    file = str(tmp_path / "warehouse.duckdb")
    add_connection("warehouse", conn_type="duckdb", host=file)

    def execute(sql: str) -> None:
        with reopened(file) as connection:
            connection.execute(sql)

    execute(
        "CREATE TABLE customers AS SELECT * FROM (VALUES (1, 'Ada', 'ada@x.org'), (2, 'Bo', 'bo@x.org'), "
        "(3, 'Cy', 'cy@x.org')) AS t (id, name, email)"
    )
    return execute


@pytest.fixture
def acme_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """``acme/shop.git``: ``main`` with 60 columns that a sync uses, ``branch`` without any of them."""
    origin = Origin.create(tmp_path / "git" / "acme")
    for branch, columns in (("branch", []), ("main", COLUMNS)):
        sql = "select " + ", ".join(f"1 as {name}" for name in ["id", *columns])
        text = json.dumps(manifest(model("customers", sql), *keyed("customers")))
        origin.commit({"dbt_project.yml": "name: shop", "manifest.json": text})
        origin.push(f"HEAD:refs/heads/{branch}")
    origin.bare = origin.bare.rename(origin.bare.with_name("shop.git"))
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs" / "people.yaml").write_text(SYNC)
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    monkeypatch.setattr(
        DbtTask, "_manifest", lambda _, folder, *__, **___: json.loads((folder / "manifest.json").read_bytes())
    )
    github_app._tokens.clear()
    return origin


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Logged:
    """Everything that was logged, by Airflow's logging too."""
    caplog.set_level(logging.DEBUG)
    return lambda: "".join([caplog.text, *capsys.readouterr()])


@pytest.fixture
def check(acme_shop: Origin, tmp_path: Path, add_connection: Callable[..., None]) -> Check:
    """Run the operator with a connection of these fields; what it left in XCom."""

    def run(kind: Callable[..., Any], *, head: str = "branch", **fields: Any) -> dict[str, Any]:
        extra = {"ca_certificates": str(tmp_path / "git" / "own.crt"), **fields.pop("extra", {})}
        add_connection("git_dbt", conn_type="git", extra=extra, **fields)
        task = DbtModelCheckOperator(
            task_id="check",
            git_conn_id="git_dbt",
            base="main",
            head=head,
            syncs=str(tmp_path / "syncs"),
            report=kind.__name__,
            pull_request="7",
            deps=False,
        )
        left: dict[str, Any] = {}
        context: Any = {"ti": SimpleNamespace(xcom_push=lambda **pushed: left.update(pushed))}
        try:
            task.execute(context)
        except AirflowFailException:
            assert left["value"]["conclusion"] == "failed"
        return dict(left["value"])

    return run
