"""The client reads dbt Cloud's answers, repeats only safe requests, and explains refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi
from airflow_reverse_etl.dbt_cloud.models import RunStatus
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, UnreachableError
from tests.dbt_cloud.server import DbtCloudServer

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def test_finished_runs_come_in_order_from_all_pages(cloud: DbtCloudServer, api: DbtCloudApi) -> None:
    job, other = cloud.add_job(), cloud.add_job()
    ids = [cloud.add_run(job, finished_at=NOW + timedelta(seconds=(n * 37) % 250)) for n in range(250)]
    cloud.add_run(other, finished_at=NOW)
    cloud.add_run(job, finished_at=NOW - timedelta(seconds=1))
    cloud.add_run(job, status=RunStatus.RUNNING)
    async with api:
        runs = await api.finished_runs(NOW, job_id=job)
        assert len(await api.finished_runs(NOW)) == 251
    assert sorted(run.id for run in runs) == ids
    assert [run.order for run in runs] == sorted(run.order for run in runs)
    assert len(cloud.requests) == 6


async def test_a_page_that_is_shorter_than_asked_does_not_end_a_listing(
    cloud: DbtCloudServer, api: DbtCloudApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.dbt_cloud.server.PAGE", 40)
    job = cloud.add_job()
    ids = [cloud.add_run(job, finished_at=NOW + timedelta(seconds=n)) for n in range(100)]
    async with api:
        assert [run.id for run in await api.finished_runs(NOW)] == ids


async def test_the_servers_clock_is_known(cloud: DbtCloudServer, api: DbtCloudApi) -> None:
    cloud.now = lambda: NOW
    async with api:
        await api.job_ids()
    assert api.server_time == NOW


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 0])
async def test_a_passing_failure_is_repeated(cloud: DbtCloudServer, api: DbtCloudApi, status: int) -> None:
    job = cloud.add_job()
    cloud.fail_next(3, status)
    async with api:
        assert (await api.job(job))["id"] == job
    assert len(cloud.requests) == 4


async def test_a_lasting_failure_ends(cloud: DbtCloudServer, api: DbtCloudApi) -> None:
    cloud.fail_next(4, 503)
    async with api:
        with pytest.raises(UnreachableError, match="503"):
            await api.job_ids()
    assert len(cloud.requests) == 4


async def test_retry_after_is_honoured(cloud: DbtCloudServer) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    cloud.fail_next(1, 429, retry_after=77)
    async with DbtCloudApi(cloud.url, cloud.account_id, token=cloud.token, sleep=sleep) as api:
        await api.job_ids()
    assert waits == [77]


async def test_nothing_is_created_twice(cloud: DbtCloudServer, api: DbtCloudApi) -> None:
    """A 502 may come after dbt Cloud has acted, a 429 never."""
    job = cloud.add_job()
    async with api:
        cloud.fail_next(1, 502)
        with pytest.raises(UnreachableError):
            await api.create_webhook("x", job_id=job, client_url="http://127.0.0.1/")
        cloud.fail_next(1, 429)
        await api.create_webhook("x", job_id=job, client_url="http://127.0.0.1/")
        assert len(await api.webhooks()) == 1


async def test_an_expired_token_and_a_missing_permission_say_what_to_do(
    cloud: DbtCloudServer, api: DbtCloudApi
) -> None:
    cloud.read_only = True
    async with api:
        with pytest.raises(CredentialsError, match=r"403[\s\S]*Account Admin"):
            await api.webhooks()
        cloud.rotate_token()
        with pytest.raises(CredentialsError, match=r"401[\s\S]*Read-Only") as caught:
            await api.job_ids()
    assert "dbtc_" not in str(caught.value)
    assert len(cloud.requests) == 2  # neither is worth repeating


async def test_a_deleted_job_is_a_configuration_error(cloud: DbtCloudServer, api: DbtCloudApi) -> None:
    job = cloud.add_job()
    cloud.delete_job(job)
    async with api:
        with pytest.raises(ConfigurationError, match=f"jobs/{job}"):
            await api.job(job)


async def test_results_of_all_steps_not_the_last_one(cloud: DbtCloudServer, api: DbtCloudApi) -> None:
    build = {"results": [{"unique_id": "model.a.customers", "status": "success"}]}
    test = {"results": [{"unique_id": "test.a.t", "status": "fail"}]}
    steps = [{}, {"run_results.json": build, "manifest.json": {}}, {"run_results.json": test}]
    run = cloud.add_run(cloud.add_job(), steps=steps)
    async with api:
        assert await api.step_results(run) == [build, test]
        assert await api.artifact(run, "run_results.json") == test
        assert await api.artifact(run, "catalog.json") is None
        assert await api.artifacts(run) == ["manifest.json", "run_results.json"]
        assert await api.artifacts(cloud.add_run(1)) == []


async def test_an_unreachable_host_is_named() -> None:
    async def no_sleep(_: float) -> None: ...

    async with DbtCloudApi("http://127.0.0.1:9", 1, token="secret", conn_id="c", sleep=no_sleep) as api:
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
            await api.job_ids()
