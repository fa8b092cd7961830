"""The lake alone: its files, its failures, and its answers compared with those of a plain model."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.errors import (
    AttentionError,
    ConfigurationError,
    RunConflictError,
    StateError,
    UnreachableError,
)
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.receipts import Outcome, Receipt
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.statements import expressions
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.lake import delta
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.stores.warehouse.schema import SHARED
from airflow_reverse_etl.sync.ports import PlanRequest, StateStore
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.testing import StateStoreConformance
from tests.property import examples
from tests.s3 import Bucket
from tests.stores.bench import REJECTED, THREE, Bench, sync_of
from tests.stores.warehouses import copying_store, duckdb_place


def lake(folder: Path, **more: Any) -> LakeStore:
    return LakeStore(str(folder), memory_limit="500MB", threads=2, **more)


class TestConformance(StateStoreConformance):
    strict = True

    @pytest.fixture
    def store(self, tmp_path: Path) -> LakeStore:
        self.folder = tmp_path
        return lake(tmp_path)

    def reopened(self, store: StateStore) -> LakeStore:
        return lake(self.folder)


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_committed_sync_leaves_delta_tables_with_one_file_each_and_no_values(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of())
    for score in range(3):
        b.model([(1, "secret@example.com", score), (2, "b", score)])
        b.run({"2": REJECTED})
    folder = tmp_path / "syncs" / "s"
    assert sorted(path.name for path in folder.iterdir()) == ["history", "rejections", "runs", "snapshot"]
    assert list((folder / "runs").iterdir()) == []
    for table in ("snapshot", "rejections", "history"):
        assert len(list((folder / table).glob("*.parquet"))) == 1, "old versions are deleted"
        assert len(DeltaTable(folder / table).file_uris()) == 1
    for name in files_under(tmp_path):
        assert b"secret" not in (tmp_path / name).read_bytes(), name
    history = DeltaTable(folder / "history").to_pyarrow_table().to_pylist()
    assert [run["run_id"] for run in sorted(history, key=lambda run: run["planned_at"])] == ["run1", "run2", "run3"]
    [rejection] = DeltaTable(folder / "rejections").to_pyarrow_table().to_pylist()
    assert {name: rejection[name] for name in ("row_key", "code", "attempts", "outcome")} == {
        "row_key": "2", "code": "bad_email", "attempts": 1, "outcome": "rejected"
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("mode", ["mirror", "upsert", "append"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_plan_whose_mapping_makes_other_rows_than_were_read_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, rows: int
) -> None:
    """This holds for every function, in a first run and in a later one; no row counts as removed."""
    monkeypatch.setattr(expressions, "_set_returning", lambda *_: "")
    b = Bench(lake(tmp_path), sync_of(mode, mapping={"email": {"sql": "unnest(str_split(email, ','))"}}))
    b.model([(key, "a", 1) for key in range(rows)])
    b.run()
    for emails, mapped in (("a,b", rows + 1), (None, rows - 1)):
        b.model([(0, emails, 1), *((key, "a", 1) for key in range(1, rows))])
        with pytest.raises(ConfigurationError, match=f"returns {mapped} rows for the {rows} that were read"):
            b.plan()
        assert b.store.unfinished("s") == []


def test_an_expression_reads_no_file_of_the_worker(tmp_path: Path) -> None:
    """The planner's DuckDB can read the state's files and its own only, so functions not on a list are covered too."""
    with lake(tmp_path)._scratch() as work:
        for statement in ("FROM read_text('/etc/hostname')", f"COPY (SELECT 1) TO '{tmp_path.parent / 'x.csv'}'"):
            with pytest.raises(duckdb.PermissionException):
                work.execute(statement)
    for expression in ("read_text('/etc/hostname')", "(read_text('/etc/hostname'))"):
        b = Bench(lake(tmp_path), sync_of(mapping={"email": {"sql": expression}}))
        with pytest.raises(ConfigurationError):
            b.plan()


def test_a_sync_without_rejected_rows_has_a_table_of_rejections_that_is_not_rewritten(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of())
    b.model(THREE)
    b.run()
    b.run()
    rejections = DeltaTable(tmp_path / "syncs/s/rejections")
    assert (rejections.version(), rejections.to_pyarrow_table().num_rows) == (0, 0)


def test_the_snapshot_is_not_rewritten_when_nothing_changed(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of())
    b.model(THREE)
    b.run()
    before = DeltaTable(tmp_path / "syncs/s/snapshot").version()
    b.run()
    assert DeltaTable(tmp_path / "syncs/s/snapshot").version() == before


def test_a_snapshot_of_an_earlier_version_is_read_and_widened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Bench(lake(tmp_path), sync_of())
    b.model(THREE)
    replace = delta.DeltaFile.replace

    def narrow(self: delta.DeltaFile, *arguments: Any) -> int:
        self._columns = {name: kind for name, kind in self._columns.items() if name != "field_hashes"}
        return replace(self, *arguments)

    monkeypatch.setattr(delta.DeltaFile, "replace", narrow)
    b.run()
    monkeypatch.undo()
    b.sync = sync_of(track={"fields": True})
    assert b.run() == {}
    b.model([(1, "a", 9), *THREE[1:]])
    assert b.run() == {"1": "changed"}
    snapshot = DeltaTable(tmp_path / "syncs/s/snapshot").to_pyarrow_table()
    assert sorted(len(hashes or "") for hashes in snapshot["field_hashes"].to_pylist()) == [0, 0, 16]


@pytest.mark.parametrize("table", ["snapshot", "rejections", "change_log", "history"])
@pytest.mark.parametrize("after", [True, False])
def test_a_commit_interrupted_anywhere_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, *, after: bool
) -> None:
    b = Bench(lake(tmp_path, change_log=True), sync_of("mirror", retry={"max_attempts": 2}))
    b.model(THREE)
    b.run({"1": REJECTED})
    b.model([(1, "a", 1), (2, "b", 9), (4, "d", 4)])
    plan = b.plan()
    add = delta._Table._add

    def killed(self: delta._Table, *arguments: Any, **more: Any) -> int:
        if self._folder.endswith(table):
            if after:
                add(self, *arguments, **more)
            raise KeyboardInterrupt
        return add(self, *arguments, **more)

    monkeypatch.setattr(delta._Table, "_add", killed)
    with pytest.raises(KeyboardInterrupt):
        b.commit(plan, {"1": REJECTED})
    monkeypatch.undo()
    assert b.store.unfinished("s") == [plan]
    b.commit(plan, {"1": REJECTED})
    assert b.store.unfinished("s") == []
    again = b.plan()
    assert (again.total, again.skipped) == (0, 1), "two attempts were counted, and all else was accepted"
    assert sorted(row[:3] for row in logged(str(tmp_path))) == [
        *(("run1", "added", key) for key in "123"),
        ("run2", "added", "1"), ("run2", "added", "4"), ("run2", "changed", "2"), ("run2", "removed", "3"),
    ]  # fmt: skip


def logged(url: str, options: Mapping[str, str] | None = None) -> list[tuple[str, ...]]:
    """Return the change log as an SQL tool reads it."""
    log = DeltaTable(f"{url}/syncs/s/change_log", storage_options=dict(options or {})).to_pyarrow_dataset()
    assert set(log.schema.names) == set(SHARED["change_log"])
    return duckdb.execute(
        "SELECT run_id, change, row_key, sync, key_hi, key_lo, fingerprint, outcome, code FROM log"
        " WHERE committed_at <= now() ORDER BY ALL"
    ).fetchall()


@pytest.mark.long
def test_the_change_log_says_what_the_one_in_a_warehouse_says(tmp_path: Path) -> None:
    place = duckdb_place()
    stores = {"lake": lake(tmp_path, change_log=True), "tables": copying_store(place, change_log=True)}
    for store in stores.values():
        b = Bench(store, sync_of("mirror"))
        b.model(THREE)
        b.run({"2": REJECTED, "3": Receipt(Outcome.UNKNOWN, "LOST", "no answer")})
        b.model([(1, "a", 1), (2, "b", 9), (4, "d", 4)])
        b.commit(b.plan(), upto=2)
        b.run()
        b.run()
    stores["tables"].close()
    assert logged(str(tmp_path)) == place.run(
        "SELECT run_id, change, row_key, sync, key_hi, key_lo, fingerprint, outcome, code FROM reverse_etl.change_log"
        " ORDER BY ALL"
    )
    assert {row[7] for row in logged(str(tmp_path))} == {"accepted", "rejected", "unknown", "not sent"}


@pytest.mark.long
@pytest.mark.parametrize("remote", [False, True])
def test_the_change_log_is_kept_as_long_as_runs_are(tmp_path: Path, bucket: Bucket, *, remote: bool) -> None:
    url, options = (bucket.url, bucket.options) if remote else (str(tmp_path), {})
    opened = partial(LakeStore, url, options, memory_limit="500MB", threads=2, history=timedelta(days=2))
    b = Bench(opened(change_log=True), sync_of())
    for score in range(3):
        b.model([(1, "secret", score)])
        b.run()
        b.run()  # a run without changes adds nothing
    assert [row[0] for row in logged(url, options)] == ["run5"]
    files = StateFiles(url, options)
    written = list(files.times("syncs/s/change_log"))
    assert len([path for path in written if path.endswith(".parquet")]) == 1
    assert all(b"secret" not in (files.read(f"syncs/s/change_log/{path}") or b"") for path in written)
    b.store = opened()
    for _ in range(3):
        b.run()
    assert logged(url, options) == [], "also when none is wanted any more"


@pytest.mark.long
def test_an_object_storage_that_stops_answering_is_unreachable_at_every_request(bucket: Bucket) -> None:
    errors = []
    finished = False
    while not finished:
        answered = 7 * len(errors)
        own = Bucket(bucket.endpoint, f"{bucket.name}-{answered}")
        b = Bench(LakeStore(own.url, own.options, memory_limit="500MB", threads=2), sync_of("mirror"))
        b.model(THREE)
        b.run()
        b.model(THREE[1:])
        own.dial(refuses=503, after=answered)
        try:
            b.run()
            finished = True
        except UnreachableError as error:
            errors.append(error)
    assert len(errors) > 8
    for error in errors:
        assert not re.search(r"\x1b|Debug source|s3cret", str(error))
        assert error.__suppress_context__, "no traceback of a library"


def test_a_commit_loses_a_race_instead_of_overwriting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Bench(lake(tmp_path), sync_of())
    b.model(THREE)
    one, other = b.plan(), b.plan()
    copy = delta.Scratch.copy

    def overtaken(self: Any, select: str, path: str) -> tuple[int, int]:
        monkeypatch.undo()
        b.commit(other)
        return copy(self, select, path)

    monkeypatch.setattr(delta.Scratch, "copy", overtaken)
    with pytest.raises(RunConflictError):
        b.commit(one)


def test_an_interrupted_plan_does_not_count_and_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Bench(lake(tmp_path), sync_of())
    b.model(THREE)
    monkeypatch.setattr(StateFiles, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        b.plan()
    monkeypatch.undo()
    assert b.store.unfinished("s") == []
    assert len(list((tmp_path / "syncs/s/runs").iterdir())) == 1
    b.plan()  # a day later
    b.plan()
    assert len(list((tmp_path / "syncs/s/runs").iterdir())) == 2


def test_nothing_is_left_in_the_scratch_folder(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    b = Bench(LakeStore(str(tmp_path / "state"), scratch=scratch), sync_of())
    b.model(THREE)
    b.run()
    assert list(scratch.iterdir()) == []


def test_folders_may_be_called_as_columns_are(tmp_path: Path) -> None:
    """Other tools use ``name=value`` for a folder that holds one value of a column."""
    scratch = tmp_path / "found=1" / "change=7"
    scratch.mkdir(parents=True)
    b = Bench(LakeStore(str(tmp_path / "key_hi=1" / "state"), scratch=scratch), sync_of())
    b.model(THREE)
    assert b.run() == {"1": "added", "2": "added", "3": "added"}
    b.model([(1, "a", 9), *THREE[1:]])
    assert b.run() == {"1": "changed"}


def test_a_full_disk_is_no_fault_of_the_mapping(tmp_path: Path) -> None:
    b = Bench(LakeStore(str(tmp_path / "state")), sync_of())
    b.database.execute(
        "CREATE OR REPLACE TABLE m AS SELECT i AS id, md5(i::VARCHAR) AS email, 1 AS score FROM range(20000) t(i)"
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(AttentionError, match="memory and disk"):
            b.plan()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_plan_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of())
    b.plan()
    [path] = tmp_path.rglob("plan.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(StateError, match="newer version"):
        b.store.unfinished("s")


def test_a_plan_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Such a plan does not have causes and given-up rows; its changes are sent."""
    b = Bench(lake(tmp_path), sync_of())
    b.model(THREE)
    b.plan()
    [path] = tmp_path.rglob("plan.json")
    stored = json.loads(path.read_text())
    later = ("causes", "given_up", "given_up_codes")
    path.write_text(json.dumps({name: value for name, value in stored.items() if name not in later}))
    [plan] = b.store.unfinished("s")
    assert (plan.total, plan.causes, plan.given_up, plan.given_up_codes) == (3, {}, 0, {})
    assert b.store.invalid_keys(plan, count=5) == {}
    b.commit(plan)
    assert b.plan().total == 0


def test_damaged_state_is_named(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of())
    b.model(THREE)
    b.run()
    for log in (tmp_path / "syncs/s/snapshot/_delta_log").glob("*.json"):
        log.write_text("not json")
    with pytest.raises(StateError, match="cannot be read"):
        b.plan()


def test_a_damaged_file_is_named_and_lost_when_it_is_deleted(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of())
    b.model(THREE)
    b.run()
    [file] = (tmp_path / "syncs/s/snapshot").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StateError, match=file.name):
        b.plan()
    file.unlink()
    assert b.plan().notes == ("snapshot_lost",)


class Broken:
    """A warehouse that dies while it is read."""

    dialect = "duckdb"

    def columns(self, query: str) -> list[Column]:
        return [Column("id"), Column("email"), Column("score")]

    def read(self, query: str, *, batch_rows: int = 1) -> pa.RecordBatchReader:
        schema = pa.schema([("c0", pa.int64()), ("c1", pa.string()), ("c2", pa.int32())])

        def batches() -> Iterator[pa.RecordBatch]:
            yield pa.RecordBatch.from_pylist([{"c0": 1, "c1": "a", "c2": 1}], schema=schema)
            raise UnreachableError("connection lost", connection="w")

        return pa.RecordBatchReader.from_batches(schema, batches())

    def close(self) -> None: ...


def test_the_warehouses_own_error_comes_out_and_no_plan_is_left(tmp_path: Path) -> None:
    store = lake(tmp_path)
    request = PlanRequest(sync_of(), "SELECT 1", ("id",), "run1", datetime.now(UTC))
    with pytest.raises(UnreachableError, match="connection lost"):
        store.plan(request, Broken())
    assert store.unfinished("s") == []


def test_an_expression_that_fails_for_a_row_does_not_tell_the_value(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of(mapping={"email": {"sql": "cast(email as int)"}}))
    b.model([(1, "top-secret", 1)])
    with pytest.raises(ConfigurationError) as caught:
        b.plan()
    assert "top-secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_values_of_every_type_come_through(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of(mapping={"v": "v"}, mode="append"), ())
    values = {
        "1.50::DECIMAL(38,2)": "1.50",
        "12345678901234567890123::HUGEINT": "12345678901234567890123",
        "'6b0d5a44-0000-4000-8000-000000000000'::UUID": "6b0d5a44-0000-4000-8000-000000000000",
        "INTERVAL 1 DAY": "1 day",
        "'{\"a\": 1}'::JSON": '{"a": 1}',
        "'x'::ENUM('x', 'y')": "x",
        "DATE '9999-12-31'": "9999-12-31",
        "TIMESTAMPTZ '2026-01-01 00:00:00+01'": "2025-12-31 23:00:00+00:00",
        "[1, 2]": "[1, 2]",
        "'\\xAB'::BLOB": "b'\\xab'",
        "TIME '12:00:00'": "12:00:00",
    }
    for sql, expected in values.items():
        b.database.execute(f"CREATE OR REPLACE TABLE m AS SELECT {sql} AS v")
        [row] = b.rows(b.plan())
        assert str(row["f0"]) == expected, sql


# ── compared with a plain model ───────────────────────────────────────────────────────────────────────────────────────

rows = st.lists(
    st.tuples(st.none() | st.integers(0, 12), st.sampled_from([None, "", "n", "a", "1:a"]), st.integers(0, 2)),
    max_size=14,
)
runs = st.lists(st.tuples(rows, st.sets(st.integers(0, 12), max_size=4), st.integers(0, 20)), min_size=1, max_size=5)
Row = tuple[str | None, int]


class Naive:
    """A model of the store in a few lines of Python: key → values that the destination acknowledged."""

    def __init__(self, mode: str) -> None:
        self.mode, self.acknowledged = mode, dict[int, Row]()

    def plan(self, model: list[tuple[Any, ...]]) -> tuple[dict[int, tuple[str, Row | None]], int]:
        times = Counter(key for key, *_ in model)
        valid = {key: (email, score) for key, email, score in model if key is not None and times[key] == 1}
        planned: dict[int, tuple[str, Any]] = {}
        for key, values in valid.items():
            if key not in self.acknowledged:
                planned[key] = ("added", values)
            elif self.acknowledged[key] != values and self.mode not in ("insert", "delete"):
                planned[key] = ("changed", values)
        gone = [key for key in self.acknowledged if key not in times]
        if self.mode == "mirror":
            planned |= dict.fromkeys(gone, ("removed", None))
        if self.mode == "delete":
            for key in gone:
                del self.acknowledged[key]
        return planned, len(model) - len(valid)

    def accept(self, key: int, values: Row | None) -> None:
        if values is None:
            del self.acknowledged[key]
        else:
            self.acknowledged[key] = values


@pytest.mark.long
@given(mode=st.sampled_from(["upsert", "insert", "update", "mirror", "delete"]), history=runs)
@settings(max_examples=examples(8), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_over_any_history_the_snapshot_is_what_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, mode: str, history: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    mapping = {"id": "id", "email": "email", "score": "score"}
    retry = {"max_attempts": 1000, "max_age": "52w"}
    b = Bench(lake(folder), sync_of(mode, match_on=(), mapping=mapping, retry=retry))
    naive = Naive(mode)
    for model, refused, settled in history:
        b.model(model)
        plan = b.plan()
        expected, invalid = naive.plan(model)
        found = b.rows(plan)
        assert {int(row["key"]): (row["change"], row["f1"], row["f2"]) for row in found} == {
            key: (change, *(values or (None, None))) for key, (change, values) in expected.items()
        }
        assert (plan.planned.invalid, plan.model_rows, plan.total) == (invalid, len(model), len(expected))
        assert [row["seq"] for row in found] == list(range(1, len(found) + 1))
        b.commit(plan, {str(key): REJECTED for key in refused}, upto=min(settled, plan.total))
        for row in found[:settled]:
            if int(row["key"]) not in refused:
                naive.accept(int(row["key"]), expected[int(row["key"])][1])
    assert b.plan().snapshot_rows == len(naive.acknowledged)


@pytest.mark.long
def test_many_rows_in_little_memory(tmp_path: Path) -> None:
    """Numbers stay contiguous over many row groups, and a commit of some rows keeps the others out."""
    b = Bench(LakeStore(str(tmp_path), memory_limit="200MB", threads=2), sync_of("mirror"))
    rows = 300_000
    b.database.execute(
        f"CREATE OR REPLACE TABLE m AS SELECT i AS id, 'u' || i AS email, 1 AS score FROM range({rows}) t(i)"
    )
    plan = b.plan()
    seqs = pa.concat_arrays([batch.column("seq") for batch in b.store.changes(plan, after=100_000)])
    assert (len(seqs), seqs[0].as_py(), seqs[-1].as_py()) == (200_000, 100_001, rows)
    checkpoint = Checkpoint()
    checkpoint.settled.add(1, 200_000)
    checkpoint.settled.add(250_001, rows)
    b.store.commit(plan, checkpoint, RunReport("run1", plan.planned, 0, 0, 0, 0, 0, 1, 1.0), b.sync)
    assert b.plan().total == 50_000


def test_a_cursor_without_end_hides_nothing(tmp_path: Path) -> None:
    """The next run reads everything if the bound cannot be determined."""
    b = Bench(lake(tmp_path), sync_of(mapping={"email": "email"}, track={"cursor": "at"}))
    b.timed([(1, "a", "2026-01-01"), (2, "b", "infinity"), (3, "c", "-infinity"), (4, "d", "0044-03-15 (BC)")])
    assert len(b.run({"3": REJECTED, "4": REJECTED})) == 4
    assert b.run() == {"3": "added", "4": "added"}
    b.timed([(5, "e", "2026-01-01"), (2, "b", "infinity")])
    plan = b.plan()
    assert (plan.model_rows, b.keys(plan)) == (2, {"5": "added"})


def test_a_snapshot_whose_file_is_gone_is_lost(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of("mirror"))
    b.model(THREE)
    b.run()
    for file in (tmp_path / "syncs/s/snapshot").glob("*.parquet"):
        file.unlink()
    b.model(THREE[:1])
    plan = b.plan()
    assert (b.keys(plan), plan.notes) == ({"1": "added"}, ("snapshot_lost",))
    b.commit(plan)
    assert b.plan().snapshot_rows == 1


def test_what_is_remembered_survives_tools_that_tidy_the_history(tmp_path: Path) -> None:
    b = Bench(lake(tmp_path), sync_of(mapping={"email": "email"}, track={"cursor": "at"}))
    b.timed([(1, "a", "2026-01-01"), (2, "b", "2026-01-02")])
    b.run()
    DeltaTable(tmp_path / "syncs/s/history").alter.set_table_properties(
        {"delta.logRetentionDuration": "interval 9 days"}
    )
    assert b.plan().model_rows == 1


def test_a_lost_history_costs_a_comparison_of_everything(tmp_path: Path) -> None:
    sync = sync_of(match_on=(), mapping={"email": "email"}, track={"cursor": "at"}, initial="baseline")
    b = Bench(lake(tmp_path), sync)
    b.timed([(1, "a", "2026-01-01"), (2, "b", "2026-01-02")])
    b.run()
    shutil.rmtree(tmp_path / "syncs/s/history")
    b.timed([(1, "changed", "2026-01-01"), (2, "b", "2026-01-02")])
    plan = b.plan()
    assert (plan.model_rows, b.keys(plan), plan.notes) == (2, {"1": "changed"}, ())
