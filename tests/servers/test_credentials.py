"""Credentials of test servers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from multidict import CIMultiDict

from tests.servers.credentials import ApiKey, OAuth2, Signature, StandardWebhooks, basic, bearer
from tests.servers.messages import Request
from tests.servers.rules import Rule

NOW = 1_767_225_600.0


def request(target: str = "/rows", body: bytes = b"", **headers: str) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", target, CIMultiDict(names), body)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (bearer("token"), request(authorization="Bearer token"), request(authorization="Bearer other")),
        (basic("me", "pw"), request(authorization="Basic bWU6cHc="), request(authorization="Basic bWU6")),
        (ApiKey("Api-Key", "k"), request(api_key="k"), request()),
        (ApiKey("token", "k", "query"), request("/rows?token=k"), request("/rows?token=l")),
        (ApiKey("api_key", "k", "body"), request(body=b'{"api_key": "k"}'), request(body=b"[]")),
    ],
    ids=["bearer", "basic", "header", "query", "body"],
)
def test_a_key_opens(rule: Rule, good: Request, bad: Request) -> None:
    assert rule.refuse(good, NOW) is None
    reply = rule.refuse(bad, NOW)
    assert reply is not None
    assert reply.status == 401


def fetched(rule: OAuth2, **form: str) -> Any:
    """Ask the token endpoint; returns the token, or the status of the refusal."""
    reply = rule.refuse(request(rule.path, urlencode(form).encode()), NOW)
    assert reply is not None
    return reply.json()["access_token"] if reply.status == 200 else reply.status


CLIENT = {"client_id": "client", "client_secret": "s3cret"}


def test_a_token_runs_out() -> None:
    rule = OAuth2(lifetime=60, more={"instance_url": "https://eu.example.com"})
    token = fetched(rule, grant_type="client_credentials", **CLIENT)
    assert rule.refuse(request(authorization=f"Bearer {token}"), NOW + 59) is None
    assert rule.refuse(request(authorization=f"Bearer {token}"), NOW + 60) is not None
    assert fetched(rule, grant_type="client_credentials", client_id="client", client_secret="no") == 400
    assert fetched(rule, grant_type="password", **CLIENT) == 400


def test_tokens_can_be_revoked_all_at_once() -> None:
    rule = OAuth2()
    token = fetched(rule, grant_type="client_credentials", **CLIENT)
    rule.issued.clear()
    assert rule.refuse(request(authorization=f"Bearer {token}"), NOW) is not None


def test_the_client_of_a_grant_may_be_in_a_header() -> None:
    rule = OAuth2()
    header = base64.b64encode(b"client:s3cret").decode()
    sent = request(rule.path, b"grant_type=client_credentials", authorization=f"Basic {header}")
    reply = rule.refuse(sent, NOW)
    assert reply is not None
    assert reply.status == 200


def test_a_refresh_token_is_a_grant_of_its_own() -> None:
    rule = OAuth2(refresh_token="again")
    assert rule.issued.keys() == set()
    token = fetched(rule, grant_type="refresh_token", refresh_token="again", **CLIENT)
    assert rule.issued == {token: NOW + 3600}
    assert fetched(rule, grant_type="refresh_token", refresh_token="other", **CLIENT) == 400


def test_a_signed_assertion_is_a_grant_of_its_own() -> None:
    key = rsa.generate_private_key(65537, 2048)
    encoding = serialization.Encoding.PEM
    public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    rule = OAuth2(public_key=public.decode())
    grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"}
    assert fetched(rule, **grant, assertion=jwt.encode({"iss": "client"}, key, "RS256")) in rule.issued
    assert fetched(rule, **grant, assertion=jwt.encode({"iss": "someone"}, key, "RS256")) == 400
    other = rsa.generate_private_key(65537, 2048)
    assert fetched(rule, **grant, assertion=jwt.encode({"iss": "client"}, other, "RS256")) == 400


def test_a_signature_covers_the_body() -> None:
    rule = Signature("X-Signature", b"key")
    signature = hmac.digest(b"key", b"body", hashlib.sha256).hex()
    assert rule.refuse(request(body=b"body", x_signature=signature), NOW) is None
    assert rule.refuse(request(body=b"other", x_signature=signature), NOW) is not None


def test_standard_webhooks_cover_id_time_and_body() -> None:
    """An example of ours; the recipe is that of the specification."""
    secret = base64.b64encode(b"a-secret-of-24-bytes-here").decode()
    rule = StandardWebhooks(f"whsec_{secret}")
    body = json.dumps({"type": "row"}).encode()
    content = b"msg_1.%d." % NOW + body
    digest = base64.b64encode(hmac.digest(base64.b64decode(secret), content, hashlib.sha256)).decode()
    headers = {
        "webhook_id": "msg_1",
        "webhook_timestamp": str(int(NOW)),
        "webhook_signature": f"v1,{'A' * 44} v1,{digest}",
    }
    assert rule.refuse(request(body=body, **headers), NOW + 299) is None
    assert rule.ids == ["msg_1"]
    assert rule.refuse(request(body=body, **headers), NOW + 301) is not None
    assert rule.refuse(request(body=body + b" ", **headers), NOW) is not None
    assert rule.refuse(request(body=body, **{**headers, "webhook_id": "msg_2"}), NOW) is not None
