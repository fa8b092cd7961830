"""The asynchronous and the blocking client: credentials, retries, and requests without an answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import certifi
import jwt
import orjson
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.http.auth.cloud import AwsAuth, GoogleAuth
from airflow_reverse_etl.http.auth.keys import NO_AUTH, ApiKey, Auth, Basic, bearer
from airflow_reverse_etl.http.auth.oauth2 import JwtBearer, OAuth2
from airflow_reverse_etl.http.auth.signatures import Hmac, SignedJwt
from airflow_reverse_etl.http.blocking import BlockingClient
from airflow_reverse_etl.http.client import Client
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request
from airflow_reverse_etl.http.retries import Retries
from airflow_reverse_etl.http.server import Server
from airflow_reverse_etl.spec.receipts import Outcome
from airflow_reverse_etl.sync.load.backoff import Backoff
from airflow_reverse_etl.sync.ports import ConnectionInfo
from tests.http.local_server import Answer, Received, serving

GET = Request("GET", "/rows")
POST = Request("POST", "/rows", b'{"id": 1}')

#: Function that sends requests to an endpoint, one after the other, and returns the replies.
Send = Callable[..., list[Reply]]


def send_async(endpoint: Server, *requests: Request, retries: Retries | None = None, **options: Any) -> list[Reply]:
    async def no_sleep(_: float) -> None:
        return

    async def send() -> list[Reply]:
        async with Client(endpoint, sleep=no_sleep, **options) as client:
            if retries:
                return [await client.call(request, retries) for request in requests]
            return [await client.exchange(request) for request in requests]

    return asyncio.run(send())


def send_blocking(endpoint: Server, *requests: Request, retries: Retries | None = None, **options: Any) -> list[Reply]:
    with BlockingClient(endpoint, sleep=lambda _: None, **options) as client:
        if retries:
            return [client.call(request, retries) for request in requests]
        return [client.exchange(request) for request in requests]


@pytest.fixture(params=[send_async, send_blocking], ids=["async", "blocking"])
def send(request: pytest.FixtureRequest) -> Send:
    return request.param  # type: ignore[no-any-return]


def ok(_: Received) -> Answer:
    return Answer()


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode()


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (NO_AUTH, "Authorization", ""),
        (bearer("s3cret"), "Authorization", "Bearer s3cret"),
        (Basic("me", "s3cret"), "Authorization", "Basic bWU6czNjcmV0"),
        (ApiKey("X-Key", "s3cret"), "X-Key", "s3cret"),
    ],
)
def test_credentials_go_into_a_header(send: Send, auth: Auth, header: str, value: str) -> None:
    with serving(ok) as server:
        send(Server(server.url, {"X-Version": "2"}, auth), GET)
    assert server.header(header) == [value]
    assert server.header("X-Version") == ["2"]


def test_a_key_goes_into_the_query(send: Send) -> None:
    auth = ApiKey("api key", "s3/cret", "query")
    with serving(ok) as server:
        send(Server(server.url, auth=auth), GET, Request("GET", "/rows?page=2"))
    assert [request.path for request in server.received] == [
        "/rows?api%20key=s3%2Fcret",
        "/rows?page=2&api%20key=s3%2Fcret",
    ]


@pytest.mark.parametrize("body", [b'{"id": 1}', b"{}", b' {"id": {"a": [1]}}'])
def test_a_key_goes_into_the_body(send: Send, body: bytes) -> None:
    with serving(ok) as server:
        send(Server(server.url, auth=ApiKey("token", "s3cret", "body")), Request("POST", "/rows", body), GET)
    posted, read = server.received
    assert orjson.loads(posted.body) == {"token": "s3cret", **orjson.loads(body)}
    assert read.body == b""


def test_a_key_cannot_go_into_a_body_that_is_a_list(send: Send) -> None:
    with serving(ok) as server, pytest.raises(ConfigurationError, match="not an object"):
        send(Server(server.url, auth=ApiKey("token", "s3cret", "body")), Request("POST", "/rows", b"[1]"))
    assert server.received == []


def test_a_content_type_comes_with_a_body_only(send: Send) -> None:
    with serving(ok) as server:
        send(Server(server.url), GET, POST, Request("POST", "/rows", b"a,b", {"Content-Type": "text/csv"}))
    assert server.header("Content-Type") == ["", "application/json", "text/csv"]


class Tokens:
    """A token endpoint and an API that takes its tokens, each for some number of requests."""

    def __init__(self, *, requests: int = 1000, reply: dict[str, Any] | None = None) -> None:
        self.forms: list[dict[str, str]] = []
        self.used: list[str] = []
        self._requests = requests
        self._reply = reply or {}

    def __call__(self, request: Received) -> Answer:
        if request.path == "/token":
            form = parse_qs(request.body.decode())
            self.forms.append({name: values[0] for name, values in form.items()})
            token = f"token-{len(self.forms)}"
            return Answer(json={"access_token": token, "expires_in": 3600, **self._reply})
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token != f"token-{len(self.forms)}" or self.used.count(token) >= self._requests:
            return Answer(401, {"error": "invalid_token"})
        self.used.append(token)
        return Answer()


def test_a_token_is_requested_once_for_many_requests(send: Send) -> None:
    tokens = Tokens()
    with serving(tokens) as server:
        auth = OAuth2(f"{server.url}/token", "client", "s3cret", form={"scope": "write"})
        send(Server(server.url, {"X-Own": "s3cret"}, auth), GET, POST, GET)
    assert tokens.forms == [
        {"grant_type": "client_credentials", "scope": "write", "client_id": "client", "client_secret": "s3cret"}
    ]
    assert tokens.used == ["token-1"] * 3
    # The connection's own headers may be secrets. They are not the token endpoint's business.
    assert server.header("X-Own") == ["", "s3cret", "s3cret", "s3cret"]


def test_a_client_may_authenticate_with_basic_at_the_token_endpoint(send: Send) -> None:
    tokens = Tokens()
    with serving(tokens) as server:
        auth = OAuth2(f"{server.url}/token", "cl:ient", "s3 cret", client_auth="basic")
        send(Server(server.url, auth=auth), GET)
    assert base64.b64decode(server.header("Authorization")[0].removeprefix("Basic ")) == b"cl%3Aient:s3%20cret"
    assert tokens.forms == [{"grant_type": "client_credentials"}]


def test_a_replaced_refresh_token_is_used_from_then_on(send: Send) -> None:
    tokens = Tokens(requests=1, reply={"refresh_token": "second"})
    with serving(tokens) as server:
        auth = OAuth2(f"{server.url}/token", "client", "s3cret", refresh_token="first")
        replies = send(Server(server.url, auth=auth), GET, GET)
    assert [reply.status for reply in replies] == [200, 200]
    assert [form["refresh_token"] for form in tokens.forms] == ["first", "second"]


def test_a_token_that_is_refused_is_renewed_once(send: Send) -> None:
    tokens = Tokens(requests=2)
    with serving(tokens) as server:
        replies = send(Server(server.url, auth=OAuth2(f"{server.url}/token", "client", "s3cret")), GET, GET, POST)
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert tokens.used == ["token-1", "token-1", "token-2"]
    with serving(Tokens(requests=0)) as server:
        replies = send(Server(server.url, auth=OAuth2(f"{server.url}/token", "client", "s3cret")), GET)
    assert [reply.status for reply in replies] == [401]
    assert [request.path for request in server.received] == ["/token", "/rows", "/token", "/rows"]


def test_a_token_is_renewed_before_it_expires(send: Send) -> None:
    tokens = Tokens()
    now = [1000.0]

    def answer(request: Received) -> Answer:
        now[0] += 1775  # so that each request for rows takes half an hour
        return tokens(request)

    with serving(answer) as server:
        auth = OAuth2(f"{server.url}/token", "client", "s3cret", clock=lambda: now[0])
        send(Server(server.url, auth=auth), GET, GET, GET)
    assert tokens.used == ["token-1", "token-1", "token-2"]


def test_a_token_may_bring_the_base_url(send: Send) -> None:
    tokens = Tokens()
    with serving(tokens) as api:
        reply = {"instance_url": f"{api.url}/instance/"}

        def issue(request: Received) -> Answer:
            found = tokens(request)
            return Answer(json={**found.json, **reply})  # type: ignore[dict-item]

        with serving(issue) as login:
            auth = OAuth2(f"{login.url}/token", "client", "s3cret", base_url_field="instance_url")
            send(Server(login.url, auth=auth), GET, GET, Request("GET", f"{api.url}/instance/rows?page=2"))
    assert [request.path for request in api.received] == ["/instance/rows", "/instance/rows", "/instance/rows?page=2"]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            Answer(400, {"error": "invalid_grant", "error_description": "expired"}),
            CredentialsError,
            "invalid_grant expired",
        ),
        (Answer(200, {"token": "s3cret"}), CredentialsError, "no access_token"),
        (Answer(503), NotAnsweredError, "the token endpoint answered 503"),
        (Answer(None), NotAnsweredError, "no access token"),
    ],
)
def test_a_token_that_is_not_issued_is_an_error(send: Send, answer: Answer, error: type[Exception], words: str) -> None:
    with serving(lambda _: answer) as server, pytest.raises(error, match=words) as caught:
        send(Server(server.url, auth=OAuth2(f"{server.url}/token", "client", "s3cret")), POST)
    assert "s3cret" not in str(caught.value)
    if isinstance(caught.value, NotAnsweredError):
        # The rows were not sent, however the request for the token ended.
        assert caught.value.receipt.outcome is Outcome.RETRYABLE


def test_an_assertion_is_signed_and_exchanged_for_a_token(send: Send, key: rsa.RSAPrivateKey) -> None:
    tokens = Tokens()
    claims = {"iss": "client", "sub": "user@example.com", "aud": "https://login.example.com"}
    with serving(tokens) as server:
        auth = JwtBearer(f"{server.url}/token", private_key=pem(key).replace("\n", "\\n"), claims=claims)
        send(Server(server.url, auth=auth), GET)
    (form,) = tokens.forms
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    found = jwt.decode(form["assertion"], key.public_key(), ["RS256"], audience="https://login.example.com")
    assert found.items() >= claims.items()


def test_a_signed_token_is_in_each_request(send: Send, key: rsa.RSAPrivateKey) -> None:
    with serving(ok) as server:
        send(Server(server.url, auth=SignedJwt(pem(key), {"iss": "app"})), GET)
    token = server.header("Authorization")[0].removeprefix("Bearer ")
    assert jwt.decode(token, key.public_key(), ["RS256"])["iss"] == "app"


def test_a_key_that_cannot_be_read_is_not_quoted(send: Send) -> None:
    with serving(ok) as server, pytest.raises(CredentialsError, match="cannot be read") as caught:
        send(Server(server.url, auth=SignedJwt("s3cret", {"iss": "app"})), GET)
    assert "s3cret" not in str(caught.value)


def test_standard_webhooks_are_signed(send: Send) -> None:
    secret = base64.b64encode(b"0123456789abcdef01234567").decode()
    auth = Hmac.standard_webhooks(f"whsec_{secret}", clock=lambda: 1_700_000_000)
    with serving(ok) as server:
        send(Server(server.url, auth=auth), POST, POST)
    first, second = server.received
    signed = f"{first.headers['webhook-id']}.1700000000.".encode() + first.body
    expected = base64.b64encode(hmac.new(base64.b64decode(secret), signed, hashlib.sha256).digest()).decode()
    assert first.headers["webhook-signature"] == f"v1,{expected}"
    assert first.headers["webhook-timestamp"] == "1700000000"
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_a_signature_has_the_form_that_the_api_wants(send: Send) -> None:
    auth = Hmac(
        b"s3cret", "X-Signature", content="{timestamp}:{body}", value="t={timestamp},v={signature}", clock=lambda: 7
    )
    with serving(ok) as server:
        send(Server(server.url, auth=auth), POST)
    expected = hmac.new(b"s3cret", b"7:" + (POST.body or b""), hashlib.sha256).hexdigest()
    assert server.header("X-Signature") == [f"t=7,v={expected}"]


def test_a_connection_with_new_credentials_is_looked_up_once() -> None:
    def answer(request: Received) -> Answer:
        return Answer(200 if request.headers["Authorization"] == "Bearer new" else 401)

    with serving(answer) as server:
        endpoints = [Server(server.url, auth=bearer("new"))]
        replies = send_async(Server(server.url, auth=bearer("old")), GET, GET, lookup=endpoints.pop)
    assert [reply.status for reply in replies] == [200, 200]
    with serving(answer) as server:
        same = Server(server.url, auth=bearer("old"))
        replies = send_async(same, GET, lookup=lambda: Server(server.url, auth=bearer("old")))
    assert [reply.status for reply in replies] == [401]
    assert len(server.received) == 1


def test_requests_at_the_same_time_renew_a_token_once() -> None:
    tokens = Tokens(requests=5)

    async def send_many(endpoint: Server) -> list[Reply]:
        async with Client(endpoint) as client:
            return await asyncio.gather(*(client.exchange(POST) for _ in range(10)))

    with serving(tokens) as server:
        replies = asyncio.run(send_many(Server(server.url, auth=OAuth2(f"{server.url}/token", "client", "s3cret"))))
    assert {reply.status for reply in replies} == {200}
    assert len(tokens.forms) == 2


@pytest.mark.parametrize(
    ("request_", "answers", "sent"),
    [
        (GET, [Answer(500), Answer(502), Answer(200)], 3),
        (GET, [Answer(None), Answer(200)], 2),
        (POST, [Answer(429), Answer(503), Answer(200)], 3),
        (POST, [Answer(500), Answer(200)], 1),
        (GET, [Answer(404), Answer(200)], 1),
        (GET, [Answer(500)] * 9, 5),
    ],
)
def test_a_request_is_repeated_only_if_it_did_nothing(
    send: Send, request_: Request, answers: list[Answer], sent: int
) -> None:
    remaining = iter(answers)
    with serving(lambda _: next(remaining)) as server:
        replies = send(Server(server.url), request_, retries=Retries(Backoff(attempts=5)))
    assert len(server.received) == sent
    assert replies[0].status == answers[sent - 1].status


def test_a_lost_answer_to_a_write_is_not_repeated(send: Send) -> None:
    with serving(lambda _: Answer(None)) as server, pytest.raises(NotAnsweredError) as caught:
        send(Server(server.url), POST, retries=Retries())
    assert caught.value.receipt.outcome is Outcome.UNKNOWN
    assert len(server.received) == 1


def test_a_request_waits_as_long_as_the_reply_says_and_no_longer_than_allowed() -> None:
    waits: list[float] = []
    answers = iter([Answer(429, headers={"Retry-After": "7"}), Answer(429, headers={"Retry-After": "3600"})])
    with serving(lambda _: next(answers)) as server, BlockingClient(Server(server.url), sleep=waits.append) as client:
        reply = client.call(GET, Retries(longest=60))
    assert reply.status == 429
    assert waits == [7]


def test_no_connection_and_no_host_are_retryable(send: Send) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{bound.getsockname()[1]}"
        for url, code in [(closed, "not_connected"), ("http://no-such-host.invalid", "unknown_host")]:
            with pytest.raises(NotAnsweredError) as caught:
                send(Server(url), POST)
            assert (caught.value.receipt.outcome, caught.value.receipt.code) == (Outcome.RETRYABLE, code)


def test_https_to_a_port_that_speaks_http_is_a_configuration_error(send: Send) -> None:
    with serving(ok) as server, pytest.raises(ConfigurationError, match="no secure connection"):
        send(Server(server.url.replace("http:", "https:")), POST)


def test_a_connections_ca_bundle_goes_before_the_environments(
    send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's bundle does not exist, so a session that prefers it fails with another error."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with serving(ok) as server, pytest.raises(ConfigurationError, match="no secure connection"):
        send(Server(server.url.replace("http:", "https:"), verify=certifi.where()), GET)


def test_a_redirect_is_not_followed(send: Send) -> None:
    with serving(lambda _: Answer(302, headers={"Location": "/other"})) as server:
        replies = send(Server(server.url, auth=bearer("s3cret")), GET)
    assert [reply.status for reply in replies] == [302]
    assert len(server.received) == 1


def test_a_large_reply_counts_as_lost(send: Send) -> None:
    with serving(lambda _: Answer(json="x" * 2000)) as server, pytest.raises(NotAnsweredError) as caught:
        send(Server(server.url), GET, max_reply_bytes=1000)
    assert caught.value.receipt.code == "reply_too_large"


def test_google_issues_a_token_for_the_connections_key(send: Send, key: rsa.RSAPrivateKey) -> None:
    tokens = Tokens()
    with serving(tokens) as server:
        keyfile = {
            "type": "service_account",
            "client_email": "robot@project.example.com",
            "private_key": pem(key),
            "token_uri": f"{server.url}/token",
        }
        connection = ConnectionInfo(
            "gcp", "google_cloud_platform", extra={"keyfile_dict": orjson.dumps(keyfile).decode()}
        )
        send(Server(server.url, auth=GoogleAuth(connection)), GET, POST)
    assert tokens.used == ["token-1", "token-1"]
    audience = "https://oauth2.googleapis.com/token"
    claims = jwt.decode(tokens.forms[0]["assertion"], key.public_key(), ["RS256"], audience=audience)
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"


def test_a_key_of_google_that_cannot_be_read_is_not_quoted(send: Send) -> None:
    connection = ConnectionInfo("gcp", "google_cloud_platform", extra={"keyfile_dict": '{"private_key": "s3cret"}'})
    with serving(ok) as server, pytest.raises(CredentialsError, match="Google") as caught:
        send(Server(server.url, auth=GoogleAuth(connection)), GET)
    assert "s3cret" not in str(caught.value)


def test_requests_to_aws_are_signed(send: Send) -> None:
    connection = ConnectionInfo("aws", "aws", login="AKID", password="s3cret", extra={"region_name": "eu-west-1"})
    with serving(ok) as server:
        send(Server(server.url, auth=AwsAuth(connection, "es")), POST)
    (request,) = server.received
    signed = ("content-type", "host", "x-amz-date")
    sent = AWSRequest("POST", server.url + request.path, {name: request.headers[name] for name in signed}, request.body)
    sent.context["timestamp"] = request.headers["X-Amz-Date"]
    signer = SigV4Auth(Credentials("AKID", "s3cret"), "es", "eu-west-1")
    expected = signer.signature(signer.string_to_sign(sent, signer.canonical_request(sent)), sent)
    assert f"Signature={expected}" in request.headers["Authorization"]
    assert "Credential=AKID/" in request.headers["Authorization"]
