"""The test of a Salesforce connection tells host, credentials, a missing permission and right apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_reverse_etl import wiring
from tests.servers.faults import Fault
from tests.servers.messages import Reply
from tests.servers.threads import in_thread
from tests.servers.vendors.salesforce import Salesforce

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("airflow_db")]


@pytest.fixture
def server() -> Iterator[Salesforce]:
    with in_thread(Salesforce()) as found:
        yield found


@pytest.fixture
def answer(server: Salesforce, add_connection: Callable[..., None]) -> Callable[..., tuple[bool, str]]:
    def run(**extra: Any) -> tuple[bool, str]:
        add_connection("salesforce", conn_type="salesforce", extra={**server.connection().extra, **extra})
        return wiring.test_connection("salesforce")

    return run


def refuse(server: Salesforce, status: int, code: str, message: str) -> None:
    reply = Reply.of([{"errorCode": code, "message": message}], status)
    server.fault = lambda _, request: Fault.instead(reply) if "limits" in request.path else None


def test_right(answer: Callable[..., tuple[bool, str]]) -> None:
    assert answer() == (True, "the server answered 200 OK")


def test_the_credentials_are_wrong(answer: Callable[..., tuple[bool, str]]) -> None:
    passed, message = answer(consumer_secret="wr0ng")
    assert not passed
    assert "wr0ng" not in message
    assert "token" in message


def test_the_host_is_wrong(answer: Callable[..., tuple[bool, str]]) -> None:
    passed, message = answer(instance_url="http://127.0.0.1:9")
    assert not passed
    assert "no answer" in message


def test_the_host_is_another_server(server: Salesforce, answer: Callable[..., tuple[bool, str]]) -> None:
    server.fault = lambda *_: Fault.instead(Reply.text("not here", 404))
    passed, message = answer()
    assert not passed
    assert "404" in message


def test_it_logs_in_by_soap(add_connection: Callable[..., None]) -> None:
    from airflow_reverse_etl.errors import CredentialsError

    add_connection("salesforce", conn_type="salesforce", login="user", password="pw", extra={"security_token": "t0ken"})
    try:
        passed, message = wiring.test_connection("salesforce")
    except CredentialsError as error:
        passed, message = False, str(error)
    assert not passed
    assert "SOAP" in message


def test_a_permission_is_missing(server: Salesforce, answer: Callable[..., tuple[bool, str]]) -> None:
    refuse(server, 403, "API_DISABLED_FOR_ORG", "The REST API is not enabled for this Organization.")
    passed, message = answer()
    assert (passed, message.partition(":")[0]) == (False, "the credentials are right, but lack a permission")
    assert "not enabled" in message


def test_the_requests_of_the_day_are_used_up(server: Salesforce, answer: Callable[..., tuple[bool, str]]) -> None:
    refuse(server, 403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
    assert answer() == (
        False,
        "the credentials are right, but the day's requests are used up: REQUEST_LIMIT_EXCEEDED",
    )
