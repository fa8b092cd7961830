"""Destination type ``file``."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.csv
import pyarrow.parquet
import pytest

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, SpecError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome
from airflow_reverse_etl.sync.ports import ConnectionInfo, Destination
from airflow_reverse_etl.testing.conformance import DestinationConformance
from airflow_reverse_etl.testing.fakes import CountingLimiter
from tests.s3 import Bucket


def file(
    url: object,
    *,
    mode: str = "upsert",
    mapping: Mapping[str, Any] | None = None,
    connection: ConnectionInfo | None = None,
    **options: Any,
) -> Destination:
    return create(
        Sync.load(
            {
                "name": "rows",
                "model": "rows",
                "source": "warehouse",
                "mode": mode,
                "mapping": mapping or {"id": "id", "name": "name"},
                "destination": {"type": "file", "url": str(url), "match_on": "id", **options},
            }
        ),
        connection=connection,
    )


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    options = pyarrow.csv.ConvertOptions(
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
        column_types={"id": pyarrow.string(), "name": pyarrow.string()},
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(path, convert_options=options, parse_options=parse).to_pylist()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Folder:
    """A folder, and a reader that applies its files as documented."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root = root
        self.kind = kind

    def create(self, mode: str) -> Destination:
        return file(self.root, mode=mode, format=self.kind)

    async def stored(self) -> Mapping[str, str | None]:
        rows: dict[str, str | None] = {}
        whole = self.root / f"rows.{self.kind}"
        if whole.exists():
            return {row["id"]: row["name"] for row in read(whole)}
        for path in files(self.root):
            for row in read(path):
                if row["_operation"] == "delete":
                    rows.pop(row["id"], None)
                else:
                    rows[row["id"]] = row["name"]
        return rows

    async def stop(self) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / "rows").write_text("in the way of the folder")


class TestConformance(DestinationConformance):
    strict = True
    replaces = True
    impossible: ClassVar = {
        "bad": "a file takes every row of this suite",
        "throttle": "a storage does not say when to come back",
        "lose_answer": "a write whose answer is lost is done again, which is safe",
        "revoke": "a folder has no credentials",
    }

    @pytest.fixture(params=["csv", "jsonl", "parquet"])
    def remote(self, request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
        return Folder(tmp_path, request.param)

    async def test_an_update_changes_known_rows_and_skips_unknown_ones(self, remote: Any, opened: Any) -> None:
        """Accept every update: a file cannot look up rows, so its reader skips those that do not exist."""
        receipts = await (await opened("update")).send(self.batch(Operation.UPDATE, {"1": "Ada"}))
        assert receipts.of("1").outcome is Outcome.ACCEPTED


async def send(destination: Destination, batch: Batch) -> Any:
    await destination.open(CountingLimiter())
    receipts = await destination.send(batch)
    await destination.close()
    return receipts


def batch(*records: dict[str, Any], run_id: str = "manual__2026-01-01T00:00:00+00:00") -> Batch:
    return Batch(Operation.UPSERT, range(1, len(records) + 1), [str(n) for n in range(len(records))], records, run_id)


async def test_the_same_batch_replaces_its_own_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    for _ in range(2):
        await send(file(tmp_path), batch({"id": "1", "name": "Ada"}))
    [path] = files(tmp_path)
    assert path.name == "000000000001-000000000001-1-upsert.csv"
    assert path.parent.parent == tmp_path / "rows"


async def test_a_run_id_cannot_leave_its_folder(tmp_path: Path) -> None:
    await send(file(tmp_path / "in"), batch({"id": "1", "name": "Ada"}, run_id="../../out"))
    assert [path.is_relative_to(tmp_path / "in") for path in files(tmp_path)] == [True]


async def test_csv_has_a_header_and_distinguishes_null_from_empty_text(tmp_path: Path) -> None:
    mapping = {"id": "id", "properties.name": "name", "amount": "amount", "tags": "tags", "seen": "seen"}
    records = [
        {"id": "1", "properties": {"name": 'a "b", c'}, "amount": Decimal("1.10"), "tags": ["x"], "seen": None},
        {"id": "2", "properties": {"name": ""}, "amount": None, "tags": None, "seen": datetime(2026, 1, 1, tzinfo=UTC)},
        {"id": "3", "properties": {"name": None}, "amount": None, "tags": None, "seen": None},
    ]
    await send(file(tmp_path, mapping=mapping), batch(*records))
    [path] = files(tmp_path)
    header, *rows = list(csv.reader(path.read_text().splitlines()))
    assert header == ["id", "properties.name", "amount", "tags", "seen", "_operation"]
    assert rows[0][:4] == ["1", 'a "b", c', "1.10", '["x"]']
    assert path.read_text().splitlines()[2:] == [
        '"2","",,,2026-01-01 00:00:00.000000Z,"upsert"',
        '"3",,,,,"upsert"',
    ]


async def test_values_that_share_no_type_become_text(tmp_path: Path) -> None:
    await send(file(tmp_path, format="parquet"), batch({"id": 1, "name": "a"}, {"id": "x", "name": None}))
    [path] = files(tmp_path)
    assert [row["id"] for row in read(path)] == ["1", '"x"']


async def test_json_lines_leave_out_a_row_without_json_form(tmp_path: Path) -> None:
    receipts = await send(
        file(tmp_path, format="jsonl"), batch({"id": 1.5, "name": "a"}, {"id": float("nan"), "name": "b"})
    )
    assert (receipts.of("0").outcome, receipts.of("1").code) == (Outcome.ACCEPTED, "not_json")
    [path] = files(tmp_path)
    assert [row["id"] for row in read(path)] == [1.5]


async def test_a_folder_that_cannot_be_created_leaves_the_rows_retryable(tmp_path: Path) -> None:
    folder = tmp_path / "401"  # a number in a path must not be read as a status
    folder.mkdir()
    (folder / "rows").write_text("in the way of the folder")
    receipts = await send(file(folder), batch({"id": "1", "name": "Ada"}))
    assert receipts.of("0").outcome is Outcome.RETRYABLE


@pytest.mark.parametrize("place", ["taken", "taken/below"])
async def test_a_place_that_cannot_become_a_folder_stops_the_load(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").write_text("in the way of the folder")
    with pytest.raises(ConfigurationError, match="the storage cannot be used"):
        await file(tmp_path / place).open(CountingLimiter())


async def test_an_object_storage_out_of_reach_leaves_the_rows_retryable() -> None:
    options = {"aws_endpoint": "http://127.0.0.1:9", "aws_allow_http": "true", "aws_region": "eu-central-1"}
    options |= {"aws_access_key_id": "key", "aws_secret_access_key": "s3cret", "max_retries": "0"}
    connection = ConnectionInfo("lake", "aws", extra={"storage_options": options})
    receipts = await send(file("s3://bucket/out", connection=connection), batch({"id": "1", "name": "Ada"}))
    assert receipts.of("0").outcome is Outcome.RETRYABLE
    assert "s3cret" not in receipts.default.message


def in_bucket(bucket: Bucket) -> Destination:
    connection = ConnectionInfo("lake", "aws", extra={"storage_options": bucket.options})
    return file(f"{bucket.url}/out", connection=connection)


async def test_a_file_in_an_object_storage_is_replaced_by_the_same_batch(bucket: Bucket) -> None:
    for _ in range(2):
        receipts = await send(in_bucket(bucket), batch({"id": "1", "name": "Ada"}))
        assert receipts.of("0").outcome is Outcome.ACCEPTED
    run = "manual__2026-01-01T00%3A00%3A00%2B00%3A00"
    assert bucket.keys() == [f"out/rows/{run}/000000000001-000000000001-1-upsert.csv"]


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_stop_the_load(bucket: Bucket, status: int) -> None:
    bucket.dial(refuses=status)
    with pytest.raises(CredentialsError, match=f"refused the file: .*{status}"):
        await send(in_bucket(bucket), batch({"id": "1", "name": "Ada"}))


async def test_a_missing_bucket_stops_the_load(bucket: Bucket) -> None:
    with pytest.raises(ConfigurationError, match=r"bucket not found: .*NoSuchBucket"):
        await send(in_bucket(Bucket(bucket.endpoint, "missing")), batch({"id": "1", "name": "Ada"}))


async def test_a_busy_storage_leaves_the_rows_retryable(bucket: Bucket) -> None:
    bucket.dial(refuses=503)
    receipts = await send(in_bucket(bucket), batch({"id": "1", "name": "Ada"}))
    assert receipts.of("0").outcome is Outcome.RETRYABLE
    assert "503" in receipts.default.message


async def test_an_unknown_scheme_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="storage"):
        await file("gopher://bucket/rows").open(CountingLimiter())


def test_a_mirror_needs_the_operation_column(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="mirror needs delete"):
        file(tmp_path, mode="mirror", operation_column=None)
