"""The command ``reverse-etl connections test``."""

from __future__ import annotations

from typing import Annotated

import typer

from airflow_reverse_etl.cli.frame import FAILED, PASSED, Answer
from airflow_reverse_etl.cli.output import Table


def test_all(
    connections: Annotated[list[str], typer.Argument(metavar="ID…", help="ids of Airflow connections")],
) -> Answer:
    """Test connections, with the test of Airflow's connection form."""
    data = []
    for conn_id in connections:
        passed, message = tested(conn_id)
        data.append({"connection": conn_id, "ok": passed, "message": message})
    rows = [(str(one["connection"]), "ok" if one["ok"] else "failed", str(one["message"])) for one in data]
    code = PASSED if all(one["ok"] for one in data) else FAILED
    return Answer(data, [Table(("connection", "", "message"), rows)], code)


def tested(conn_id: str) -> tuple[bool, str]:
    """Test a connection; return whether it passed, and a message without secrets."""
    from airflow_reverse_etl.cli.airflow import wiring
    from airflow_reverse_etl.errors import ReverseEtlError

    try:
        passed, message = wiring().test_connection(conn_id)
    except ReverseEtlError as error:
        return False, f"{error.what}; {error.todo}"
    return bool(passed), str(message)
