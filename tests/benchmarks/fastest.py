"""Contender: what can be had at most from Python and aiohttp: rows as Arrow, bodies by orjson.

Extract, encode, post; nothing is compared or kept.
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


def bodies(database: str, rows: int, size: int) -> Iterator[bytes]:
    """The rows of the model, encoded, ``size`` in each."""
    with duckdb.connect(database, read_only=True) as connection:
        reader = connection.sql(f"select * from customers limit {rows}").to_arrow_reader(size * max(1, 8192 // size))
        for batch in reader:
            records = batch.to_pylist()
            if size == 1:
                yield from map(orjson.dumps, records)
            else:
                for start in range(0, len(records), size):
                    yield orjson.dumps({"records": records[start : start + size]})


async def send(task: dict[str, Any]) -> None:
    todo = bodies(task["database"], task["rows"], task["batch"])
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=task["concurrency"])
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def work() -> None:
            for body in todo:
                async with session.post(task["url"], data=body) as reply:
                    await reply.read()

        await asyncio.gather(*(work() for _ in range(task["concurrency"])))


if __name__ == "__main__":
    started = time.perf_counter()
    asyncio.run(send(json.loads(sys.argv[1])))
    print(json.dumps({"seconds": time.perf_counter() - started}))
