"""The commands ``reverse-etl dbt-cloud webhook …``: webhook subscriptions of a dbt Cloud account.

The connection is read from the environment variable ``AIRFLOW_CONN_<ID>`` as JSON, so no token appears in the
arguments.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.errors import CredentialsError

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi
    from airflow_reverse_etl.sync.ports import ConnectionInfo


Connection = Annotated[str, typer.Option(metavar="ID", help="Airflow connection id")]
WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK_ID", help="id of the webhook, wsu_…, as printed by list")]

_DEFAULT = "dbt_cloud_default"


def create(
    job_id: Annotated[int, typer.Argument(metavar="JOB_ID", help="number in the job's URL")],
    url: Annotated[str, typer.Argument(metavar="URL", help="https://<airflow>/reverse-etl/dbt-cloud/<connection id>")],
    connection: Connection = _DEFAULT,
) -> Answer:
    """Create a webhook.

    :raises ReverseEtlError: as :class:`airflow_reverse_etl.dbt_cloud.client.DbtCloudApi` does.
    """
    name = f"Airflow: job {job_id}"
    return _ask(connection, lambda api: api.create_webhook(name, job_id=job_id, client_url=url))


def list_all(connection: Connection = _DEFAULT) -> Answer:
    """List the webhooks; raises as :func:`create`."""
    return _ask(connection, lambda api: api.webhooks())


def ask_for_delivery(webhook_id: WebhookId, connection: Connection = _DEFAULT) -> Answer:
    """Ask for a test delivery; raises as :func:`create`."""
    return _ask(connection, lambda api: api.test_webhook(webhook_id))


def delete(webhook_id: WebhookId, connection: Connection = _DEFAULT) -> Answer:
    """Delete a webhook; raises as :func:`create`."""

    async def deleted(api: DbtCloudApi) -> Any:
        await api.delete_webhook(webhook_id)
        return {"deleted": webhook_id}

    return _ask(connection, deleted)


def _ask(connection: str, act: Callable[[DbtCloudApi], Awaitable[Any]]) -> Answer:
    import asyncio

    from airflow_reverse_etl.dbt_cloud.client import client

    async def main() -> Any:
        async with client(_connection(connection)) as api:
            return await act(api)

    found = asyncio.run(main())
    return Answer(found, [json.dumps(found, indent=2)])


def _connection(conn_id: str) -> ConnectionInfo:
    from airflow_reverse_etl.sync.ports import ConnectionInfo

    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    try:
        fields = json.loads(os.environ[name])
        extra = fields.get("extra") or {}
        return ConnectionInfo(
            conn_id,
            host=fields.get("host"),
            port=fields.get("port"),
            login=fields.get("login"),
            password=fields.get("password"),
            extra=json.loads(extra) if isinstance(extra, str) else extra,
        )
    except (KeyError, ValueError, AttributeError):  # without its cause, whose text may contain the token
        raise CredentialsError(
            f"the environment variable {name} is not set to a connection as JSON",
            todo='set it to {"login": "<account id>", "password": "<token>", "host": "<access URL>"}',
            connection=conn_id,
        ) from None
