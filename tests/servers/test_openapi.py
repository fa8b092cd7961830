"""Requests and replies that break a published description are named, with their place."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from tests.servers.messages import Reply, Request
from tests.servers.openapi import CONTRACTS, Contract
from tests.servers.vendors.hubspot import TOKEN, HubSpot

UPSERT = "/crm/v3/objects/contacts/batch/upsert"
PERSON = {"id": "a@example.com", "idProperty": "email", "properties": {"email": "a@example.com"}}
RESULT = {"id": "1", "new": True, "createdAt": "", "updatedAt": "", "properties": {}}
COMPLETE = {"status": "COMPLETE", "startedAt": "", "completedAt": "", "results": [RESULT]}


def request(body: Any, target: str = UPSERT, method: str = "POST", content_type: str = "application/json") -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request(method, target, CIMultiDict({"Content-Type": content_type}), data)


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (request({"inputs": [PERSON]}, "/crm/v3/contacts"), "no such path and method"),
        (request({"inputs": [PERSON]}, method="PUT"), "no such path and method"),
        (request(b""), "the body is missing"),
        (request(b"{"), "body: not JSON"),
        (request({"inputs": [PERSON]}, content_type="text/csv"), "media type 'text/csv', not application/json"),
        (request({}), "$: 'inputs' is a required property"),
        (request({"inputs": [{"id": "a"}]}), "$.inputs[0]: 'properties' is a required property"),
        (request({"inputs": [{**PERSON, "id": 7}]}), "$.inputs[0].id: 7 is not of type 'string'"),
    ],
)
def test_a_request_that_breaks_the_description_is_named(sent: Request, problem: str) -> None:
    [found] = Contract.of("hubspot").of_request(sent)
    assert found.startswith(f"{sent.method} {sent.path}: ")
    assert problem in found


def test_a_request_as_described_breaks_nothing() -> None:
    assert Contract.of("hubspot").of_request(request({"inputs": [PERSON]})) == []


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply.of({**COMPLETE, "results": 1}), "$.results: 1 is not of type 'array'"),
        (Reply.of({**COMPLETE, "status": "DONE"}), "$.status: 'DONE' is not one of"),
        (Reply.text("OK"), "media type 'text/plain', not application/json"),
        (Reply.of([], 400), "$: [] is not of type 'object'"),
    ],
)
def test_a_reply_that_breaks_the_description_is_named(reply: Reply, problem: str) -> None:
    [found] = Contract.of("hubspot").of_reply(request({}), reply)
    assert found.startswith(f"reply {reply.status} to POST {UPSERT}: ")
    assert problem in found


def test_a_reply_as_described_breaks_nothing() -> None:
    assert Contract.of("hubspot").of_reply(request({}), Reply.of(COMPLETE)) == []


def schema_of(document: dict[str, Any], schema: dict[str, Any]) -> Contract:
    content = {"application/json": {"schema": schema}}
    operation = {"requestBody": {"content": content}, "responses": {"204": {}}}
    return Contract({**document, "paths": {"/rows": {"post": operation}}})


def test_null_is_allowed_as_the_version_of_the_description_says_it() -> None:
    older = schema_of({"openapi": "3.0.2"}, {"type": "string", "enum": ["a"], "nullable": True})
    newer = schema_of({"openapi": "3.1.0"}, {"type": ["string", "null"]})
    strict = schema_of({"openapi": "3.0.2"}, {"type": "string"})
    sent = request(None, "/rows")
    assert (older.of_request(sent), newer.of_request(sent)) == ([], [])
    assert "None is not of type 'string'" in strict.of_request(sent)[0]


def test_swagger_2_is_read_too() -> None:
    """Iterable, Marketo and Mailchimp describe their APIs in it."""
    body = {"in": "body", "name": "rows", "required": True, "schema": {"$ref": "#/definitions/Rows"}}
    key = {"in": "header", "name": "Api-Key", "required": True, "type": "string"}
    contract = Contract(
        {
            "swagger": "2.0",
            "basePath": "/api",
            "definitions": {"Rows": {"type": "array"}},
            "paths": {
                "/rows": {"post": {"parameters": [body, key], "responses": {"200": {"schema": {"type": "object"}}}}}
            },
        }
    )
    assert contract.of_request(request({}, "/api/rows")) == [
        "POST /api/rows: header parameter 'Api-Key' is missing",
        "POST /api/rows: body: $: {} is not of type 'array'",
    ]
    assert contract.of_reply(request([], "/api/rows"), Reply(404)) == [
        "reply 404 to POST /api/rows: the description has only 200"
    ]


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_test_fails_at_its_end_if_the_contract_was_broken(method: str) -> None:
    async def break_contract() -> None:
        async with HubSpot() as server, aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            reply = await client.request(method, server.url + UPSERT, json={"input": [PERSON]})
            assert reply.status == 400

    with pytest.raises(AssertionError, match="the contract was broken:\n" + method):
        await break_contract()


@pytest.mark.parametrize("path", sorted(CONTRACTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_description_names_its_origin_and_a_licence_that_allows_to_keep_it(path: Any) -> None:
    source = json.loads(path.read_text(encoding="utf-8"))["x-source"]
    assert source["licence"].split()[0] in ("Apache-2.0", "MIT", "ours")
    assert f"`{path.name}`" in (CONTRACTS / "README.md").read_text(encoding="utf-8")
