"""Rows in jobs: semantics "Jobs", rule by rule. The process dies at each arrow, and nothing is lost or sent twice."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Literal, cast, get_args

import pytest

from airflow_reverse_etl.errors import ConfigurationError, FailurePolicyError, IncompleteLoadError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import JobRef
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.rate_budget import FileBudget
from airflow_reverse_etl.sync.context import RunContext, Wait
from airflow_reverse_etl.sync.ports import LoadsInJobs
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.testing import CrashError, FakeBulkApi, JobDials
from airflow_reverse_etl.testing.jobs import Arrow
from tests.sync.world import NOT_IDEMPOTENT, World, many, on_every_store, rows

KINDS: tuple[Literal["on_close", "at_once"], ...] = ("on_close", "at_once")
of_each_kind = pytest.mark.parametrize("starts", KINDS)
at_each_arrow = pytest.mark.parametrize("arrow", get_args(Arrow))


class Bulk(World):
    """A world whose destination takes jobs."""

    @property
    def api(self) -> FakeBulkApi:
        return cast(FakeBulkApi, self.destination)

    def killed(self) -> bool:
        return getattr(self.destination, "died", False)

    def revive(self, **dials: Any) -> None:
        self.api.died = False
        self.api.dials = JobDials(**dials)

    def written(self) -> Counter[str]:
        return Counter(key for _, key in self.api.table.writes)


def bulk(world: World, starts: Literal["on_close", "at_once"] = "on_close", **more: Any) -> Bulk:
    """Return the same world with a bulk API."""
    made = Bulk(store=world.store, clock=world.clock, observer=world.observer, warehouse=world.warehouse)
    made.destination = FakeBulkApi(starts, **more)  # type: ignore[assignment]
    return made


async def finished(world: Bulk, run_id: str, wait: Any) -> RunReport:
    """Do what the task of a run does after each wait, until it ends."""
    context = replace(world.context(run_id), deferrable=True)
    while isinstance(wait, Wait):
        world.clock.advance(max(0.0, (wait.until - world.clock.now()).total_seconds()))
        context = replace(context, finished=context.finished | wait.finished)
        wait = await attempt(world, context, planned=wait.planned)
    assert isinstance(wait, RunReport)
    return wait


async def failed(world: Bulk, model: list[dict[str, Any]] | None, run_id: str) -> RunReport:
    """Do a run that is red because of rows in doubt."""
    with pytest.raises(FailurePolicyError):
        await world.run(model, run_id=run_id)
    return world.report(run_id)


async def attempt(world: Bulk, context: RunContext, *, planned: bool = False) -> Any:
    from airflow_reverse_etl.sync.run import attempt_sync

    return await attempt_sync(world.sync(), world.source, world.destination, context, planned=planned)


def test_the_fake_is_a_destination_with_jobs() -> None:
    assert isinstance(FakeBulkApi(), LoadsInJobs)


@of_each_kind
@on_every_store
async def test_rows_go_in_jobs_and_are_settled_by_their_results(world: World, starts: Any) -> None:
    it = bulk(world, starts, dials=JobDials(reject=["k03"]))
    report = await it.run(many(6))
    assert (report.accepted, report.rejected, report.retryable) == (5, 1, 0)
    assert it.api.opened == it.api.closed
    assert [len(job.rows) for job in it.api.jobs.values()] == [4, 2]
    assert (await it.run(many(6))).planned.added == 1, "only the rejected row is planned again"


@of_each_kind
@on_every_store
async def test_a_task_that_can_defer_gives_the_lease_back_and_resumes_after_the_wait(world: World, starts: Any) -> None:
    it = bulk(world, starts, dials=JobDials(polls=9))
    wait = await it.attempt(many(3), run_id="r")
    assert isinstance(wait, Wait)
    assert [ref.job for ref in wait.jobs] == ["job-1"]
    assert it.clock.slept.count(20.0) == 3, "it polls for a minute itself"
    it.store.release("contacts", fence=it.store.acquire("contacts", "other", now=it.clock.now(), seconds=1))
    report = await finished(it, "r", wait)
    assert (report.accepted, report.planned.added) == (3, 3)
    assert it.written() == Counter(["k01", "k02", "k03"])


async def test_a_task_that_cannot_defer_polls_under_its_lease(world: World) -> None:
    it = bulk(world, dials=JobDials(polls=50))
    assert (await it.run(many(3))).accepted == 3
    assert it.api.opened == 1


@of_each_kind
async def test_a_reference_has_no_value_of_a_row_and_survives_json(world: World, starts: Any) -> None:
    it = bulk(world, starts, dials=JobDials(polls=99))
    wait = await it.attempt(rows(secret=4711), run_id="r")
    assert isinstance(wait, Wait)
    text = json.dumps(wait.jobs[0].to_json())
    assert "secret" not in text
    assert "4711" not in text
    assert JobRef.from_json(json.loads(text)) == wait.jobs[0]


@of_each_kind
@at_each_arrow
@pytest.mark.parametrize("mode", ["upsert", "insert"])
async def test_killed_at_each_arrow(world: World, starts: Any, arrow: Any, mode: str) -> None:
    """Nothing is lost, and no row is sent twice unless it is reported, and only of the kind that starts at once."""
    it = bulk(world, starts, dials=JobDials(die=arrow), capabilities=NOT_IDEMPOTENT if mode == "insert" else None)
    it.values = {"mode": mode, "failure": {"on_unknown": "resend", "max_rejected": "100%"}}
    try:
        await it.run(many(3), run_id="r")
    except CrashError:
        pass
    else:
        assert starts == "at_once", "this kind has every arrow"
        return
    it.revive()
    report = await it.run(run_id="r")
    assert sorted(it.api.rows) == ["k01", "k02", "k03"]
    twice = {key for key, times in it.written().items() if times > 1}
    assert len(twice) <= report.unknown or mode == "upsert"
    if starts == "on_close":
        assert (report.accepted, report.unknown, twice) == (3, 0, set())


@of_each_kind
@at_each_arrow
async def test_killed_at_each_arrow_and_another_run_comes_next(world: World, starts: Any, arrow: Any) -> None:
    it = bulk(world, starts, dials=JobDials(die=arrow, polls=2))
    try:
        await it.run(many(3), run_id="r")
    except CrashError:
        it.revive(polls=2)
    report = await it.run([*many(3), *rows(new=1)], run_id="r2")
    assert sorted(it.api.rows) == ["k01", "k02", "k03", "new"]
    assert report.retryable == 0
    if starts == "on_close":
        assert set(it.written().values()) == {1}


async def test_a_job_that_starts_at_once_is_in_doubt_between_the_request_and_the_save(world: World) -> None:
    it = bulk(world, "at_once", dials=JobDials(die="after create"), capabilities=NOT_IDEMPOTENT)
    it.values = {"mode": "insert", "failure": {"on_unknown": "fail", "max_rejected": "100%"}}
    with pytest.raises(CrashError):
        await it.run(many(3), run_id="r")
    it.revive()
    report = await failed(it, None, "r")
    assert (report.accepted, report.unknown) == (0, 3)
    assert set(it.written().values()) == {1}, "nothing is sent twice"


@on_every_store
async def test_open_jobs_lock_the_sync_and_leave_the_owner_two_minutes(world: World) -> None:
    it = bulk(world, dials=JobDials(polls=9))
    owner = await it.attempt(many(3), run_id="r")
    assert isinstance(owner, Wait)
    other = await it.attempt(rows(new=1), run_id="r2")
    assert isinstance(other, Wait)
    assert (other.planned, [ref.job for ref in other.jobs]) == (False, ["job-1"])
    assert [plan.run_id for plan in it.store.unfinished("contacts")] == ["r"], "nothing is planned meanwhile"
    it.api.dials.polls = 0
    grace = await it.attempt(run_id="r2")
    assert isinstance(grace, Wait)
    assert grace.until - it.clock.now() == timedelta(seconds=120)
    report = await finished(it, "r2", grace)
    assert report.accepted == 1
    assert it.report("r").accepted == 3
    assert set(it.written().values()) == {1}
    report = await finished(it, "r", owner)
    assert report.accepted == 3, "the owner gets the report with which the other run has committed it"


@on_every_store
async def test_the_job_of_an_edited_sync_is_collected_by_its_reference(world: World) -> None:
    it = bulk(world, dials=JobDials(polls=9))
    assert isinstance(await it.attempt(many(3), run_id="r"), Wait)
    it.revive()
    it.values = {"mapping": {"n": "n", "more": "n", "id": "id"}}
    report = await it.run(many(3), run_id="r")
    assert it.written() == Counter(["k01", "k02", "k03"] * 2), "once by the job, once because the mapping has changed"
    assert report.planned.changed == 3


async def test_a_job_of_another_connection_is_asked_for_by_a_destination_of_its_own(world: World) -> None:
    it = bulk(world, dials=JobDials(polls=9))
    assert isinstance(await it.attempt(many(3), run_id="r"), Wait)
    it.revive()
    it.values = {"destination": {"type": "fake", "match_on": "id", "connection": "moved"}}
    with pytest.raises(ConfigurationError, match="job job-1 was sent by connection ''"):
        await it.run(many(3), run_id="r")
    before, it.destination = it.api, FakeBulkApi()  # type: ignore[assignment]
    context = replace(it.context("r"), asks_for=lambda _: before)
    await attempt(it, context)
    assert sorted(before.rows) == ["k01", "k02", "k03"]
    assert before.opened == before.closed


@of_each_kind
async def test_a_row_that_no_result_names_is_in_doubt(world: World, starts: Any) -> None:
    it = bulk(world, starts, dials=JobDials(lose_rows=["k02"]), capabilities=NOT_IDEMPOTENT)
    it.values = {"mode": "insert", "failure": {"on_unknown": "fail", "max_rejected": "100%"}}
    report = await failed(it, many(3), "r")
    assert (report.accepted, report.unknown) == (2, 1)
    assert report.reasons[0]["code"] == "answer_lost"


@of_each_kind
async def test_a_job_that_disappears_leaves_its_rows_in_doubt(world: World, starts: Any) -> None:
    it = bulk(world, starts, dials=JobDials(vanish=[1]), capabilities=NOT_IDEMPOTENT)
    it.values = {"mode": "insert", "failure": {"on_unknown": "accept", "max_rejected": "100%"}}
    report = await it.run(many(3))
    assert (report.accepted, report.unknown) == (0, 3)
    assert set(it.written().values()) == {1}


async def test_rows_of_a_job_that_disappears_are_sent_again_where_that_is_safe(world: World) -> None:
    it = bulk(world, dials=JobDials(vanish=[1]))
    assert (await it.run(many(3))).accepted == 3
    assert set(it.written().values()) == {2}


async def test_unprocessed_rows_are_sent_again_in_another_job(world: World) -> None:
    it = bulk(world, dials=JobDials(unprocessed={"k02": 2}))
    assert (await it.run(many(3))).accepted == 3
    assert [len(job.rows) for job in it.api.jobs.values()] == [3, 1, 1]


async def test_rows_that_are_never_processed_end_the_load_and_the_next_try_begins_again(world: World) -> None:
    it = bulk(world, dials=JobDials(unprocessed={"k02": 5}))
    with pytest.raises(IncompleteLoadError, match="1 of 3 rows could not be sent yet: not_processed"):
        await it.run(many(3), run_id="r")
    assert len(it.api.jobs) == 4
    assert (await it.run(run_id="r")).accepted == 3


async def test_attempts_are_counted_over_deferrals(world: World) -> None:
    it = bulk(world, dials=JobDials(unprocessed={"k02": 99}, polls=9))
    with pytest.raises(IncompleteLoadError, match="not_processed"):
        await finished(it, "r", await it.attempt(many(3), run_id="r"))
    assert len(it.api.jobs) == 4


async def test_a_failed_upload_is_aborted_and_made_again(world: World) -> None:
    it = bulk(world, dials=JobDials(fail_upload=[1]))
    assert (await it.run(many(3))).accepted == 3
    assert [job.state for job in it.api.jobs.values()] == ["aborted", "done"]


@of_each_kind
async def test_the_lost_answer_to_a_creation(world: World, starts: Any) -> None:
    it = bulk(world, starts, dials=JobDials(lose_answer=[1]), capabilities=NOT_IDEMPOTENT)
    it.values = {"mode": "insert", "failure": {"on_unknown": "fail", "max_rejected": "100%"}}
    if starts == "on_close":
        assert (await it.run(many(3))).accepted == 3
    else:
        assert (await failed(it, many(3), "r")).unknown == 3
    assert set(it.written().values()) == {1}


async def test_past_the_deadline_the_load_is_red_and_the_next_try_asks_again(world: World) -> None:
    it = bulk(world, dials=JobDials(polls=400), patience=timedelta(hours=1))
    with pytest.raises(IncompleteLoadError, match="job job-1 had no result by"):
        await it.run(many(3), run_id="r")
    assert len(it.api.jobs) == 1
    it.revive()
    assert (await it.run(run_id="r")).accepted == 3
    assert set(it.written().values()) == {1}


async def test_a_job_that_cannot_be_asked_for_is_asked_again(world: World) -> None:
    it = bulk(world, dials=JobDials(unreachable=3))
    assert (await it.run(many(3))).accepted == 3
    assert set(it.written().values()) == {1}


async def test_jobs_are_full_however_the_store_reads(world: World) -> None:
    it = bulk(world)
    changes = it.store.changes

    def in_parts(*arguments: Any, **more: Any) -> Any:
        for part in changes(*arguments, **more):
            for at in range(part.num_rows):
                yield part.slice(at, 1)

    it.store.changes = in_parts  # type: ignore[method-assign]
    assert (await it.run(many(10))).accepted == 10
    assert [len(job.rows) for job in it.api.jobs.values()] == [4, 4, 2]


@of_each_kind
async def test_a_day_that_is_used_up_leaves_jobs_and_rows_to_another_one(world: World, starts: Any) -> None:
    """Whatever step of a job there is no request for: creating, uploading, closing, asking, reading a page."""
    it = bulk(world, starts, capabilities=NOT_IDEMPOTENT)
    it.values = {"mode": "insert"}
    for most in (1, 2, 3, 4, 5, 9, 9):
        with contextlib.suppress(IncompleteLoadError):  # the results of an earlier run's jobs are missing
            await it.run(many(6), rate={"requests_per_day": most})
    assert it.written() == Counter(row["id"] for row in many(6))
    assert (await it.run(many(6))).planned.total == 0


async def test_removed_rows_are_answered_before_the_rest_begins(world: World) -> None:
    it = bulk(world, max_jobs=5)
    it.values = {"mode": "mirror", "guards": {"min_rows": 0, "max_removed": "100%"}}
    await it.run(many(3))
    await it.run(rows(new=1))
    operations = [job.operation for job in it.api.jobs.values()]
    assert operations == [Operation.UPSERT, Operation.DELETE, Operation.UPSERT]
    assert sorted(it.api.rows) == ["new"]


async def test_several_jobs_are_open_at_a_time_as_far_as_the_type_allows(world: World) -> None:
    it = bulk(world, max_jobs=2, dials=JobDials(polls=9))
    wait = await it.attempt(many(12), run_id="r")
    assert isinstance(wait, Wait)
    assert len(wait.jobs) == 2
    assert (await finished(it, "r", wait)).accepted == 12


async def test_a_plan_with_an_open_job_is_not_committed(world: World) -> None:
    it = bulk(world, dials=JobDials(polls=9))
    assert isinstance(await it.attempt(many(3), run_id="r"), Wait)
    steps = it.steps("r")
    async with steps.lease():
        plan = await steps.unfinished()
        assert plan is not None
        with pytest.raises(IncompleteLoadError, match="job job-1 has 3 rows of run r"):
            await steps.commit(plan, it.destination)
        await steps.reject(it.destination)
    assert await steps.unfinished() == plan, "a rejection leaves it to the next run"


async def test_an_insert_whose_results_cannot_be_matched_is_refused(world: World) -> None:
    it = bulk(world)
    it.values = {"mode": "append", "destination": {"type": "fake"}}
    with pytest.raises(ConfigurationError, match="results that cannot be matched"):
        await it.run(many(3))
    assert not it.api.jobs


def test_a_checkpoint_with_jobs_has_a_form_that_earlier_versions_refuse(world: World) -> None:
    now = world.clock.now()
    ref = JobRef("fake", "", "", Operation.UPSERT, "j", RangeSet(range(1, 4)), now, now, (("id", 0),))
    it = Checkpoint()
    before = it.to_json()
    it.begin_job(ref)
    stored = it.to_json()
    assert not stored.keys() & before.keys(), "what an earlier version needs is missing, so it does not send the rows"
    assert Checkpoint.from_json(json.loads(json.dumps(stored))).jobs == {"j": ref}
    with pytest.raises(ValueError, match="format"):
        Checkpoint.from_json({**stored, "format": 3})


def test_a_checkpoint_of_the_time_before_jobs_is_read() -> None:
    """Commit f2c7beb wrote it, the last one without jobs: row 2 rejected, 3 and 4 unanswered and sent again, 6 left."""
    stored = json.loads((Path(__file__).parents[1] / "stores" / "state" / "f2c7beb-checkpoint.json").read_text())
    read = Checkpoint.from_json(stored)
    assert (read.jobs, read.ended, read.returned) == ({}, set(), [])
    assert (list(read.settled), read.answer_lost, list(read.failed)) == ([range(1, 5)], {3, 4}, [2])
    assert read.to_json() == stored, "without jobs, that version reads today's"


@pytest.mark.slow
@on_every_store
@of_each_kind
async def test_killed_hundreds_of_times(world: World, starts: Any) -> None:
    """Whoever comes next, the same run or another one, nothing is lost, and nothing is sent twice unreported."""
    await killed_often(bulk(world, starts, capabilities=NOT_IDEMPOTENT, max_jobs=2), kills=84)


@of_each_kind
async def test_killed_ten_times(world: World, starts: Any) -> None:
    await killed_often(bulk(world, starts, capabilities=NOT_IDEMPOTENT, max_jobs=2), kills=10)


async def killed_often(it: Bulk, *, kills: int) -> None:
    it.values = {"mode": "insert", "failure": {"on_unknown": "resend", "max_rejected": "100%"}}
    random = Random(kills)
    arrows = list(get_args(Arrow))
    killed: Counter[str] = Counter()
    keys: list[str] = []
    unknown = 0
    while killed.total() < kills:
        it.runs += 1
        keys += [f"r{it.runs}-{at}" for at in range(random.randint(3, 14))]
        model = rows(**dict.fromkeys(keys, 1))
        for _ in range(random.randint(1, 3)):
            arrow = random.choice(arrows)
            it.revive(die=arrow, polls=random.randint(0, 3))
            try:
                await it.run(model, run_id=f"run-{it.runs}")
            except CrashError:
                killed[arrow] += 1
    it.revive()
    await it.run(model, run_id="last")
    for number in range(1, it.runs + 1):
        report = it.store.last_report("contacts", f"run-{number}")
        unknown += report.unknown if report else 0
    unknown += it.report("last").unknown
    twice = [key for key, times in it.written().items() if times > 1]
    assert sorted(it.api.rows) == sorted(keys), "0 lost"
    assert len(twice) <= unknown, "0 twice and unreported"
    if it.api.terms.starts == "on_close":
        assert (twice, unknown) == ([], 0)


async def test_the_jobs_of_all_tasks_on_a_connection_are_counted_together(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two syncs, one slot: the second waits for the first one's job; so it does if that one was killed, for an hour."""

    async def at_once(function: Any, *arguments: Any, **more: Any) -> Any:
        return function(*arguments, **more)

    monkeypatch.setattr("asyncio.to_thread", at_once)  # simulated time does not wait for a thread
    budget = FileBudget(StateFiles(str(tmp_path)))
    values = {"destination": {"type": "fake", "match_on": "id", "connection": "crm"}}
    first = bulk(world, dials=JobDials(polls=9))
    first.values = values
    second = bulk(world)
    second.values = {**values, "name": "companies"}
    first.budget = second.budget = budget

    owner = await first.attempt(many(6), run_id="r")
    assert isinstance(owner, Wait)
    other = await second.attempt(many(3), run_id="r")
    assert isinstance(other, Wait)
    assert (other.jobs, other.reason) == ((), "connection 'crm' has as many open jobs as it may have")
    assert not second.api.jobs
    assert (await finished(first, "r", owner)).accepted == 6
    assert (await finished(second, "r", other)).accepted == 3

    first.revive(die="after create")
    with pytest.raises(CrashError):
        await first.run(rows(new=1), run_id="r2")
    first.revive()
    wait = await second.attempt(rows(new=1), run_id="r2")
    assert isinstance(wait, Wait)
    second.clock.advance(3600)
    assert (await finished(second, "r2", wait)).accepted == 1
    assert (await first.run(run_id="r2")).accepted == 1
