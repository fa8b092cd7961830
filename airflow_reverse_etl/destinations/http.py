"""Base class of HTTP destinations, and the driver that sends their requests.

A destination subclasses :class:`HttpDestination` and does no I/O. It has options, capabilities, a *flow* that yields
:class:`Request` and receives :class:`Reply`, and, if its API is special, its own status → action table. The engine
does the batching, pacing, waiting and retrying.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, final

from pydantic import Field

from airflow_reverse_etl.destinations.base import DestinationOptions, Setup
from airflow_reverse_etl.destinations.info import Account, Info
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, UnreachableError
from airflow_reverse_etl.http.auth.keys import NO_AUTH
from airflow_reverse_etl.http.client import Client
from airflow_reverse_etl.http.error_text import error_text
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request, value_at
from airflow_reverse_etl.http.rate_headers import allowed_rate, left_today, retry_after
from airflow_reverse_etl.http.redaction import MASK, clean, masked
from airflow_reverse_etl.http.retries import Retries
from airflow_reverse_etl.http.server import Server
from airflow_reverse_etl.http.status_table import ACTIONS, Action, action_of
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import DAILY_LIMIT, Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import (
    Capabilities,
    ConnectionInfo,
    DailyLimitError,
    Limiter,
    ObjectSchema,
    ShownRequest,
)

__all__ = [
    "ACTIONS",
    "Action",
    "Flow",
    "HttpDestination",
    "HttpOptions",
    "NotAnsweredError",
    "Reply",
    "Request",
]

T = TypeVar("T")

#: Outcome of a request's rows by the action of its status; the other actions stop the load.
_OUTCOMES = {
    Action.ACCEPT: Outcome.ACCEPTED,
    Action.REJECT: Outcome.REJECTED,
    Action.REFUSE: Outcome.REJECTED,
    Action.CONFLICT: Outcome.CONFLICT,
    Action.RETRY: Outcome.RETRYABLE,
    Action.THROTTLE: Outcome.RETRYABLE,
    Action.UNKNOWN: Outcome.UNKNOWN,
    Action.SKIP: Outcome.SKIPPED,
    Action.PARTIAL: Outcome.UNKNOWN,
}
ALL_ACCEPTED = Receipts()

#: Generator that yields requests, receives their replies and returns the receipts of a batch.
Flow = Generator[Request, Reply, Receipts]


class HttpOptions(DestinationOptions):
    """Options of every HTTP destination."""

    connection: str
    timeout: Annotated[float, Field(gt=0, description="timeout of a request, in seconds")] = 60.0
    connect_timeout: Annotated[float, Field(gt=0, description="timeout of connecting, in seconds")] = 10.0


class HttpDestination:
    """Base class of HTTP destinations. See ``docs/how-to/write-a-destination.md``.

    Sends a batch once and returns its receipts. Never waits, never retries, and never follows a redirect, because a
    redirected write may arrive with another method and at another host.
    """

    info: ClassVar[Info]
    Options: ClassVar[type[HttpOptions]] = HttpOptions
    needs_match_on: ClassVar[frozenset[Operation]] = frozenset({Operation.DELETE})
    #: Statuses that have another meaning in this API than usual.
    actions: Mapping[int, Action] = {}
    #: Codes of whole replies that say more than the status.
    codes: Mapping[str, Action] = {}
    #: Size of a reply above which it counts as lost; None for the usual one.
    max_reply_bytes: ClassVar[int | None] = None
    capabilities: Capabilities

    def __init__(self, setup: Setup) -> None:
        if setup.connection is None:
            raise CredentialsError(
                "an HTTP destination needs a connection", todo="set destination.connection", sync=setup.sync.name
            )
        self.sync = setup.sync
        self.options = setup.options
        self._setup = setup
        self._client: Client | None = None
        self.known_account = ""
        self._first_server = self._server(setup.connection)
        self.address = setup.address(getattr(setup.options, "path", None), server=self._first_server.place)

    @property
    def server(self) -> Server:
        """The server of the connection, as it was when it was last looked up."""
        return self._client.server if self._client else self._first_server

    @property
    def _lookup(self) -> Callable[[], Server] | None:
        """Function that builds the server from the connection as it is now, for credentials that were renewed."""
        lookup = self._setup.lookup
        if lookup is None:
            return None
        return lambda: self._server(lookup(self.options.connection))

    @property
    def where(self) -> dict[str, str]:
        """Connection, sync and host, for errors."""
        return {"connection": self.options.connection, "sync": self.sync.name, "host": self.server.host}

    def _server(self, connection: ConnectionInfo) -> Server:
        info = self.info
        return Server.from_connection(
            connection, self._setup.lookup, base_url=info.base_url, auth_header=info.auth_header
        )

    @property
    def account_request(self) -> Account | None:
        """The request that tells the account of the credentials; default: the one in ``info``."""
        return self.info.account

    def records_url(self) -> str:
        """Return the address at which people see the records of the object; empty if it is not known.

        A type with a website of its own overrides it. :attr:`known_account` has the account, once a run has asked.
        """
        return ""

    def fields(self) -> Generator[Request, Reply, ObjectSchema]:
        """Return the fields of the object, from the replies to requests that only read.

        A type that knows its fields overrides it, and calls :meth:`checked` with each reply.
        """
        raise NotImplementedError

    def flow(self, batch: Batch) -> Flow:
        """Turn a batch into receipts, with as many requests as the API needs. Pure: no I/O, no clock."""
        raise NotImplementedError

    def error_text(self, batch: Batch, reply: Reply) -> tuple[str, str]:  # noqa: ARG002 - for subclasses
        """Return an error's code and message in the API's own words; either may be empty."""
        return error_text(reply)

    @final
    def answer(
        self,
        batch: Batch,
        reply: Reply,
        actions: Mapping[int, Action] | None = None,
        words: tuple[str, str] | None = None,
    ) -> Receipts:
        """Return the receipts that the status alone decides, by the status table.

        :param actions: entries that take precedence over the destination's own.
        :param words: the error's code and message; default: those of :meth:`error_text`.
        :raises CredentialsError: the status means that the credentials were refused.
        :raises ConfigurationError: the status means that no row can succeed.
        """
        by_code = None if reply.status in (actions or {}) else self.code_of(reply)
        action = by_code or action_of(reply.status, actions or {}, self.actions, ACTIONS)
        if action is Action.ACCEPT:
            return Receipts(taken=reply.status == 202)
        code, message = (self.clean(text, batch) for text in words or self.error_text(batch, reply))
        if action in (Action.CREDENTIALS, Action.CONFIGURATION):
            self._stop(action, reply, message)
        receipt = Receipt(
            _OUTCOMES[action],
            code or str(reply.status),
            message or f"HTTP status {reply.status}",
            self.server.host,
            reply.status,
        )
        wait = retry_after(reply) if action in (Action.THROTTLE, Action.RETRY) else None
        refused_whole = action in (Action.REFUSE, Action.CONFLICT) and len(batch) > 1
        throttled = action is Action.THROTTLE
        return Receipts(receipt, refused_whole=refused_whole, retry_after=wait, throttled=throttled)

    @final
    def code_of(self, reply: Reply) -> Action | None:
        """Return the meaning of an error's code, by ``codes``; None if only the status has one."""
        return self.codes.get(error_text(reply)[0]) if self.codes and reply.status >= 300 else None

    @final
    def checked(self, reply: Reply) -> Any:
        """Return the body of a reply to a request that only reads, as JSON.

        :raises CredentialsError: the credentials were refused.
        :raises ConfigurationError: the path does not exist, or the body is not JSON.
        :raises UnreachableError: the API did not answer, or failed.
        """
        if reply.status >= 300:
            nothing = Batch(Operation.UPSERT, [], [], [])
            receipt = self.answer(nothing, reply).default
            raise UnreachableError(
                f"the destination answered {reply.status}: {receipt.message}",
                todo="let the task try again; if it fails again, report it to the API's operator",
                **self.where,
            )
        answer = reply.json()
        if answer is None:
            raise ConfigurationError(
                f"the destination answered {reply.status}, but the reply is not JSON",
                todo="check the connection's URL, and its proxies",
                **self.where,
            )
        return answer

    @final
    @property
    def describes_fields(self) -> bool:
        """True if the type knows the fields of its object."""
        return type(self).fields is not HttpDestination.fields

    @final
    @property
    def tells_account(self) -> bool:
        """True if a request tells the account of the credentials."""
        return self.account_request is not None

    @final
    async def describe(self) -> ObjectSchema:
        """Return the fields of the object.

        :raises CredentialsError: the credentials were refused.
        :raises UnreachableError: the API did not answer, or failed.
        """
        return await self._read(self.fields())

    @final
    async def account(self) -> str:
        """Return the id of the credentials' account.

        :raises CredentialsError: the credentials were refused.
        :raises ConfigurationError: the reply has no account.
        :raises UnreachableError: the API did not answer, or failed.
        """
        asked = self.account_request
        assert asked is not None, "ask only if it tells the account"

        def flow() -> Generator[Request, Reply, str]:
            found = value_at(self.checked((yield Request("GET", asked.path))), asked.value.split("."))
            if isinstance(found, str | int) and found != "":
                self.known_account = str(found)
                return self.known_account
            raise ConfigurationError(
                f"the reply has no account at {asked.value!r}",
                todo="correct `account` in the destination",
                **self.where,
            )

        return await self._read(flow())

    async def _read(self, flow: Generator[Request, Reply, T]) -> T:
        """Drive a flow of requests that only read, each of which is repeated if that may help."""
        assert self._client is not None, "open the destination first"
        try:
            return await self._client.run(Retries().around(flow), before=self._limiter.acquire)
        except NotAnsweredError as lost:
            raise UnreachableError(
                f"no answer from the destination: {lost}",
                todo="check the host; the task's next try asks again",
                **self.where,
            ) from None

    @final
    def clean(self, message: str, batch: Batch) -> str:
        """Return a message of the remote on one line, of bounded length, without the rows' values and our secrets."""
        return clean(message, self.server.secrets, batch.records)

    def _stop(self, action: Action, reply: Reply, message: str) -> NoReturn:
        where = self.where
        text = f"the destination answered {reply.status}"
        if message:
            text += f": {message}"
        if action is Action.CREDENTIALS:
            raise CredentialsError(text, todo="check the connection's credentials and their permissions", **where)
        if 300 <= reply.status < 400:
            raise ConfigurationError(
                f"{text}: a redirect, which is not followed for a write",
                todo="put the URL that the API redirects to into the connection or the path",
                **where,
            )
        raise ConfigurationError(text, todo="check the connection's URL, the path and the method", **where)

    # -- the driver ----------------------------------------------------------------------------------------------

    @final
    async def open(self, limiter: Limiter) -> None:
        """Create the session. Sends no request."""
        self._limiter = limiter
        client = Client(
            self.server,
            connections=self.capabilities.limits(self.sync).concurrency,
            timeout=self.options.timeout,
            connect_timeout=self.options.connect_timeout,
            lookup=self._lookup,
            where={"connection": self.options.connection, "sync": self.sync.name},
            max_reply_bytes=self.max_reply_bytes,
        )
        self._client = await client.__aenter__()

    @final
    async def close(self) -> None:
        """Close the session. Requests in flight are cancelled."""
        if self._client is not None:
            await self._client.__aexit__()

    @final
    async def send(self, batch: Batch) -> Receipts:
        """Run the flow of a batch."""
        flow = self.flow(batch)
        requests = 0
        left: int | None = None
        rate: float | None = None
        may_have_written = False
        try:
            request = next(flow)
            while True:
                requests += 1
                try:
                    reply = await self._exchange(request)
                except NotAnsweredError as lost:
                    request = flow.throw(lost)
                    continue
                may_have_written = may_have_written or not 400 <= reply.status < 500
                left = left_today(reply)
                rate = allowed_rate(reply) or rate
                request = flow.send(reply)
        except StopIteration as end:
            receipts: Receipts = end.value
            if requests == 1 and left is None and rate is None:
                return receipts
            return replace(receipts, requests=requests, left_today=left, allowed_rate=rate)
        except NotAnsweredError as lost:
            receipt = lost.receipt
            if may_have_written:  # by an earlier request of this flow
                receipt = replace(receipt, outcome=Outcome.UNKNOWN)
            return Receipts(receipt, requests=requests)

    @final
    def first_request(self, batch: Batch) -> ShownRequest:
        """Return the first request of a batch's flow. No reply is made up, so later requests are only mentioned."""
        flow = self.flow(batch)
        try:
            request = next(flow)
        except StopIteration as end:
            receipts: Receipts = end.value
            reasons = {receipt.message for receipt in (receipts.default, *receipts.exceptions.values())}
            return ShownRequest("no request", notes=tuple(sorted(filter(None, reasons))))
        flow.close()
        server = self.server
        # Any header of a connection may be a credential.
        headers = dict.fromkeys(server.headers, MASK) | dict(request.headers or {})
        body = ""
        if request.body is not None:
            headers.setdefault("Content-Type", "application/json")
            body = masked(request.body.decode(errors="replace"), server.secrets)
        notes = ["requests after this one, if there are any, depend on its answer"]
        if server.auth is not NO_AUTH:
            notes.insert(0, "the connection's credentials are added when it is sent")
        line = f"{request.method} {masked(server.join(request.url), server.secrets)}"
        return ShownRequest(line, headers, body, tuple(notes))

    async def _exchange(self, request: Request) -> Reply:
        assert self._client is not None, "open the destination first"
        try:
            await self._limiter.acquire()
        except DailyLimitError as error:
            raise NotAnsweredError(Outcome.RETRYABLE, DAILY_LIMIT, str(error), host=self.server.host) from None
        return await self._client.exchange(request)
