"""The commands ``reverse-etl state``."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from airflow_reverse_etl.cli.main import main
from airflow_reverse_etl.config import settings
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse
from tests.stores.bench import REJECTED, THREE, Bench, sync_of
from tests.stores.warehouses import Place, copying_store, postgres_place

pytestmark = pytest.mark.airflow


@pytest.fixture(params=["lake", "tables in duckdb", "tables in postgres"])
def where(
    request: pytest.FixtureRequest, tmp_path: Path, state_url: Path, add_connection: Callable[..., None]
) -> list[str]:
    """Options that lead to the state of a sync with three records, and a row that was given up."""
    if request.param == "lake":
        some_state(LakeStore(str(state_url)))
        return []
    if request.param == "tables in duckdb":
        file = tmp_path / "warehouse.duckdb"
        connection = duckdb.connect(file)
        place = Place("duckdb", connection.cursor, lambda: DuckDBWarehouse(connection.cursor()))
        add_connection("warehouse", conn_type="duckdb", host=str(file))
    else:
        place = postgres_place(request.getfixturevalue("postgres"))
        connection = place.connect()
        where = connection.get_dsn_parameters()
        add_connection(
            "warehouse",
            conn_type="postgres",
            login=where["user"],
            schema=where["dbname"],
            extra={"host": where["host"]},
        )
    store = copying_store(place)
    some_state(store)
    store.close()
    connection.close()
    return ["--connection", "warehouse"]


def some_state(store: StateStore) -> None:
    runs = Bench(store, sync_of(retry={"max_attempts": 1}))
    runs.model([*THREE, (4, "d", 4)])
    runs.run({"4": REJECTED}, address="file at /exports")


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the commands printed. Airflow's log goes to the same place in tests."""
    return [line for line in capsys.readouterr().out.splitlines() if "[info " not in line]


def test_syncs_are_listed(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "list", *where]) == 0
    head, row = printed(capsys)
    assert re.split(r"  +", head) == ["sync", "records", "bytes", "format", "last run", "destination"]
    name, rows, size, *others = re.split(r"  +", row)
    assert [name, rows, *others] == ["s", "3", "2", "2026-01-02 00:00:00Z", "file at /exports"]
    assert re.fullmatch("-" if where else "[0-9]+,[0-9]{3}", size)


def test_a_sync_is_forgotten(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "forget-plans", "s", *where]) == 0
    assert "s: plans deleted: " in capsys.readouterr().out
    assert main(["state", "forget", "s", *where]) == 0
    assert main(["state", "list", *where]) == 0
    assert printed(capsys) == ["s: state deleted", "no state found"]
    assert main(["state", "forget", "s", *where]) == 2
    assert "no state of this sync found" in capsys.readouterr().err


def test_a_record_is_forgotten_by_its_key_or_its_identifier(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["state", "forget-record", "s", "--row", "1", *where]) == 0
    assert main(["state", "forget-record", "s", "--identifier", "b", *where]) == 0
    line = "s: rows deleted: 0 from change_log, 0 from rejections, 1 from snapshot"
    assert printed(capsys) == [line, line]
    assert main(["state", "forget-record", "s", "--row", "1", *where]) == 2
    assert "the state does not have this record" in capsys.readouterr().err


def test_a_rejected_row_is_listed_dismissed_and_released(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rejected", "list", "s", *where]) == 0
    assert main(["rejected", "dismiss", "s", "--row", "4", *where]) == 0
    assert main(["rejected", "list", "s", *where]) == 0
    assert main(["rejected", "release", "s", "--identifier", "d", *where]) == 0
    assert main(["rejected", "list", "s", *where]) == 0
    head, rejected, dismissal, _, dismissed, release, left = printed(capsys)
    assert re.split(r"  +", head) == ["row", "change", "outcome", "attempts", "since", "code", "message"]
    cells = ["4", "added", "rejected", "1", "2026-01-02 00:00:00Z", "bad_email", "is not an address"]
    assert re.split(r"  +", rejected) == cells
    assert re.split(r"  +", dismissed) == [*cells[:2], "dismissed", *cells[3:]]
    assert (dismissal, release, left) == (
        "s: rejections dismissed: 1",
        "s: rejections released: 1",
        "no rejected rows found",
    )
    assert main(["rejected", "dismiss", "s", "--row", "1", *where]) == 2
    assert "the state does not have this rejected row" in capsys.readouterr().err


def test_a_rejected_row_is_changed_by_the_name_that_the_list_shows(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rejected", "list", "s", "--json", *where]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert re.fullmatch("[0-9a-f]{32}", row["record"])
    assert main(["rejected", "dismiss", "s", "--record", row["record"], *where]) == 0
    assert main(["rejected", "release", "s", "--record", row["record"], *where]) == 0
    assert printed(capsys) == ["s: rejections dismissed: 1", "s: rejections released: 1"]
    assert main(["rejected", "release", "s", "--record", row["record"], "--row", "4", *where]) == 2
    assert "--record excludes --row" in capsys.readouterr().err
    assert main(["rejected", "release", "s", "--record", "1'; DROP TABLE", *where]) == 2
    assert "not the name of a record" in capsys.readouterr().err


def test_a_database_without_state_is_refused(
    add_connection: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    add_connection("shop", conn_type="mysql", host="localhost")
    assert main(["state", "list", "--connection", "shop"]) == 2
    assert "a database of this type cannot keep state" in capsys.readouterr().err


def test_state_is_adopted_by_an_environment(
    where: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["state", "adopt", "s", *where]) == 2
    assert "no environment is set" in capsys.readouterr().err
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__ENVIRONMENT", "dev")
    settings.cache_clear()
    assert main(["state", "list", *where]) == 0
    assert main(["state", "adopt", "s", *where]) == 0
    assert main(["state", "list", *where]) == 0
    empty, adopted, _, row = printed(capsys)
    assert [empty, adopted] == ["no state found", "s: state moved to environment dev"]
    assert row.startswith("s     3 ")


@pytest.mark.long
def test_state_is_copied_and_can_be_restored(
    where: list[str],
    tmp_path: Path,
    state_url: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backup = str(tmp_path / "backup")
    if where:
        assert main(["state", "copy", backup, *where]) == 2
        assert "the database's own tool" in capsys.readouterr().err
        return
    before = LakeStore(str(state_url)).syncs()
    # The second copy finds the first.
    assert main(["state", "copy", backup]) == 0
    assert main(["state", "copy", backup]) == 0
    assert main(["state", "forget", "s"]) == 0
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__STATE_URL", backup)
    settings.cache_clear()
    assert main(["state", "copy", str(state_url)]) == 0
    copied = "s: state copied"
    assert printed(capsys) == [copied, copied, "s: state deleted", copied]
    (restored,) = LakeStore(str(state_url)).syncs()
    assert dataclasses.replace(restored, bytes=before[0].bytes) == before[0]


@pytest.mark.long
def test_a_sync_that_cannot_be_copied_is_named_and_the_others_are_copied(
    tmp_path: Path, state_url: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LakeStore(str(state_url))
    for name in ("a", "b", "c"):
        runs = Bench(store, sync_of().model_copy(update={"name": name}))
        runs.model(THREE)
        runs.run()
    runs.sync = sync_of().model_copy(update={"name": "b"})
    plan = runs.plan(full_resync=True)
    assert main(["state", "copy", str(tmp_path / "backup")]) == 2
    output = capsys.readouterr()
    assert [line for line in output.out.splitlines() if "copied" in line] == ["a: state copied", "c: state copied"]
    assert "not finished" in output.err
    assert "'b'" in output.err
    runs.commit(plan)
    assert main(["state", "copy", str(tmp_path / "backup")]) == 0
    assert [state.sync for state in LakeStore(str(tmp_path / "backup")).syncs()] == ["a", "b", "c"]
