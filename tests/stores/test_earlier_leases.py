"""Leases, budgets and records of an earlier version count: ``state/742574a-leases.tar.gz``, which commit 742574a wrote.

It has what was kept in Delta Lake tables with numbered transactions: the lease of ``leased``, whose third holder took
it at ``NOW`` for two minutes; a budget of which 40 requests were reserved at ``NOW`` at 20 a second; a record of
consumed dbt Cloud runs.
"""

from __future__ import annotations

import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.stores.compare_and_set import VersionedFile
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.stores.rate_budget import FileBudget

ARCHIVE = Path(__file__).parent / "state" / "742574a-leases.tar.gz"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def extracted(folder: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=["folder", "object storage"])
def leases(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """URL and options of state with leases."""
    folder = extracted(tmp_path)
    if request.param == "folder":
        return str(folder), {}
    bucket = request.getfixturevalue("bucket")
    storage = StateFiles(bucket.url, bucket.options)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.upload(path, str(path.relative_to(folder)))
    return bucket.url, bucket.options


def test_an_earlier_lease_lasts_until_it_expires_and_numbers_grow(leases: tuple[str, dict[str, str]]) -> None:
    store = LakeStore(*leases)
    with pytest.raises(RunConflictError, match="at work: dag a, run 1"):
        store.acquire("leased", "id-2", now=NOW + timedelta(seconds=119), seconds=120)
    later = NOW + timedelta(seconds=120)
    assert store.acquire("leased", "id-2", now=later, seconds=120) == 4
    assert LakeStore(*leases).acquire("leased", "id-3", now=later + timedelta(seconds=120), seconds=120) == 5


def test_an_earlier_record_is_read(leases: tuple[str, dict[str, str]]) -> None:
    files = StateFiles(*leases)
    record = VersionedFile(files, "dbt_cloud/consumed/dag/done/1-2")
    version, text = record.read()
    assert text == '{"version": 1, "floor": null, "claims": []}'
    assert record.replace(version, "new")
    assert record.read() == (version + 1, "new")


def test_an_earlier_budget_is_free(leases: tuple[str, dict[str, str]]) -> None:
    budget = FileBudget(StateFiles(*leases))
    assert budget.reserve("crm", 20, rate=20, now=NOW) == 0.0
    assert budget.reserve("crm", 20, rate=20, now=NOW) == 1.0


def test_the_earlier_tables_are_deleted_when_their_time_is_over(leases: tuple[str, dict[str, str]]) -> None:
    files = StateFiles(*leases)
    record = VersionedFile(files, "syncs/leased/lease", kept=timedelta(seconds=-2))
    version, text = record.read()
    assert version < 49
    while version < 50:
        assert record.replace(version, text or "")
        version += 1
    assert list(files.times("syncs/leased/lease")) == ["000000000050.json"]
