"""Contenders: bare aiohttp. Extract, encode, post; nothing is compared or kept.

As its documentation shows it, ``fetchmany`` and ``json=``; or, with ``fastest`` as the second argument, what can be had
at most from Python and aiohttp: rows as Arrow, bodies by orjson.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import duckdb
import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

_JSON = {"Content-Type": "application/json"}


def plain(database: str, rows: int, size: int) -> Iterator[dict[str, Any]]:
    """What each request is made with, ``size`` rows of the model in it."""
    with duckdb.connect(database, read_only=True) as connection:
        cursor = connection.execute(f"select * from customers limit {rows}")
        names = [name for name, *_ in cursor.description]
        while found := cursor.fetchmany(size):
            records = [dict(zip(names, row, strict=True)) for row in found]
            yield {"json": {"records": records} if size > 1 else records[0]}


def fastest(database: str, rows: int, size: int) -> Iterator[dict[str, Any]]:
    """The same, encoded."""
    with duckdb.connect(database, read_only=True) as connection:
        reader = connection.sql(f"select * from customers limit {rows}").to_arrow_reader(size * max(1, 8192 // size))
        for batch in reader:
            records = batch.to_pylist()
            for start in range(0, len(records), size):
                body = {"records": records[start : start + size]} if size > 1 else records[start]
                yield {"data": orjson.dumps(body), "headers": _JSON}


async def send(task: dict[str, Any], requests: Iterator[dict[str, Any]]) -> None:
    connector = aiohttp.TCPConnector(limit=task["concurrency"])
    async with aiohttp.ClientSession(connector=connector) as session:

        async def work() -> None:
            for request in requests:
                async with session.post(task["url"], **request) as reply:
                    await reply.read()

        await asyncio.gather(*(work() for _ in range(task["concurrency"])))


if __name__ == "__main__":
    started = time.perf_counter()
    what = json.loads(sys.argv[1])
    made = fastest if sys.argv[2:] == ["fastest"] else plain
    asyncio.run(send(what, made(what["database"], what["rows"], what["batch"])))
    print(json.dumps({"seconds": time.perf_counter() - started}))
