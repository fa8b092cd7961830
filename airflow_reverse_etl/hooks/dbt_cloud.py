"""Hook of the ``dbt_cloud`` connection of apache-airflow-providers-dbt-cloud, for any host."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_reverse_etl.compat import AirflowException, BaseHook
from airflow_reverse_etl.connections import async_connection_info, connection_info
from airflow_reverse_etl.errors import ConfigurationError, ReverseEtlError
from airflow_reverse_etl.sync.ports import ConnectionInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi

T = TypeVar("T")


class DbtCloudApiHook(BaseHook):
    """Reads runs and jobs of dbt Cloud, and manages its webhook subscriptions.

    Connection: login = account id, password = service token or personal token, host = access URL (a domain, or a bare
    subdomain of getdbt.com; empty for cloud.getdbt.com), extra ``proxies``, extra ``webhook_secret`` (one or a list).
    The official hook does the rest, see :meth:`official`: triggering runs, looking jobs up by name.

    :param dbt_cloud_conn_id: Airflow connection of type ``dbt_cloud``.
    :raises CredentialsError: from every method: no such connection, or dbt Cloud refuses its token.
    :raises UnreachableError: from every method: dbt Cloud does not answer, after retries with backoff.
    """

    conn_name_attr = "dbt_cloud_conn_id"
    default_conn_name = "dbt_cloud_default"
    conn_type = "dbt_cloud"

    def __init__(self, dbt_cloud_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.dbt_cloud_conn_id = dbt_cloud_conn_id

    @cached_property
    def _connection(self) -> ConnectionInfo:
        return connection_info(self.dbt_cloud_conn_id)

    def api(self) -> DbtCloudApi:
        """Return a client of the account, an async context manager."""
        from airflow_reverse_etl.dbt_cloud.client import client

        return client(self._connection)

    async def async_api(self) -> DbtCloudApi:
        """Return a client from inside an event loop, such as the triggerer's. Each call reads the connection again."""
        from airflow_reverse_etl.dbt_cloud.client import client

        return client(await async_connection_info(self.dbt_cloud_conn_id))

    def call(self, request: Callable[[DbtCloudApi], Awaitable[T]]) -> T:
        """Make requests from synchronous code: ``hook.call(lambda api: api.run(7))``."""

        async def work() -> T:
            async with self.api() as api:
                return await request(api)

        return asyncio.run(work())

    def official(self, **kwargs: Any) -> Any:
        """Return the official provider's hook for this connection, on any host.

        :raises ConfigurationError: the provider is not installed.
        """
        try:
            from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
        except ImportError:
            raise ConfigurationError(
                "apache-airflow-providers-dbt-cloud is not installed",
                todo="pip install 'airflow-provider-reverse-etl[dbt-cloud]'",
            ) from None
        url = self.api().url

        class AnyHostHook(DbtCloudHook):
            def get_conn(self, *args: Any, **kwargs: Any) -> Any:
                session = super().get_conn(*args, **kwargs)
                self.base_url = f"{url}/"
                return session

        return AnyHostHook(self.dbt_cloud_conn_id, **{"timeout_seconds": 60, "retry_limit": 4, **kwargs})

    def job_id(self, *, project_name: str, environment_name: str, job_name: str) -> int:
        """Find the id of a job by its names.

        :raises ConfigurationError: no job has these names, or several do.
        """
        names = {"project_name": project_name, "environment_name": environment_name, "job_name": job_name}
        try:
            return int(self.official().get_job_by_name(**names)["id"])
        except AirflowException as error:
            raise ConfigurationError(
                f"dbt Cloud: {error}",
                todo="check the three names, and that the token sees the project",
                connection=self.dbt_cloud_conn_id,
                **names,
            ) from error

    def model_results(self, run_id: int) -> dict[str, str]:
        """Return the status of each node that the run touched, over all its steps, by unique id."""
        from airflow_reverse_etl.dbt_cloud.models import model_results

        return model_results(self.call(lambda api: api.step_results(run_id)))

    def create_webhook(self, job_id: int, client_url: str, *, name: str = "") -> dict[str, Any]:
        """Subscribe a URL to a job's completed runs.

        dbt Cloud shows the result's ``hmac_secret`` only once: put it into the connection's extra ``webhook_secret``.
        """
        title = name or f"Airflow: job {job_id}"
        return self.call(lambda api: api.create_webhook(title, job_id=job_id, client_url=client_url))

    def list_webhooks(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """List the account's subscriptions, or those that include a job."""
        hooks = self.call(lambda api: api.webhooks())
        return [
            hook for hook in hooks if job_id is None or not hook["job_ids"] or str(job_id) in map(str, hook["job_ids"])
        ]

    def test_webhook(self, webhook_id: str) -> dict[str, Any]:
        """Let dbt Cloud send a test delivery, and return the receiver's answer."""
        return self.call(lambda api: api.test_webhook(webhook_id))

    def delete_webhook(self, webhook_id: str) -> None:
        """Delete a subscription."""
        self.call(lambda api: api.delete_webhook(webhook_id))

    def test_connection(self) -> tuple[bool, str]:
        """Count the account's jobs.

        :returns: False if dbt Cloud does not answer, or refuses the token; and a message.
        """
        try:
            jobs = self.call(lambda api: api.job_ids())
        except ReverseEtlError as error:
            return False, str(error)
        return True, f"dbt Cloud answers; the token sees {len(jobs)} jobs"
