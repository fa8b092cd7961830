"""The commands ``reverse-etl dbt-cloud webhook …``: webhook subscriptions of a dbt Cloud account.

The connection is read from the environment variable ``AIRFLOW_CONN_<ID>`` as JSON, so no token appears in the
arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any

from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.sync.ports import ConnectionInfo


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``dbt-cloud`` to a program. The parsed arguments have ``run``, a function that takes them."""
    cloud = commands.add_parser("dbt-cloud", help="manage dbt Cloud").add_subparsers(required=True)
    webhook = cloud.add_parser("webhook", help="manage the webhooks by which dbt Cloud notifies Airflow")
    actions = webhook.add_subparsers(dest="action", required=True)

    create = actions.add_parser(
        "create", help="create a webhook that reports finished runs of a job; print its secret, once"
    )
    create.add_argument("job_id", type=int, help="number in the job's URL")
    create.add_argument("url", help="https://<airflow>/reverse-etl/dbt-cloud/<connection id>")

    actions.add_parser("list", help="list the webhooks of the account")

    test = actions.add_parser("test", help="ask dbt Cloud for a test delivery")
    test.add_argument("webhook_id", help="id of the webhook, wsu_…, as printed by list")

    delete = actions.add_parser("delete", help="delete a webhook")
    delete.add_argument("webhook_id", help="id of the webhook, wsu_…, as printed by list")

    for parser in actions.choices.values():
        parser.add_argument("--connection", default="dbt_cloud_default", help="Airflow connection id (%(default)s)")
        parser.set_defaults(run=run_webhook)


def run_webhook(args: argparse.Namespace) -> Any:
    """Carry out the action of the arguments and return the text to print.

    :raises ReverseEtlError: as :class:`airflow_reverse_etl.dbt_cloud.client.DbtCloudApi` does.
    """
    return json.dumps(asyncio.run(_act(args)), indent=2)


async def _act(args: argparse.Namespace) -> Any:
    from airflow_reverse_etl.dbt_cloud.client import client

    async with client(_connection(args.connection)) as api:
        if args.action == "create":
            return await api.create_webhook(f"Airflow: job {args.job_id}", job_id=args.job_id, client_url=args.url)
        if args.action == "list":
            return await api.webhooks()
        if args.action == "test":
            return await api.test_webhook(args.webhook_id)
        await api.delete_webhook(args.webhook_id)
        return {"deleted": args.webhook_id}


def _connection(conn_id: str) -> ConnectionInfo:
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
