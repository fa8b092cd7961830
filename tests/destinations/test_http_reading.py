"""An HTTP destination that is asked for its account and its fields, over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest

from airflow_reverse_etl.destinations.base import Setup
from airflow_reverse_etl.destinations.http import HttpDestination, HttpOptions, Reply, Request
from airflow_reverse_etl.destinations.info import Account, Info
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, UnreachableError
from airflow_reverse_etl.sync.ports import USUAL, Capabilities, ConnectionInfo, ObjectField, ObjectSchema
from airflow_reverse_etl.testing import CountingLimiter
from tests.destinations.json_api import api, sync
from tests.http.local_server import Answer, Received, serving


class Acme(HttpDestination):
    info = Info(type="acme", title="Acme", example="", connection="", account=Account("/me", "workspace.id"))
    capabilities = Capabilities(USUAL)

    def fields(self) -> Generator[Request, Reply, ObjectSchema]:
        answer = self.checked((yield Request("GET", "/fields")))
        return ObjectSchema([ObjectField(name) for name in answer])


def ask(answer: Callable[[Received], Answer], question: str) -> tuple[Any, list[str]]:
    """Ask the destination, and return its answer and the paths that it requested."""

    async def run(url: str) -> Any:
        setup = Setup(sync({}), HttpOptions(type="acme", connection="crm"), ConnectionInfo("crm", host=url))
        destination = Acme(setup)
        await destination.open(CountingLimiter())
        try:
            return await getattr(destination, question)()
        finally:
            await destination.close()

    with serving(answer) as server:
        return asyncio.run(run(server.url)), [request.path for request in server.received]


def test_the_account_is_read_from_its_request() -> None:
    assert ask(lambda _: Answer(200, {"workspace": {"id": 4711}}), "account") == ("4711", ["/me"])


def test_the_fields_are_read_from_their_requests() -> None:
    schema, paths = ask(lambda _: Answer(200, ["email", "plan"]), "describe")
    assert ([field.name for field in schema.fields], paths) == (["email", "plan"], ["/fields"])


def test_a_reading_request_is_repeated_after_a_failure() -> None:
    answers = iter([Answer(503, headers={"Retry-After": "0.01"}), Answer(200, {"workspace": {"id": "w"}})])
    assert ask(lambda _: next(answers), "account") == ("w", ["/me", "/me"])


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (Answer(401, {"message": "unknown token"}), CredentialsError, "unknown token"),
        (Answer(404), ConfigurationError, "answered 404"),
        (Answer(200, {"workspace": {}}), ConfigurationError, "no account at 'workspace.id'"),
        (Answer(200), ConfigurationError, "not JSON"),
        (Answer(422, {"message": "no"}), UnreachableError, "answered 422: no"),
    ],
    ids=["401", "404", "no account", "no JSON", "422"],
)
def test_an_answer_without_an_account_is_an_error(answer: Answer, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ask(lambda _: answer, "account")


def test_a_sync_of_type_http_names_the_request_for_its_account() -> None:
    asked = api(account={"path": "/me", "value": "id"})
    assert asked.tells_account
    assert asked.account_request == Account("/me", "id")
    assert not api().tells_account
    assert not api().describes_fields
