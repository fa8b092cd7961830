"""A bulk API for processes of their own, as the destination type ``bulk``, which may kill its client at any arrow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from airflow_reverse_etl.destinations.base import DestinationOptions, Setup
from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, JobRef, JobState, Receipt, Receipts
from airflow_reverse_etl.sync.ports import Capabilities, ConnectionInfo, JobTerms, Limiter, Support
from airflow_reverse_etl.testing import CrashError, FakeBulkApi
from airflow_reverse_etl.testing.jobs import Arrow

#: An API without operations that are safe to send twice.
CAPABILITIES = Capabilities(dict.fromkeys(Operation, Support(idempotent=False, answers="row", max_rows=100)))
Kind = Literal["on_close", "at_once"]


class BulkServer(FakeBulkApi):
    """A fake bulk API on a port. ``dials.die`` kills the client's process, and ``killed`` says where that was.

    ``polled`` counts the questions for the state of a job, by the process that asked.
    """

    def __init__(self, starts: Kind, **more: Any) -> None:
        super().__init__(starts, capabilities=CAPABILITIES, **more)
        self.killed: list[Arrow] = []
        self.polled: Counter[int] = Counter()
        self.port = 0
        self._client = 0
        self._flows: dict[Any, AsyncGenerator[Any, None]] = {}

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    @contextmanager
    def in_thread(self) -> Iterator[BulkServer]:
        """Serve for the block, for clients that are programs."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(self.serve(), loop).result(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def connection(self, conn_id: str = "bulk") -> ConnectionInfo:
        return ConnectionInfo(conn_id, "generic", "127.0.0.1", self.port)

    def written(self) -> Counter[str]:
        """Return how often each record was written."""
        return Counter(key for _, key in self.table.writes)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client, call, *arguments = pickle.loads(await reader.read())
        with contextlib.closing(writer), contextlib.suppress(CrashError):  # nobody is there to hear it
            answer = await getattr(self, f"_on_{call}")(*arguments)
            writer.write(pickle.dumps(answer))

    async def _on_submit(self, batch: Batch) -> Any:
        flow = self.submit(batch)
        first = await anext(flow)
        self._flows[first if isinstance(first, str) else ""] = flow
        return first

    async def _on_upload(self, job: str) -> Any:
        return await anext(self._flows.pop(job), None)

    async def _on_poll(self, ref: JobRef) -> JobState:
        self.polled[self._client] += 1
        return await self.poll(ref)

    async def _on_abort(self, ref: JobRef) -> None:
        await self.abort(ref)

    async def _on_collect(self, ref: JobRef, batch: Batch) -> None:
        self._flows[ref.job, self._client] = self.collect(ref, batch)

    async def _on_page(self, ref: JobRef) -> Mapping[str, Receipt] | None:
        return await anext(self._flows[ref.job, self._client], None)

    def _die(self, at: Arrow) -> None:
        if self.dials.die == at:
            self.dials.die = ""
            self.killed.append(at)
            os.kill(self._client, signal.SIGKILL)
            raise CrashError(at)


class Bulk:
    """Destination type ``bulk``. Its ``object`` says of which kind the API is, and the connection where it is."""

    Options: ClassVar[type[DestinationOptions]] = DestinationOptions
    needs_match_on: ClassVar[frozenset[Operation]] = frozenset()
    capabilities = CAPABILITIES

    def __init__(self, setup: Setup) -> None:
        assert setup.connection is not None
        self._connection = setup.connection
        self._starts: Any = setup.options.object
        self.poll_seconds = float(setup.connection.extra.get("poll_seconds", 0.02))

    @classmethod
    def for_jobs(cls, connection: ConnectionInfo | None) -> Bulk:
        """Return one that asks for jobs, whose options do not matter."""
        options = DestinationOptions(type="bulk", object="on_close")
        return cls(Setup(None, options, connection))  # type: ignore[arg-type]

    async def open(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def close(self) -> None: ...

    async def send(self, batch: Batch) -> Receipts:
        raise AssertionError("all rows go in jobs")

    def job_terms(self, operation: Operation, rows: int) -> JobTerms:
        return JobTerms(self._starts, max_rows=50)

    async def submit(self, batch: Batch) -> AsyncGenerator[str | Receipts, None]:
        first = await self._ask("submit", batch)
        yield first
        if isinstance(first, str) and (receipts := await self._ask("upload", first)):
            yield receipts

    async def poll(self, ref: JobRef) -> JobState:
        state: JobState = await self._ask("poll", ref)
        return state

    async def abort(self, ref: JobRef) -> None:
        await self._ask("abort", ref)

    async def collect(self, ref: JobRef, batch: Batch) -> AsyncGenerator[Mapping[str, Receipt], None]:
        await self._ask("collect", ref, batch)
        while (page := await self._ask("page", ref)) is not None:
            yield page

    async def _ask(self, *call: Any) -> Any:
        await self._limiter.acquire()
        try:
            reader, writer = await asyncio.open_connection(self._connection.host, self._connection.port)
            writer.write(pickle.dumps((os.getpid(), *call)))
            writer.write_eof()
            answer = await reader.read()
        except OSError as error:
            raise UnreachableError("the bulk API does not answer", todo="try again later") from error
        writer.close()
        return pickle.loads(answer)


def install(folder: Path) -> Path:
    """Write the metadata of a package that provides the type, for processes with this folder in their path."""
    metadata = folder / "bulk-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bulk\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[airflow_reverse_etl.destinations]\nbulk = tests.bulk_api:Bulk\n")
    return folder
