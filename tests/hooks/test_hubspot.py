"""The connection test of HubSpot tells apart what is wrong: host, credentials, scope."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.messages import Reply
from tests.servers.vendors.hubspot import TOKEN, HubSpot

pytestmark = pytest.mark.airflow


async def tested(add_connection: Callable[..., None], **fields: Any) -> tuple[bool, str]:
    from airflow_reverse_etl.hooks.hubspot import HubSpotHook

    add_connection("hubspot", conn_type="reverse_etl_hubspot", **fields)
    return await asyncio.to_thread(HubSpotHook("hubspot").test_connection)


async def test_a_good_token_passes(add_connection: Callable[..., None]) -> None:
    async with HubSpot() as hubspot:
        assert await tested(add_connection, host=hubspot.url, password=TOKEN) == (True, "the server answered 200 OK")


async def test_a_wrong_token_is_one_of_credentials(add_connection: Callable[..., None]) -> None:
    async with HubSpot() as hubspot:
        passed, message = await tested(add_connection, host=hubspot.url, password="pat-wrong")
        assert (passed, message.partition(":")[0]) == (False, "the credentials were refused")
        assert "pat-wrong" not in message


async def test_a_token_that_may_only_read_lacks_a_scope_by_name(add_connection: Callable[..., None]) -> None:
    async with HubSpot() as hubspot:
        hubspot.scopes = ("oauth", "crm.objects.contacts.read")
        passed, message = await tested(add_connection, host=hubspot.url, password=TOKEN)
        assert not passed
        assert message == (
            "the credentials are right, but lack a scope: crm.objects.contacts.write, or that of another object"
        )


async def test_another_host_is_named_as_such(add_connection: Callable[..., None]) -> None:
    class Website(HubSpot):
        contract = None

        def answer(self, request: Any) -> Reply:
            return Reply(404)

    async with Website() as website:
        passed, message = await tested(add_connection, host=website.url, password=TOKEN)
        assert (passed, message) == (False, "the host is not one of HubSpot: 404 Not Found")


async def test_no_host_at_all(add_connection: Callable[..., None]) -> None:
    passed, message = await tested(add_connection, host="http://127.0.0.1:1", password=TOKEN)
    assert (passed, message.partition(":")[0]) == (False, "no answer from 127.0.0.1")
