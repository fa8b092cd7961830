"""One poll of the account serves everybody, never misses a run, and never spins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi
from airflow_reverse_etl.dbt_cloud.feed import AccountFeed, FeedTiming, News, account_feed
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, UnreachableError
from tests.dbt_cloud.conftest import QUICK, client
from tests.dbt_cloud.server import DbtCloudServer

POLL = 0.05


def feed_of(cloud: DbtCloudServer, timing: FeedTiming = QUICK) -> AccountFeed:
    async def connect() -> DbtCloudApi:
        return client(cloud)

    return AccountFeed(connect, timing=timing)


@pytest.fixture
def feed(cloud: DbtCloudServer) -> AccountFeed:
    return feed_of(cloud)


def now() -> datetime:
    return datetime.now(UTC)


async def first(news: AsyncGenerator[News, None]) -> News:
    async with asyncio.timeout(5):
        async for item in news:
            if item.runs or item.error:
                return item
    raise AssertionError


async def test_a_finished_run_reaches_the_waiters_of_its_job_only(cloud: DbtCloudServer, feed: AccountFeed) -> None:
    one, two = cloud.add_job(), cloud.add_job()
    async with (
        aclosing(feed.watch(one, since=now(), interval=POLL)) as mine,
        aclosing(feed.watch(two, since=now(), interval=POLL)) as theirs,
    ):
        reading = asyncio.gather(first(mine), anext(theirs))
        await asyncio.sleep(POLL * 2)
        run = cloud.add_run(one)
        news, other = await reading
        assert [run.id for run in news.runs] == [run]
        assert other.runs == ()


async def test_requests_do_not_grow_with_the_number_of_waiters(cloud: DbtCloudServer, feed: AccountFeed) -> None:
    jobs = [cloud.add_job() for _ in range(50)]

    async def wait(job: int) -> News:
        async with aclosing(feed.watch(job, since=now(), interval=POLL)) as news:
            return await first(news)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [group.create_task(wait(job)) for job in jobs]
        await asyncio.sleep(POLL * 4)
        for job in jobs:
            cloud.add_run(job)
    assert {task.result().runs[0].job_id for task in waiting} == set(jobs)
    assert len(cloud.requests) < 15


@pytest.mark.parametrize("back", [timedelta(hours=3), timedelta(days=30)])
async def test_a_late_waiter_gets_the_runs_that_finished_before(
    cloud: DbtCloudServer, feed: AccountFeed, back: timedelta
) -> None:
    job = cloud.add_job()
    run = cloud.add_run(job, finished_at=now() - back + timedelta(minutes=1))
    async with aclosing(feed.watch(job, since=now(), interval=POLL)) as early:
        await anext(early)
        async with aclosing(feed.watch(job, since=now() - back, interval=POLL)) as late:
            assert [run.id for run in (await first(late)).runs] == [run]


async def test_many_who_catch_up_after_a_long_time_share_their_requests(
    cloud: DbtCloudServer, feed: AccountFeed
) -> None:
    """The triggerer restarts with watchers of weekly jobs."""
    week = timedelta(days=7)
    ran = {job: cloud.add_run(job, finished_at=now() - week) for job in (cloud.add_job() for _ in range(30))}

    async def catch_up(job: int) -> int:
        async with aclosing(feed.watch(job, since=now() - week - timedelta(hours=1), interval=60)) as news:
            return (await first(news)).runs[0].id

    assert await asyncio.gather(*map(catch_up, ran)) == list(ran.values())
    assert len(cloud.requests) <= 4


async def test_a_new_waiter_does_not_wait_for_the_long_interval_of_others(cloud: DbtCloudServer) -> None:
    """A DAG is unpaused while the watchers of others only back up their webhooks."""
    feed = feed_of(cloud, replace(QUICK, arrival=0.3))
    job = cloud.add_job()
    run = cloud.add_run(job)
    async with aclosing(feed.watch(cloud.add_job(), since=now(), interval=3600)) as seldom:
        await anext(seldom)
        async with asyncio.timeout(5), aclosing(feed.watch(job, since=now(), interval=3600)) as arrival:
            assert [item.id for item in (await anext(arrival)).runs] == [run]
            await asyncio.sleep(1)
            assert sum(path.endswith("/runs/") for _, _, path in cloud.requests) == 2


async def test_a_finished_run_is_reported_in_time_for_airflow_to_store_it(cloud: DbtCloudServer) -> None:
    feed = feed_of(cloud, replace(QUICK, storing=0.4))
    job = cloud.add_job()
    async with aclosing(feed.watch(job, since=now(), interval=1.0)) as news:
        await anext(news), await anext(news)
        cloud.add_run(job)
        finished = asyncio.get_running_loop().time()
        await first(news)
        assert asyncio.get_running_loop().time() - finished < 0.7


async def test_nothing_is_missed_over_an_outage(cloud: DbtCloudServer, feed: AccountFeed) -> None:
    job = cloud.add_job()
    async with aclosing(feed.watch(job, since=now(), interval=POLL)) as news:
        await anext(news), await anext(news)  # and the list of jobs in between
        cloud.fail_next(9, 503)
        assert isinstance((await first(news)).error, UnreachableError)
        run = cloud.add_run(job)
        cloud.fail_next(4, 500)
        while (item := await first(news)).error:
            pass
        assert [run.id for run in item.runs] == [run]


async def test_a_long_outage_loses_nothing_either(cloud: DbtCloudServer, feed: AccountFeed) -> None:
    """A poll lists the runs since the last complete poll, however long ago that was."""
    job = cloud.add_job()
    cloud.now = lambda: now() - timedelta(hours=1)
    async with aclosing(feed.watch(job, since=cloud.now(), interval=POLL)) as news:
        await anext(news), await anext(news)  # and the list of jobs in between
        cloud.fail_next(4, 503)
        assert (await first(news)).error
        cloud.now = now
        run = cloud.add_run(job, finished_at=now() - timedelta(minutes=50))
        while (item := await first(news)).error:
            pass
        assert [run.id for run in item.runs] == [run]


async def test_errors_do_not_make_it_spin(cloud: DbtCloudServer, feed: AccountFeed) -> None:
    cloud.fail_next(10_000, 403)
    async with aclosing(feed.watch(1, since=now(), interval=0.2)) as news:
        assert isinstance((await first(news)).error, CredentialsError)
        before = len(cloud.requests)
        await asyncio.sleep(1)
        assert len(cloud.requests) - before <= 2 * 6  # twice a poll: the connection may have a new token


async def test_a_token_that_was_replaced_in_the_connection_is_picked_up(
    cloud: DbtCloudServer, feed: AccountFeed
) -> None:
    job = cloud.add_job()
    async with aclosing(feed.watch(job, since=now(), interval=POLL)) as news:
        await anext(news)
        cloud.rotate_token()
        run = cloud.add_run(job)
        item = await first(news)
        assert item.error is None
        assert [run.id for run in item.runs] == [run]


async def test_a_deleted_job_is_reported_to_its_waiters(cloud: DbtCloudServer) -> None:
    feed = feed_of(cloud, replace(QUICK, jobs=0.0))
    job, other = cloud.add_job(), cloud.add_job()
    async with (
        aclosing(feed.watch(job, since=now(), interval=POLL)) as news,
        aclosing(feed.watch(other, since=now(), interval=POLL)) as others,
    ):
        await asyncio.gather(anext(news), anext(others))
        cloud.delete_job(job)
        assert isinstance((await first(news)).error, ConfigurationError)
        assert (await anext(others)).error is None


async def test_it_stops_with_the_last_waiter_and_starts_with_the_next(cloud: DbtCloudServer, feed: AccountFeed) -> None:
    job = cloud.add_job()
    for _ in range(2):
        async with aclosing(feed.watch(job, since=now(), interval=POLL)) as news:
            await anext(news)
        await asyncio.sleep(POLL)
        before = len(cloud.requests)
        await asyncio.sleep(POLL * 4)
        assert len(cloud.requests) == before


async def test_a_connection_has_one_feed_per_event_loop() -> None:
    async def connect() -> DbtCloudApi:
        raise AssertionError

    assert account_feed("a", connect) is account_feed("a", connect)
    assert account_feed("a", connect) is not account_feed("b", connect)


async def test_an_interval_of_zero_does_not_make_it_spin(cloud: DbtCloudServer) -> None:
    feed = feed_of(cloud, replace(QUICK, shortest=0.2))
    async with aclosing(feed.watch(cloud.add_job(), since=now(), interval=0)) as news:
        await anext(news)
        before = len(cloud.requests)
        await asyncio.sleep(1)
        assert 3 <= len(cloud.requests) - before <= 6
