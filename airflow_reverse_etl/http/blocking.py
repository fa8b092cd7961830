"""The blocking client of a server, on requests: for hooks, the terminal, and other code without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from airflow_reverse_etl.http.client import MAX_REPLY_BYTES, no_secure_connection, no_token, not_a_request
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request
from airflow_reverse_etl.http.retries import Retries, Wait
from airflow_reverse_etl.http.server import USER_AGENT, Server
from airflow_reverse_etl.spec.receipts import Outcome

if TYPE_CHECKING:
    import requests

Result = TypeVar("Result")

_CHUNK_BYTES = 1 << 20


def session_of(server: Server, *, timeout: float = 60.0) -> requests.Session:
    """Return a session that sends the server's headers and credentials with every request, whatever its host.

    :param timeout: seconds that a request for a token may take.
    """
    import requests

    session = requests.Session()
    session.headers["User-Agent"] = USER_AGENT
    session.headers["Accept"] = "application/json"
    session.headers.update(server.headers)
    session.verify = server.verify
    if server.verify is not True:
        _prefer_own_verify(session, server)
    if server.proxy_url:
        session.proxies = {"http": server.proxy_url, "https": server.proxy_url}

    def authenticate(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
        request = Request(str(prepared.method), str(prepared.url), body, dict(prepared.headers))
        signed = _drive(server.auth.authenticate(request), lambda step: _token_reply(session, step, timeout))
        prepared.url = server.join(signed.url) if server.auth.base_url else signed.url
        prepared.headers.update(signed.headers or {})
        if signed.body is not None and signed.body != body:
            prepared.prepare_body(signed.body, None)
        return prepared

    # Set as `auth`, so that requests does not replace the credentials by an entry of ~/.netrc.
    session.auth = authenticate
    return session


def _prefer_own_verify(session: requests.Session, server: Server) -> None:
    """Let a session verify certificates as the connection says, also if ``REQUESTS_CA_BUNDLE`` is set.

    By itself, requests prefers the environment (psf/requests#3829).
    """
    merge = session.merge_environment_settings

    def merge_with_verify(*args: Any) -> Any:
        return {**merge(*args), "verify": server.verify}

    session.merge_environment_settings = merge_with_verify  # type: ignore[assignment, method-assign]


class BlockingClient:
    """Client for one request at a time; a context manager. Follows no redirect, and renews credentials after a 401.

    :param timeout: seconds that the server may be silent.
    :param max_reply_bytes: size above which a reply counts as lost; default: ``MAX_REPLY_BYTES``.
    """

    def __init__(
        self,
        server: Server,
        *,
        timeout: float = 60.0,
        where: Mapping[str, Any] | None = None,
        max_reply_bytes: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.server = server
        self._timeout = timeout
        self._where = dict(where or {})
        self._max_reply_bytes = max_reply_bytes or MAX_REPLY_BYTES
        self._sleep = sleep
        self._session = session_of(server, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def call(self, request: Request, retries: Retries) -> Reply:
        """Send a request, and repeat it as ``retries`` says; returns the last reply, whatever its status.

        :raises NotAnsweredError: the last attempt got no reply.
        """
        return self.run(retries.flow(request))

    def run(self, flow: Generator[Request | Wait, Any, Result]) -> Result:
        """Drive a flow: send the requests that it yields, and return its result."""
        return _drive(flow, self._step)

    def _step(self, step: Request | Wait) -> Reply | None:
        if isinstance(step, Wait):
            self._sleep(step.seconds)
            return None
        return self.exchange(step)

    def exchange(self, request: Request) -> Reply:
        """Send a request once, twice if the token had to be renewed; returns the reply, whatever its status.

        :raises NotAnsweredError: no reply arrived.
        :raises CredentialsError: a token was refused.
        :raises ConfigurationError: the URL, a header or the certificate is not valid.
        """
        reply, sent = self._send(request)
        if reply.status == 401 and self.server.auth.forget(sent):
            reply, _ = self._send(request)
        return reply

    def _send(self, request: Request) -> tuple[Reply, Request]:
        import requests

        headers = dict(request.headers or {})
        if request.body is not None:
            headers.setdefault("Content-Type", "application/json")
        try:
            with self._session.request(
                request.method,
                self.server.join(request.url),
                data=request.body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                sent = Request(request.method, str(response.request.url), None, dict(response.request.headers))
                return Reply(response.status_code, self._read(response), response.headers), sent
        except requests.RequestException as error:  # its text may contain the URL, with secrets
            raise _not_answered(error, self.server.host, self._where) from None

    def _read(self, response: requests.Response) -> bytes:
        data = bytearray()
        for chunk in response.iter_content(_CHUNK_BYTES):
            data += chunk
            if len(data) > self._max_reply_bytes:
                raise NotAnsweredError(
                    Outcome.UNKNOWN, "reply_too_large", "the reply is too large", host=self.server.host
                )
        return bytes(data)


def _drive(flow: Generator[Any, Any, Result], step: Callable[[Any], Any]) -> Result:
    try:
        todo = next(flow)
        while True:
            try:
                answer = step(todo)
            except NotAnsweredError as lost:
                todo = flow.throw(lost)
            else:
                todo = flow.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _token_reply(session: requests.Session, request: Request, timeout: float) -> Reply:
    """Send a request for a token over the session's route, without its credentials and headers."""
    import requests

    with requests.Session() as bare:
        bare.verify = session.verify
        bare.proxies = session.proxies
        bare.auth = lambda prepared: prepared
        try:
            reply = bare.request(
                request.method,
                request.url,
                data=request.body,
                headers=dict(request.headers or {}),
                timeout=timeout,
                allow_redirects=False,
                verify=session.verify,
            )
        except requests.RequestException as error:
            raise no_token(_not_answered(error, urlsplit(request.url).netloc, {})) from None
        return Reply(reply.status_code, reply.content, reply.headers)


def _not_answered(error: requests.RequestException, host: str, where: Mapping[str, Any]) -> Exception:
    """Return our exception for a failure of the transport. :class:`NotAnsweredError` explains the outcomes."""
    import requests
    from urllib3.exceptions import NameResolutionError, NewConnectionError, ProxyError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    cause = type(reason or error).__name__
    if isinstance(error, requests.exceptions.SSLError):
        return no_secure_connection(cause, host=host, **where)
    if isinstance(error, ValueError):  # requests refused the URL or a header, and sent nothing
        return not_a_request(host=host, **where)
    if isinstance(reason, NameResolutionError):
        return NotAnsweredError(Outcome.RETRYABLE, "unknown_host", f"host not found ({cause})", host=host)
    if isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError | ProxyError):
        return NotAnsweredError(Outcome.RETRYABLE, "not_connected", f"no connection ({cause})", host=host)
    code = "timeout" if isinstance(error, requests.Timeout) else "disconnected"
    return NotAnsweredError(Outcome.UNKNOWN, code, f"the answer was lost ({cause})", host=host)
