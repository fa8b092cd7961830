"""The connection test says whether the credentials work, and never repeats them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

TOKEN = "t0p-secret"


class Api(BaseHTTPRequestHandler):
    """Wants a token, or a key in a header of its own under /keys; fails under /broken."""

    def do_GET(self) -> None:
        known = f"Bearer {TOKEN}" in self.headers.get_all("Authorization", [])
        if self.path == "/keys":
            known = self.headers["Api-Key"] == TOKEN and "Authorization" not in self.headers
        special = {"/broken": 503, "/nothing": 404}
        self.send_response(special.get(self.path, 200 if known else 401))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def test_connection(add_connection: Callable[..., None]) -> Callable[..., tuple[bool, str]]:
    def run(**fields: Any) -> tuple[bool, str]:
        from airflow.sdk import BaseHook

        add_connection("crm", conn_type="reverse_etl_http", **fields)
        return BaseHook.get_hook("crm").test_connection()  # type: ignore[no-any-return]

    return run


def test_good(url: str, test_connection: Callable[..., tuple[bool, str]]) -> None:
    """The token goes out as a bearer token."""
    assert test_connection(host=url, password=TOKEN) == (True, "the server answered 200 OK")


def test_refused(url: str, test_connection: Callable[..., tuple[bool, str]]) -> None:
    """The status is named, the token is not."""
    good, message = test_connection(host=url, password="wr0ng")
    assert not good
    assert "401" in message
    assert "wr0ng" not in message


def test_server_error(url: str, test_connection: Callable[..., tuple[bool, str]]) -> None:
    """Where the test path leads counts."""
    good, message = test_connection(host=url, password=TOKEN, extra={"test_path": "/broken"})
    assert (good, "503" in message) == (False, True)


def test_nothing_is_at_the_path(url: str, test_connection: Callable[..., tuple[bool, str]]) -> None:
    """A host that answers 404 proves neither the path nor the token."""
    at_path = test_connection(host=url, password=TOKEN, extra={"test_path": "/nothing"})
    assert at_path == (
        False,
        "nothing is at the test path /nothing: 404 Not Found; correct the base URL or the test path",
    )
    good, message = test_connection(host=f"{url}/nothing", password=TOKEN)
    assert not good
    assert "the base URL" in message


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {TOKEN}"}, f'{{"Authorization": "Bearer {TOKEN}"}}'])
def test_headers_are_an_object_or_its_json(
    url: str, test_connection: Callable[..., tuple[bool, str]], headers: Any
) -> None:
    """The form of Airflow 3.1 gives text."""
    assert test_connection(host=url, extra={"headers": headers, "verify": "false"})[0]


@pytest.mark.parametrize("headers", ["X-Version: 2", ["X-Version"]])
def test_other_headers_are_refused(url: str, test_connection: Callable[..., tuple[bool, str]], headers: Any) -> None:
    good, message = test_connection(host=url, password=TOKEN, extra={"headers": headers})
    assert not good
    assert "JSON object" in message


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, True), ("", True), ("true", True), ("False", False), (False, False), ("/etc/ca.pem", "/etc/ca.pem")],
)
def test_a_form_gives_verify_as_text(given: Any, expected: bool | str) -> None:
    from airflow_reverse_etl.http.server import Server
    from airflow_reverse_etl.sync.ports import ConnectionInfo

    connection = ConnectionInfo(
        conn_id="crm", conn_type="http", host="https://crm.example.com", extra={"verify": given}
    )
    assert Server.from_connection(connection).verify == expected


def test_nobody_there(test_connection: Callable[..., tuple[bool, str]]) -> None:
    """A closed port is no crash."""
    good, message = test_connection(host="http://127.0.0.1:9", password=TOKEN)
    assert not good
    assert TOKEN not in message


def test_no_host(test_connection: Callable[..., tuple[bool, str]]) -> None:
    """An empty connection says what is missing."""
    assert test_connection(password=TOKEN)[0] is False


def test_a_named_type_is_tested_at_its_own_path_with_its_own_header(
    url: str, add_connection: Callable[..., None]
) -> None:
    """The connection has nothing but the key."""
    from airflow_reverse_etl.destinations.info import ConnectionForm, Info
    from airflow_reverse_etl.hooks.http import connection_hook

    form = ConnectionForm(type="acme", name="Acme", hook="acme.AcmeHook")
    info = Info(
        type="acme", title="Acme", example="", connection=form, base_url=url, test="/keys", auth_header="Api-Key"
    )
    add_connection("acme", conn_type="acme", password=TOKEN)
    assert connection_hook(info)("acme").test_connection() == (True, "the server answered 200 OK")
