"""The asynchronous client of a server, on aiohttp."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Generator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.http.auth.keys import Auth
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request
from airflow_reverse_etl.http.retries import Retries, Wait
from airflow_reverse_etl.http.server import USER_AGENT, Server
from airflow_reverse_etl.spec.receipts import Outcome

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

Result = TypeVar("Result")

#: Size of a reply, in bytes, after which it is not read any further.
MAX_REPLY_BYTES = 16 * 1024 * 1024
#: Size of a request body, in bytes, above which it is sent in pieces.
_LARGE_BODY_BYTES = 1_000_000
#: URLs that a client remembers. Paths that name rows are all different, so the memory is emptied when it is full.
_MAX_REMEMBERED_URLS = 1000


class Client:
    """Client with one session and many requests in flight; an asynchronous context manager.

    Follows no redirect, because a redirected write may arrive with another method and at another host. After a 401 it
    renews the credentials once for each request: it requests another token, or looks the connection up again.

    :param connections: most connections at a time.
    :param timeout: seconds for a request; ``connect_timeout``: for connecting.
    :param lookup: function that builds the server again from the connection as it is now. It may block.
    :param where: sync and connection, for errors.
    :param max_reply_bytes: size above which a reply counts as lost; default: ``MAX_REPLY_BYTES``.
    """

    def __init__(
        self,
        server: Server,
        *,
        connections: int = 8,
        timeout: float = 60.0,
        connect_timeout: float = 10.0,
        lookup: Callable[[], Server] | None = None,
        where: Mapping[str, Any] | None = None,
        max_reply_bytes: int | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        import aiohttp

        self.server = server
        self._aiohttp: ModuleType = aiohttp
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=connect_timeout)
        self._lookup = lookup
        self._where = dict(where or {})
        self._max_reply_bytes = max_reply_bytes or MAX_REPLY_BYTES
        self._sleep = sleep
        self._renewing = asyncio.Lock()
        self._urls: dict[str, URL] = {}

    async def __aenter__(self) -> Self:
        aiohttp = self._aiohttp
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=self.server.ssl()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": USER_AGENT},
            timeout=self._timeout,
        )
        # aiohttp sends PUT and DELETE a second time when a connection breaks; the caller decides what is sent again.
        self._session._retry_connection = False
        self._proxy = self.server.proxy(self.server.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session. Requests in flight are cancelled."""
        await self._session.close()

    async def call(self, request: Request, retries: Retries) -> Reply:
        """Send a request, and repeat it as ``retries`` says; returns the last reply, whatever its status.

        :raises NotAnsweredError: the last attempt got no reply.
        """
        return await self.run(retries.flow(request))

    async def run(
        self, flow: Generator[Request | Wait, Any, Result], *, before: Callable[[], Awaitable[None]] | None = None
    ) -> Result:
        """Drive a flow: send the requests that it yields, and return its result.

        :param before: awaited before each request.
        """
        try:
            step = next(flow)
            while True:
                if isinstance(step, Wait):
                    await self._sleep(step.seconds)
                    step = flow.send(None)
                    continue
                if before is not None:
                    await before()
                try:
                    reply = await self.exchange(step)
                except NotAnsweredError as lost:
                    step = flow.throw(lost)
                else:
                    step = flow.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def exchange(self, request: Request) -> Reply:
        """Send a request once, twice if the credentials had to be renewed; returns the reply, whatever its status.

        :raises NotAnsweredError: no reply arrived.
        :raises CredentialsError: a token was refused.
        :raises ConfigurationError: the URL, a header or the certificate is not valid.
        """
        server = self.server
        sent = await self._authenticated(server, request)
        reply = await self._send(sent)
        if reply.status != 401 or not await self._renew(server, sent):
            return reply
        return await self._send(await self._authenticated(self.server, request))

    async def _authenticated(self, server: Server, request: Request) -> Request:
        """Return the request with its absolute URL, all headers and the credentials."""
        headers = {**server.headers, **(request.headers or {})}
        if request.body is not None:
            headers.setdefault("Content-Type", "application/json")
        whole = Request(request.method, server.join(request.url), request.body, headers)
        # One request at a time asks for a token; the others wait for it.
        async with self._renewing:
            signed = await self._signed(server.auth, whole)
        return Request(signed.method, server.join(signed.url), signed.body, signed.headers)

    async def _signed(self, auth: Auth, request: Request) -> Request:
        flow = auth.authenticate(request)
        if auth.blocking:
            return await asyncio.to_thread(_end, flow)
        try:
            step = next(flow)
            while True:
                step = flow.send(await self._token_reply(step))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _token_reply(self, request: Request) -> Reply:
        try:
            return await self._send(request)
        except NotAnsweredError as lost:
            raise no_token(lost) from None

    async def _renew(self, server: Server, refused: Request) -> bool:
        """Renew the credentials that a request was refused with; returns whether they differ now."""
        async with self._renewing:
            if self.server is not server or server.auth.forget(refused):
                return True
            if self._lookup is None:
                return False
            found = await asyncio.to_thread(self._lookup)
            self.server = found
            return found != server

    async def _send(self, request: Request) -> Reply:
        body: bytes | io.BytesIO | None = request.body
        if request.body is not None and len(request.body) > _LARGE_BODY_BYTES:
            body = io.BytesIO(request.body)  # sent in pieces, so that other requests proceed meanwhile
        try:
            async with self._session.request(
                request.method,
                self._url(request.url),
                data=body,
                headers=request.headers,
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                return Reply(response.status, await self._read(response), response.headers)
        except (self._aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise self._not_answered(error) from None

    def _url(self, text: str) -> URL:
        from yarl import URL

        url = self._urls.get(text)
        if url is None:
            if len(self._urls) > _MAX_REMEMBERED_URLS:
                self._urls.clear()
            url = URL(text, encoded=True)
            self._urls[text] = url
        return url

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        # A length is the size of what arrives only if the body is not compressed.
        length = response.content_length
        if length is not None and length <= self._max_reply_bytes and "Content-Encoding" not in response.headers:
            return await response.read()
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > self._max_reply_bytes:
                raise NotAnsweredError(
                    Outcome.UNKNOWN, "reply_too_large", "the reply is too large", host=self.server.host
                )
        return bytes(data)

    def _not_answered(self, error: Exception) -> Exception:
        """Return our exception for a failure of the transport. :class:`NotAnsweredError` explains the outcomes."""
        aiohttp = self._aiohttp
        host = self.server.host
        cause = getattr(error, "strerror", None) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            return no_secure_connection(str(error), host=host, **self._where)
        if isinstance(error, ValueError):  # aiohttp refused the URL or a header, and sent nothing
            return not_a_request(host=host, **self._where)
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return NotAnsweredError(Outcome.RETRYABLE, "unknown_host", f"host not found ({cause})", host=host)
        if isinstance(
            error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.ClientHttpProxyError
        ):
            return NotAnsweredError(Outcome.RETRYABLE, "not_connected", f"no connection ({cause})", host=host)
        code = "timeout" if isinstance(error, TimeoutError) else "disconnected"
        return NotAnsweredError(Outcome.UNKNOWN, code, f"the answer was lost ({cause})", host=host)


def _end(flow: Generator[Request, Reply, Result]) -> Result:
    """Return the result of a flow that yields no request."""
    try:
        next(flow)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("a blocking flow yields no request")


def no_token(error: Exception) -> Exception:
    """Return the error of a request that was not sent, as the request for its token failed."""
    if not isinstance(error, NotAnsweredError):
        return error
    lost = error.receipt
    return NotAnsweredError(Outcome.RETRYABLE, lost.code, f"no access token: {lost.message}", host=lost.host)


def no_secure_connection(problem: str, **where: object) -> ConfigurationError:
    """Build the error of a failed TLS handshake, which no repetition can help."""
    return ConfigurationError(
        f"no secure connection to the destination: {problem}",
        todo="check the host, its certificate, and the connection's 'verify'",
        **where,
    )


def not_a_request(**where: object) -> ConfigurationError:
    """Build the error of a request that the HTTP library refuses to send."""
    return ConfigurationError(
        "the URL or a header of the request is not valid",
        todo="correct the connection's host and headers, and the destination's path and headers",
        **where,
    )
