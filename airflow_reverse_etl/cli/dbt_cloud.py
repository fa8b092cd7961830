"""``reverse-etl dbt-cloud webhook …``: webhook subscriptions from a shell, with no Airflow running.

The connection comes from its environment form, ``AIRFLOW_CONN_<ID>`` as JSON; a token never appears in the arguments.
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
    """Add ``dbt-cloud`` to a program. Its parsed arguments have ``run``, a function that takes them."""
    cloud = commands.add_parser("dbt-cloud", help="dbt Cloud").add_subparsers(required=True)
    actions = cloud.add_parser("webhook", help="what dbt Cloud tells Airflow").add_subparsers(
        dest="action", required=True
    )
    create = actions.add_parser("create", help="tell a URL when a job has finished; prints the secret, once")
    create.add_argument("job_id", type=int, help="the number in the job's URL")
    create.add_argument("url", help="https://<airflow>/reverse-etl/dbt-cloud/<connection id>")
    actions.add_parser("list", help="the account's webhooks")
    for action, text in (("test", "let dbt Cloud send a test delivery"), ("delete", "stop telling")):
        actions.add_parser(action, help=text).add_argument("webhook_id", help="wsu_…, see list")
    for parser in actions.choices.values():
        parser.add_argument("--connection", default="dbt_cloud_default", help="Airflow connection id (%(default)s)")
        parser.set_defaults(run=run_webhook)


def run_webhook(args: argparse.Namespace) -> Any:
    """Do what the arguments say; returns the text to print.

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
    except (KeyError, ValueError, AttributeError):  # never the cause: it would show the value
        raise CredentialsError(
            f"the environment variable {name} has no connection in JSON",
            todo='set it to {"login": "<account id>", "password": "<token>", "host": "<access URL>"}',
            connection=conn_id,
        ) from None
