"""State as a thing of its own: listed, forgotten, moved, and one record of it forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import ConfigurationError, RunConflictError, StateError
from airflow_reverse_etl.stores import leases
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.lake.delta import DeltaFile, DeltaLog
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.stores.state import SyncState
from airflow_reverse_etl.stores.warehouse.database import Database
from airflow_reverse_etl.stores.warehouse.schema import prefix
from airflow_reverse_etl.sync.ports import USUAL, Capabilities, Plan
from tests.s3 import Bucket
from tests.stores.bench import NOW, REJECTED, THREE, Bench, keyed, sync_of
from tests.stores.warehouses import PLACES, copying_store

ADA = (1, "Ada@example.com", 1)
ROWS = [ADA, (2, "bo@example.com", 2)]
#: Of a destination that compares identifiers without case.
FOLDED = Capabilities(USUAL, ignore_case=True)


@pytest.fixture(
    params=[
        "lake",
        pytest.param("tables in duckdb", marks=pytest.mark.slow),
        pytest.param("tables in postgres", marks=pytest.mark.slow),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "lake":
        yield LakeStore(str(tmp_path / "state"), memory_limit="500MB", threads=2, change_log=True)
        return
    tables = copying_store(PLACES[request.param.removeprefix("tables in ")](request), change_log=True)
    yield tables
    tables.close()


@pytest.fixture
def environment(store: Any, tmp_path: Path) -> Iterator[Any]:
    """The place of an environment, next to the one without."""
    if isinstance(store, LakeStore):
        yield LakeStore(str(tmp_path / "state" / "dev"), memory_limit="500MB", threads=2, change_log=True)
        return
    tables = copying_store(store.place, schema="reverse_etl_dev", change_log=True)
    yield tables
    tables.close()


@pytest.fixture
def bench(store: Any) -> Callable[..., Bench]:
    return lambda *arguments, **more: Bench(store, *arguments, **more)


class Interrupt:
    """Interrupts a command at its writes.

    :param writes: methods that write, as class and name.
    :ivar stops: number of interruptions so far.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *writes: tuple[type, str]) -> None:
        self.stops = 0
        self._left = 0
        for owner, name in writes:
            monkeypatch.setattr(owner, name, self._stopping(getattr(owner, name)))

    def _stopping(self, function: Any) -> Any:
        """Return the function, which is interrupted when its turn has come."""

        def run(*arguments: Any, **more: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
            return function(*arguments, **more)

        return run

    def at_each_write(self, command: Callable[[], object], after_each: Callable[[], object] = lambda: None) -> None:
        """Repeat a command until it ends, interrupted at its first write, then at its second, and so on."""
        ended = False
        while not ended:
            self._left = self.stops + 1
            try:
                command()
                ended = True
            except KeyboardInterrupt:
                self.stops += 1
                after_each()
        self._left = 0


def stored(store: Any, table: str) -> list[tuple[Any, ...]]:
    """Return the rows of a table of the sync's state, by any reader of the store."""
    if isinstance(store, LakeStore):
        import duckdb
        from deltalake import DeltaTable

        folder = Path(store._files.url) / "syncs" / "s" / table
        if not folder.exists():
            return []
        table_ = DeltaTable(str(folder))
        files = {path.name for path in folder.rglob("*.parquet")}
        assert files == {Path(uri).name for uri in table_.file_uris()}, "no file has earlier content"
        with duckdb.connect() as connection:
            connection.register("read", table_.to_pyarrow_table())
            return connection.sql("SELECT row_key FROM read ORDER BY 1").fetchall()
    name = table if table == "change_log" else f"{prefix('s')}_{table}"
    return store._database.run(f"SELECT row_key FROM {store._tables[name]} ORDER BY 1")


def test_syncs_are_listed_with_what_their_state_says(store: Any, bench: Callable[..., Bench]) -> None:
    assert store.syncs() == []
    runs = bench(sync_of())
    runs.model(THREE)
    runs.run(address="file at /exports")
    (found,) = store.syncs()
    size = found.bytes
    assert found == SyncState("s", 3, size, 2, "file at /exports", NOW + timedelta(days=1))
    if isinstance(store, LakeStore):
        files = Path(store._files.url, "syncs", "s").rglob("*")
        assert size == sum(path.stat().st_size for path in files if path.is_file())
    else:
        assert size is None


def test_a_forgotten_sync_starts_from_scratch(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of())
    runs.model(THREE)
    runs.run()
    runs.plan()
    store.forget("s")
    assert store.syncs() == []
    assert not store.has_state("s")
    assert runs.run() == {"1": "added", "2": "added", "3": "added"}
    assert runs.run() == {}


def test_without_its_damaged_plan_a_sync_plans_again(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of())
    runs.model(THREE[:2])
    runs.run()
    runs.model(THREE)
    damage(store, runs.plan())
    with pytest.raises(StateError, match="reverse-etl state forget-plans"):
        store.unfinished("s")
    assert store.forget_plans("s") == 1
    assert store.forget_plans("s") == 0
    assert runs.run() == {"3": "added"}


def damage(store: Any, plan: Plan) -> None:
    """Cut what is stored of a plan."""
    if isinstance(store, LakeStore):
        [file] = Path(store._files.url).rglob("plan.json")
        file.write_bytes(file.read_bytes()[:20])
    else:
        store._database.run(f"UPDATE {store._tables['plans']} SET content = '{{' WHERE plan_id = '{plan.plan_id}'")


def test_a_sync_at_work_is_not_forgotten_unless_its_run_is_stopped(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of())
    runs.model(THREE)
    runs.run()
    far = NOW + timedelta(days=100_000)
    fence = store.acquire("s", "a run", now=far, seconds=60)
    for forget in (
        lambda: store.forget("s"),
        lambda: store.forget_plans("s"),
        lambda: store.forget_record("s", "1"),
    ):
        with pytest.raises(RunConflictError, match="another run of this sync is at work"):
            forget()
    assert store.has_state("s")
    store.forget("s", force=True)
    assert not store.has_state("s")
    # The run cannot go on, not even when a later one has the lease.
    with pytest.raises(RunConflictError):
        store.acquire("s", "a run", now=far, seconds=60, fence=fence)
    assert store.acquire("s", "a later run", now=far, seconds=60) > fence


def test_the_state_of_an_unknown_sync_cannot_be_forgotten(store: Any) -> None:
    for forget in (
        lambda: store.forget("s"),
        lambda: store.forget_plans("s"),
        lambda: store.forget_record("s", "1"),
    ):
        with pytest.raises(ConfigurationError, match="no state of this sync found"):
            forget()


@pytest.mark.long
@pytest.mark.parametrize("mode", ["upsert", "mirror"])
@pytest.mark.parametrize("match_on", [("email",), ()])
@pytest.mark.parametrize("by_identifier", [False, True])
def test_one_record_is_forgotten_everywhere_and_no_other(
    store: Any, bench: Callable[..., Bench], mode: str, match_on: tuple[str, ...], *, by_identifier: bool
) -> None:
    runs = bench(sync_of(mode, match_on=match_on))
    runs.model(ROWS)
    runs.run(capabilities=FOLDED)
    runs.model([(1, "Ada@example.com", 10), (2, "bo@example.com", 20)])
    refused = {"1": REJECTED, "2": REJECTED}
    plan = runs.plan(capabilities=FOLDED)
    runs.commit(plan, refused)
    key = " ADA@example.com" if by_identifier and match_on else "1"
    erased = store.forget_record("s", key, by_identifier=by_identifier)
    assert erased == {"change_log": 2, "rejections": 1, "snapshot": 1}
    assert stored(store, "change_log") == [("2",), ("2",)]
    assert stored(store, "rejections") == [("2",)]
    assert len(stored(store, "snapshot")) == 1
    assert not any(store.forget_record("s", key, by_identifier=by_identifier).values()), "can be repeated"
    # The other record is known as before; what the model still has counts as new.
    runs.model(ROWS)
    assert runs.keys(runs.plan(capabilities=FOLDED)) == {"1": "added"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("store", "write"),
    [
        ("lake", (StateFiles, "delete")),
        ("lake", (DeltaFile, "replace")),
        ("lake", (DeltaLog, "_add")),
        ("tables in duckdb", (Database, "run")),
    ],
    indirect=["store"],
)
def test_a_record_is_gone_when_forgetting_it_was_interrupted_and_repeated(
    store: Any, write: tuple[type, str], bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    some_state(bench(sync_of("mirror")))
    monkeypatch.setattr(leases, "held", lambda *_: nullcontext())  # the lease of a killed command lasts an hour
    interrupt = Interrupt(monkeypatch, write)
    interrupt.at_each_write(lambda: store.forget_record("s", "2"))
    assert interrupt.stops
    assert stored(store, "snapshot") == [("1",), ("3",)]
    assert stored(store, "rejections") == []
    assert stored(store, "change_log") == [("1",), ("3",)]


def test_a_record_with_a_key_of_several_parts_is_forgotten(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of(), primary_key=("id", "email"))
    runs.model(THREE)
    keys = runs.run()
    assert store.forget_record("s", min(keys))["snapshot"] == 1
    assert len(runs.run()) == 1


def test_forgetting_the_only_record_does_not_lose_the_snapshot(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of())
    runs.model([ADA])
    runs.run()
    store.forget_record("s", "1")
    runs.model([])
    assert runs.plan().notes == ()


def test_a_record_is_not_forgotten_while_a_plan_may_have_it(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of())
    runs.model(THREE)
    plan = runs.plan()
    with pytest.raises(RunConflictError, match="not finished"):
        store.forget_record("s", "1")
    runs.commit(plan)
    assert store.forget_record("s", "1")["snapshot"] == 1


def test_the_log_still_grows_and_ends_after_a_record_was_forgotten(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of())
    runs.model(THREE)
    runs.run()
    store.forget_record("s", "1")
    runs.model([(1, "a", 1), (2, "b", 3), (3, "c", 3)])
    runs.run()
    assert stored(store, "change_log") == [("1",), ("2",), ("2",), ("3",)]
    if isinstance(store, LakeStore):
        store._change_log("s").forget("9")
        assert stored(store, "change_log") == []


def test_rejected_rows_are_listed_and_a_dismissed_one_is_not_counted(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(keyed(retry={"max_attempts": 1}))
    runs.model(THREE)
    runs.run({"1": REJECTED, "2": REJECTED})
    assert [(row.row_key, row.outcome, row.attempts) for row in store.rejections("s")] == [
        ("1", "rejected", 1),
        ("2", "rejected", 1),
    ]
    assert store.dismiss_record("s", "1") == 1
    for _ in range(2):  # a commit keeps the dismissal
        plan = runs.plan()
        assert (plan.total, plan.skipped, plan.given_up) == (0, 2, 1)
        runs.commit(plan)
    assert [row.outcome for row in store.rejections("s")] == ["dismissed", "rejected"]
    # A dismissed row that changes is tried at once, and its refusals count from the first.
    runs.model([(1, "a", 9), *THREE[1:]])
    assert runs.run({"1": REJECTED}) == {"1": "added"}
    assert runs.plan().given_up == 2


def test_a_released_row_is_tried_again(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(keyed(retry={"max_attempts": 1}))
    runs.model(THREE)
    runs.run({"1": REJECTED, "2": REJECTED})
    assert store.dismiss_record("s", "2") == 1
    assert store.release_record("s", "1") == 1
    assert store.release_record("s", "b", by_identifier=True) == 1
    assert store.release_record("s", "3") == 0
    assert runs.run() == {"1": "added", "2": "added"}
    assert store.rejections("s") == []


def test_records_are_released_and_dismissed_by_their_names(store: Any, bench: Callable[..., Bench]) -> None:
    """The name is a hash, so that a page can name a record without its key."""
    runs = bench(keyed(retry={"max_attempts": 1}))
    runs.model(THREE)
    runs.run({"1": REJECTED, "2": REJECTED, "3": REJECTED})
    one, two, three = (row.record for row in store.rejections("s"))
    assert len({one, two, three}) == 3
    assert store.dismiss_records("s", [one, "0" * 32]) == 1
    assert store.release_records("s", []) == 0
    assert store.release_records("s", [two]) == 1
    assert [(row.row_key, row.outcome) for row in store.rejections("s")] == [("1", "dismissed"), ("3", "rejected")]
    assert store.dismiss_records("s", None) == 1
    assert store.release_records("s", None) == 2
    assert runs.run() == {"1": "added", "2": "added", "3": "added"}


def test_the_rejections_of_an_unfinished_run_are_left_alone(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(keyed())
    runs.model(THREE)
    runs.run({"1": REJECTED})
    runs.plan()
    for change in (store.dismiss_record, store.release_record):
        with pytest.raises(RunConflictError, match="not finished"):
            change("s", "1")
    for change in (store.dismiss_record, store.release_record):
        with pytest.raises(ConfigurationError, match="no state of this sync found"):
            change("other", "1")
    with pytest.raises(ConfigurationError, match="no state of this sync found"):
        store.rejections("other")


def some_state(runs: Bench) -> None:
    """Give a sync a snapshot of three records, a rejection, a log and two runs."""
    runs.model(THREE)
    runs.run(address="file at /exports")
    runs.model([(1, "a", 1), (2, "b", 3), (3, "c", 3)])
    runs.run({"2": REJECTED}, address="file at /exports")


def contents(store: Any) -> list[Any]:
    tables = [stored(store, table) for table in ("snapshot", "rejections", "change_log")]
    [found] = store.syncs()
    return [*tables, replace(found, bytes=None), store.last_report("s", "run1"), store.last_report("s", "run2")]


@pytest.mark.long
def test_adopted_state_is_moved_whole(store: Any, environment: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of("mirror"))
    some_state(runs)
    before = contents(store)
    environment.adopt("s", store)
    assert contents(environment) == before
    assert store.syncs() == []
    assert not store.has_state("s")
    # The sync's runs go on there.
    runs.store = environment
    runs.model([(1, "a", 1), (2, "b", 3)])
    assert runs.run(address="file at /exports") == {"2": "changed", "3": "removed"}


@pytest.mark.long
def test_adopting_can_be_interrupted_anywhere_and_repeated(
    store: Any, environment: Any, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    some_state(bench(sync_of()))
    before = contents(store)
    writes = ((StateFiles, "copy"), (StateFiles, "delete"), (DeltaFile, "replace"), (Database, "run"))
    interrupt = Interrupt(monkeypatch, *writes)

    def state_remains() -> None:
        assert environment.has_state("s") or store.has_state("s"), "nothing to adopt, nothing to go on with"

    interrupt.at_each_write(lambda: environment.adopt("s", store), after_each=state_remains)
    assert interrupt.stops > 5
    assert contents(environment) == before
    assert store.syncs() == []


@pytest.mark.long
def test_other_state_of_the_sync_is_never_replaced(store: Any, environment: Any, bench: Callable[..., Bench]) -> None:
    for place in (environment, store):
        runs = bench(sync_of())
        runs.store = place
        some_state(runs)
    before = [contents(place) for place in (store, environment)]
    with pytest.raises(ConfigurationError, match="has other state of this sync"):
        environment.adopt("s", store)
    assert [contents(place) for place in (store, environment)] == before


@pytest.mark.long
def test_only_the_state_of_a_sync_at_rest_is_adopted(store: Any, environment: Any, bench: Callable[..., Bench]) -> None:
    with pytest.raises(ConfigurationError, match="no state of this sync found"):
        environment.adopt("s", store)
    runs = bench(sync_of())
    some_state(runs)
    plan = runs.plan(full_resync=True)
    with pytest.raises(RunConflictError, match="not finished"):
        environment.adopt("s", store)
    runs.commit(plan)
    fence = store.acquire("s", "a run", now=NOW + timedelta(days=100_000), seconds=60)
    with pytest.raises(RunConflictError, match="at work"):
        environment.adopt("s", store)
    assert not environment.has_state("s")
    store.release("s", fence=fence)
    environment.adopt("s", store)
    assert environment.has_state("s")


@pytest.mark.long
def test_state_in_object_storage_is_managed_alike(tmp_path: Path, bucket: Bucket) -> None:
    options: dict[str, Any] = {"memory_limit": "500MB", "threads": 2, "change_log": True}
    folder = LakeStore(str(tmp_path), **options)
    runs = Bench(folder, sync_of())
    some_state(runs)
    [before] = folder.syncs()
    there = LakeStore(f"{bucket.url}/state", bucket.options, **options)
    folder.copy("s", there)
    environment = LakeStore(f"{bucket.url}/state/dev", bucket.options, **options)
    environment.adopt("s", there)
    assert [replace(state, bytes=before.bytes) for state in environment.syncs()] == [before]
    assert there.syncs() == []
    assert environment.forget_record("s", "2") == {"change_log": 2, "rejections": 1, "snapshot": 1}
    runs.store = environment
    assert runs.run() == {"2": "added"}
    environment.forget("s")
    assert environment.syncs() == []


def test_past_runs_are_listed_last_first(store: Any, bench: Callable[..., Bench]) -> None:
    runs = bench(sync_of())
    runs.model(THREE)
    runs.run()
    runs.model([*THREE, (4, "d", 4)])
    runs.run()
    last, first = store.past_runs("s", limit=10)
    assert (first.report.planned.added, last.report.planned.added) == (3, 1)
    assert (last.mode, last.planned_at >= first.planned_at) == ("upsert", True)
    assert [run.run_id for run in store.past_runs("s", limit=1)] == [last.run_id]
    with pytest.raises(ConfigurationError, match="no state of this sync"):
        store.past_runs("unknown", limit=1)
