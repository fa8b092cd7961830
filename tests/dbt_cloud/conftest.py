"""A dbt Cloud on this machine, and the connection to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi
from airflow_reverse_etl.dbt_cloud.feed import FeedTiming
from airflow_reverse_etl.http.retries import Retries
from airflow_reverse_etl.sync.load.backoff import Backoff
from tests.dbt_cloud.server import DbtCloudServer

#: Intervals of a feed that polls at once, and as often as its waiters ask for.
QUICK = FeedTiming(gather=0.05, shortest=0.0, storing=0.0, backoff=Backoff(first=0.05, longest=0.05))


@pytest.fixture
def cloud() -> Iterator[DbtCloudServer]:
    with DbtCloudServer() as server:
        yield server


@pytest.fixture
def connect(cloud: DbtCloudServer, add_connection: Callable[..., None]) -> Callable[..., None]:
    """Return a function that writes the Airflow connection ``dbt_cloud`` again, as after a change of the token."""

    def write(**extra: Any) -> None:
        fields = {"host": cloud.url, "login": str(cloud.account_id), "password": cloud.token, "extra": extra}
        add_connection("dbt_cloud", conn_type="dbt_cloud", **fields)

    write()
    return write


@pytest.fixture
def api(cloud: DbtCloudServer) -> DbtCloudApi:
    """Return a client that does not wait long between its attempts."""
    return client(cloud)


def client(cloud: DbtCloudServer) -> DbtCloudApi:
    retries = Retries(Backoff(first=0.001, longest=0.001, attempts=4))
    return DbtCloudApi(cloud.url, cloud.account_id, token=cloud.token, conn_id="dbt_cloud", retries=retries)


@pytest.fixture
def store_dag(airflow_db: None) -> Callable[[Any], None]:
    """Return a function that stores a DAG as the DAG processor does, which makes its assets known."""
    from tests.conftest import _store_dag

    return _store_dag
