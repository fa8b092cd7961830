"""Sensors consume every successful run exactly once, and watchers at least once, whose consumers drop repeats.

This holds for any history of a job, and any polls, crashes and clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.dbt_cloud.consumption import Claim, Consume, Consumed, Cursor, OnFailure, next_free_run, take
from airflow_reverse_etl.dbt_cloud.models import OVERLAP, CloudRun, RunStatus
from airflow_reverse_etl.errors import RunConflictError, StateError

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
FIRST = START - timedelta(days=1)
OK, ERROR, CANCELLED = RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def run(id_: int, minutes: float, status: RunStatus = OK) -> CloudRun:
    return CloudRun(id_, 1, status, at(minutes))


class CrashError(Exception):
    pass


@dataclass
class FakeRecord:
    """Compare-and-set in memory. ``crash`` breaks the next write before or after it takes effect."""

    version: int = 0
    text: str | None = None
    crash: str = ""

    def read(self) -> tuple[int, str | None]:
        return self.version, self.text

    def replace(self, version: int, text: str) -> bool:
        crash, self.crash = self.crash, ""
        if crash == "before":
            raise CrashError
        if version != self.version:
            return False
        self.version, self.text = self.version + 1, text
        if crash == "after":
            raise CrashError
        return True


def get(
    record: FakeRecord,
    runs: list[CloudRun],
    claimant: str,
    *,
    consume: Consume = "each",
    on_failure: OnFailure = "wait",
    after: datetime | None = None,
) -> Claim | None:
    listed = lambda since: [run for run in runs if run.finished_at and run.finished_at >= since]  # noqa: E731
    return take(record, listed, claimant, after=after, first=FIRST, consume=consume, on_failure=on_failure)


def taken(claim: Claim | None) -> int | None:
    return claim.run.id if claim else None


def test_each_takes_the_oldest_and_a_retry_gets_the_same_again() -> None:
    record, runs = FakeRecord(), [run(1, 0), run(2, 1), run(3, 2)]
    assert [taken(get(record, runs, name)) for name in ("a", "a", "b", "a", "c", "d")] == [1, 1, 2, 1, 3, None]


def test_latest_takes_the_newest_and_says_what_it_passed_over() -> None:
    record, runs = FakeRecord(), [run(1, 0), run(2, 1), run(3, 2)]
    claim = get(record, runs, "a", consume="latest")
    assert claim is not None
    assert (claim.run.id, claim.superseded) == (3, (1, 2))
    assert get(record, runs, "b", consume="latest") is None


def test_latest_says_of_a_run_that_lists_show_late_that_the_next_claim_passed_it_over() -> None:
    record = FakeRecord()
    assert taken(get(record, [run(1, 0), run(3, 2)], "a", consume="latest")) == 3
    claim = get(record, [run(1, 0), run(2, 1), run(3, 2), run(4, 3)], "b", consume="latest")
    assert claim is not None
    assert (claim.run.id, claim.superseded) == (4, (2,))


def test_runs_count_in_the_order_they_finish_not_start() -> None:
    record = FakeRecord()
    assert taken(get(record, [run(5, 10)], "a")) == 5
    assert taken(get(record, [run(4, 11), run(5, 10)], "b")) == 4


def test_a_run_that_lists_show_late_is_still_taken() -> None:
    record = FakeRecord()
    assert taken(get(record, [run(2, 4)], "a")) == 2
    assert taken(get(record, [run(1, 1), run(2, 4)], "b")) == 1


def test_nothing_is_taken_from_before_the_wanted_time() -> None:
    record, runs = FakeRecord(), [run(1, 0), run(2, 60)]
    assert taken(get(record, runs, "a", after=at(30))) == 2
    assert get(record, runs, "b", after=at(30)) is None


@pytest.mark.parametrize("status", [ERROR, CANCELLED])
def test_a_failed_run_fails_one_try_once_and_the_retry_waits_for_the_next(status: RunStatus) -> None:
    record, runs = FakeRecord(), [run(1, 0, status)]
    claim = get(record, runs, "a", on_failure="fail")
    assert claim is not None
    assert claim.outcome == "failed"
    assert get(record, runs, "a", on_failure="fail") is None
    assert get(record, runs, "b", on_failure="fail") is None
    assert taken(get(record, [*runs, run(2, 1)], "a", on_failure="fail")) == 2


def test_a_skipped_run_stays_skipped_for_its_claimant() -> None:
    record = FakeRecord()
    first = get(record, [run(1, 0, ERROR)], "a", on_failure="skip")
    assert first is not None
    assert first.outcome == "skipped"
    assert get(record, [run(1, 0, ERROR), run(2, 1)], "a", on_failure="skip") == first


def test_waiting_passes_over_failed_runs() -> None:
    assert taken(get(FakeRecord(), [run(1, 0, ERROR), run(2, 1), run(3, 2, CANCELLED)], "a", consume="latest")) == 2


def test_a_run_retried_in_place_counts_when_it_succeeds_and_only_then() -> None:
    record = FakeRecord()
    get(record, [run(1, 0, ERROR)], "a", on_failure="fail")
    assert taken(get(record, [run(1, 3, OK)], "b", on_failure="fail")) == 1
    assert get(record, [run(1, 6, OK)], "c", on_failure="fail") is None


def test_old_claims_are_forgotten_and_their_runs_stay_consumed(monkeypatch: pytest.MonkeyPatch) -> None:
    really, fewer = Consumed.KEEP, 50
    monkeypatch.setattr(Consumed, "KEEP", fewer)
    record, runs = FakeRecord(), [run(id_, id_) for id_ in range(fewer + 20)]
    for number in range(len(runs)):
        assert taken(get(record, runs, f"d{number}", after=FIRST)) == number
    assert get(record, runs, "late", after=FIRST) is None
    assert record.text
    assert [claim.run.id for claim in Consumed.from_json(record.text).claims] == list(range(20, fewer + 20))
    assert len(record.text) / fewer * really < 250_000


def test_a_record_of_a_newer_version_stops_everything() -> None:
    with pytest.raises(StateError):
        get(FakeRecord(1, '{"version": 2}'), [], "a")


def test_endless_conflicts_end() -> None:
    class Busy(FakeRecord):
        def replace(self, version: int, text: str) -> bool:
            return False

    with pytest.raises(RunConflictError):
        get(Busy(), [run(1, 0)], "a")


def test_a_watcher_emits_a_run_again_that_finished_again() -> None:
    cursor = Cursor(at(0))
    fresh, cursor = cursor.advance([run(1, 1, ERROR)])
    assert [run.status for run in fresh] == [ERROR]
    fresh, cursor = cursor.advance([run(1, 3, OK)])
    assert [run.status for run in fresh] == [OK]
    assert cursor.advance([run(1, 3, OK)])[0] == []


# --- any history, any polls ---


@dataclass
class World:
    """dbt Cloud's lists: each run appears within OVERLAP after it finished."""

    runs: list[tuple[CloudRun, datetime]] = field(default_factory=list)

    def listed(self, now: datetime, since: datetime) -> list[CloudRun]:
        return [run for run, visible in self.runs if visible <= now and run.order[0] >= since]


LAG = st.floats(0, OVERLAP.total_seconds() - 1)
HISTORY = st.lists(
    st.tuples(st.floats(0, 3600), st.sampled_from([OK, OK, OK, ERROR, CANCELLED]), LAG), min_size=1, max_size=25
)


def world_of(history: list[tuple[float, RunStatus, float]]) -> World:
    """Ids are in the order of creation, which differs from the order of finishing."""
    runs = []
    for id_, (second, status, lag) in enumerate(history):
        finished = START + timedelta(seconds=second)
        runs.append((CloudRun(id_, 1, status, finished), finished + timedelta(seconds=lag)))
    return World(runs)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    HISTORY,
    st.lists(
        st.tuples(
            st.floats(0, 4000),  # when it looks
            st.integers(0, 30),  # which DAG run
            st.sampled_from(["", "", "", "before", "after"]),  # crash of the write
            st.none() | st.integers(0, 30),  # another DAG run that gets in between its read and its write
        ),
        max_size=40,
    ),
    st.sampled_from(["fail", "wait", "skip"]),
)
def test_sensors_consume_every_success_exactly_once(
    history: list[tuple[float, RunStatus, float]],
    looks: list[tuple[float, int, str, int | None]],
    on_failure: OnFailure,
) -> None:
    world, record = world_of(history), FakeRecord()
    got: dict[str, set[int]] = {}

    def look(second: float, name: str, crash: str, between: int | None) -> Claim | None:
        def listed(since: datetime) -> list[CloudRun]:
            if between is not None:
                look(second, f"d{between}", "", None)
            return world.listed(START + timedelta(seconds=second), since)

        record.crash = crash if between is None else ""
        try:
            claim = take(record, listed, name, after=None, first=FIRST, consume="each", on_failure=on_failure)
        except CrashError:
            return None
        finally:
            record.crash = ""
        if claim and claim.outcome == "success":
            got.setdefault(name, set()).add(claim.run.id)
        return claim

    for second, number, crash, between in sorted(looks, key=lambda look_: look_[0]):
        look(second, f"d{number}", crash, between)
    for number in range(31 + 2 * len(history)):  # every DAG run is tried again until it succeeds, and more follow
        while (claim := look(8000, f"d{number}", "", None)) and claim.outcome == "failed":
            pass

    assert all(len(ids) == 1 for ids in got.values())  # one DAG run, one run, however often it asked
    every = [id_ for ids in got.values() for id_ in ids]
    assert sorted(every) == [run.id for run, _ in world.runs if run.succeeded]


@settings(max_examples=200, deadline=None)
@given(HISTORY, st.lists(st.tuples(st.floats(0, 4000), st.integers(0, 5)), max_size=20))
def test_latest_never_repeats_and_never_goes_back(
    history: list[tuple[float, RunStatus, float]], looks: list[tuple[float, int]]
) -> None:
    world, record = world_of(history), FakeRecord()
    got: dict[str, Claim] = {}
    for number, (second, _) in enumerate([*sorted(looks), (8000, 0)]):
        now = START + timedelta(seconds=second)
        claim = take(
            record, lambda since, now=now: world.listed(now, since), f"d{number}",
            after=None, first=FIRST, consume="latest", on_failure="wait",
        )  # fmt: skip
        if claim:
            got[f"d{number}"] = claim
    orders = [claim.run.order for claim in got.values()]
    assert orders == sorted(set(orders))
    newest = max((run.order for run, _ in world.runs if run.succeeded), default=None)
    assert (orders[-1] if orders else None) == newest


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(HISTORY, st.lists(st.tuples(st.floats(0, 4000), st.booleans(), st.booleans()), max_size=30))
def test_watchers_emit_every_run_at_least_once_and_repeat_only_after_a_crash(
    history: list[tuple[float, RunStatus, float]], polls: list[tuple[float, bool, bool]]
) -> None:
    world = world_of(history)
    stored = cursor = Cursor(START - timedelta(minutes=1))
    emitted: list[int] = []
    crashes = 0
    for second, persisted, crash in [*sorted(polls), (8000, True, False)]:
        fresh, cursor = cursor.advance(world.listed(START + timedelta(seconds=second), cursor.since))
        emitted += [run.id for run in fresh]
        if persisted:
            stored = Cursor.from_json(cursor.to_json())
        if crash:
            cursor, crashes = stored, crashes + 1
    assert set(emitted) == {run.id for run, _ in world.runs}
    if not crashes:
        assert len(emitted) == len(set(emitted))


@dataclass
class Watched:
    """A DAG on a job's asset, Airflow's handling of events, and a watcher that stores its position late."""

    world: World
    cursor: Cursor = field(default_factory=lambda: Cursor(START - timedelta(minutes=1)))
    reached: list[tuple[float, Cursor]] = field(default_factory=list)
    stored: Cursor = field(default_factory=lambda: Cursor(START - timedelta(minutes=1)))
    watching: bool = True
    paused: bool = False
    queued: bool = False
    record: FakeRecord = field(default_factory=FakeRecord)
    taken: list[int] = field(default_factory=list)

    def poll(self, second: float, *, dies: bool = False) -> None:
        if not self.watching:
            return
        fresh, self.cursor = self.cursor.advance(
            self.world.listed(START + timedelta(seconds=second), self.cursor.since)
        )
        if dies:  # before Airflow has stored the events
            self.begin(second)
            return
        self.queued |= any(run.succeeded for run in fresh) and not self.paused  # merged, or dropped
        self.reached.append((second, self.cursor))
        self.settle(second)

    def settle(self, second: float) -> None:
        while self.reached and self.reached[0][0] <= second - 600:
            self.stored = Cursor.from_json(self.reached.pop(0)[1].to_json())

    def begin(self, second: float) -> None:
        self.cursor, self.reached, self.watching = self.stored, [], True

    def run(self, second: float) -> None:
        """Run the first task of a DAG run, if an event has started one."""
        if not self.queued or self.paused:
            return
        self.queued = False

        def listed(since: datetime) -> list[CloudRun]:
            return self.world.listed(START + timedelta(seconds=second), since)

        name = f"d{second}-{len(self.taken)}"
        claim = take(self.record, listed, name, after=None, first=FIRST, consume="each", on_failure="wait")
        if claim:
            self.taken.append(claim.run.id)
            self.queued = next_free_run(self.record, listed, after=None, first=FIRST, on_failure="wait") is not None


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    HISTORY,
    st.lists(st.tuples(st.floats(0, 4000), st.sampled_from(["poll", "poll", "poll", "dies", "run"])), max_size=40),
    st.none() | st.tuples(st.floats(0, 4000), st.floats(0, 599), st.floats(1, 2000)),
)
def test_each_run_has_its_dag_run_though_airflow_merges_and_drops_events(
    history: list[tuple[float, RunStatus, float]],
    steps: list[tuple[float, str]],
    pause: tuple[float, float, float] | None,
) -> None:
    """The DAG may be paused for a while, and still be watched for up to ten minutes of it."""
    watched = Watched(world_of(history))
    timeline = list(steps)
    if pause:
        stop = pause[0] + pause[1]
        timeline += [(pause[0], "pause"), (stop, "stop"), (stop + pause[2], "resume")]
    for second, step in [*sorted(timeline), (8000, "poll")]:
        if step in ("poll", "dies"):
            watched.poll(second, dies=step == "dies")
        elif step == "run":
            watched.run(second)
        elif step == "resume":
            watched.paused = False
            watched.begin(second)
        else:
            watched.paused = True
            watched.watching = step == "pause"
    while watched.queued:
        watched.run(8000)
    assert sorted(watched.taken) == [run.id for run, _ in watched.world.runs if run.succeeded]
